"""Speed of drawing and of collecting, as ratios: both sides in one run, taking turns, because machines are noisy."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.envs import make_task


@dataclass(frozen=True)
class Rates:
    """Frames per second of one side, one number a repetition."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repetition."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest repetition."""
        return min(self.samples), max(self.samples)


def interleave(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Rates]:
    """Measure every side once per repetition, in an order that turns round each time.

    Args:
        sides: Name -> a call that works for a while and returns its frames per second.
        repeats: How often each side is called.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in sorted(sides, reverse=bool(repeat % 2)):
            samples[name].append(sides[name]())
    return {name: Rates(tuple(values)) for name, values in samples.items()}


def drawing_rates(env_id: str, image_size: int, seconds: float, repeats: int) -> dict[str, Rates]:
    """Measure frames per second of physics and drawing, nothing else, in one process.

    `fast` is the preset that every task uses, `full` the same scene with MuJoCo's stock quality and a lamp.
    """
    tasks = {quality: make_task(env_id, image_size=image_size, render_quality=quality) for quality in ("fast", "full")}
    rng = np.random.default_rng(0)

    def measure(task: Any) -> float:
        frames, start = 0, time.perf_counter()
        while frames < 2 or time.perf_counter() - start < seconds:
            task.advance(rng.uniform(-1, 1, len(task.action_names)))
            task.render()
            frames += 1
        return frames / (time.perf_counter() - start)

    for task in tasks.values():
        task.reset(seed=0)  # opens the renderer
    rates = interleave({name: functools.partial(measure, task) for name, task in tasks.items()}, repeats)
    for task in tasks.values():
        task.close()
    return rates


def collecting_rates(config: CollectConfig, repeats: int) -> dict[str, Rates]:
    """Measure frames per second of `collect`, from its start to the finished file, next to a bare loop of `step`.

    `bare` starts as many processes, plays as many episodes of as many random actions with the same resets, and
    keeps nothing. The start of the processes counts on both sides.
    """

    def collected() -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = collect(_renamed(config, Path(folder) / "episodes.h5"))
        return result.frames / result.seconds

    return interleave({"bare": lambda: bare_rate(config), "collect": collected}, repeats)


def _renamed(config: CollectConfig, out: Path) -> CollectConfig:
    return CollectConfig(**{**vars(config), "out": out})


def bare_rate(config: CollectConfig) -> float:
    """Measure frames per second of `reset` and `step` alone, in `config.workers` processes."""
    start = time.perf_counter()
    shares = [len(range(worker, config.episodes, config.workers)) for worker in range(config.workers)]
    processes = [get_context("spawn").Process(target=_bare_loop, args=(config, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process of the bare loop failed; its message is above")
    return config.episodes * (config.max_steps + 1) / (time.perf_counter() - start)


def _bare_loop(config: CollectConfig, episodes: int) -> None:
    task = make_task(config.env, image_size=config.image_size)
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        task.reset(seed=episode)
        for _ in range(config.max_steps):
            task.step(rng.uniform(-1, 1, len(task.action_names)).astype(np.float32))
    task.close()
