"""The tables of a benchmark: implementations measured in turn in one run, as ratios, and how often the demonstrators succeed."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.benchmarks.config import BenchmarkConfig
from worldmodel.benchmarks.reading import reading_rows
from worldmodel.benchmarks.reference_library import REFERENCE_TASKS, reference_installed, reference_rates
from worldmodel.benchmarks.throughput import Rates, collecting_rates, drawing_rates
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.envs import make_task
from worldmodel.envs.demonstrators import solves

BenchmarkRow = dict[str, Any]


def tables(config: BenchmarkConfig, machine: dict[str, Any]) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Measure what is asked for and yield its tables one after the other; facts found on the way are added to `machine`."""
    if config.what == "train":
        from worldmodel.benchmarks.training import training_tables  # torch, which the other benchmarks need not wait for

        yield from training_tables(config, machine)
        return
    measurements: dict[str, dict[str, Callable[[BenchmarkConfig], Iterator[BenchmarkRow]]]] = {
        "envs": {"drawing": drawing, "collecting": collecting},
        "data": {"reading": reading, "waiting": waiting},
        "demonstrators": {"demonstrators": demonstrators},
    }
    for title, measure in measurements[config.what].items():
        yield title, list(measure(config))


def drawing(config: BenchmarkConfig) -> Iterator[BenchmarkRow]:
    """Measure stepping and drawing each task at each size, with the preset and with MuJoCo's stock settings; yield a row for each."""
    cases = [(task, size) for task in config.tasks for size in config.image_sizes]
    for task, size in tqdm(cases, unit="case", desc="drawing", disable=None):
        rates = drawing_rates(task, size, config.seconds, config.repeats)
        yield row_of(task, size, "fast", rates["fast"], "MuJoCo's default", rates["full"])


def collecting(config: BenchmarkConfig) -> Iterator[BenchmarkRow]:
    """Measure frames/s written to a file, a bare loop's and a reference implementation's; yield a row for each task."""
    size = config.image_sizes[0]
    for task in tqdm(config.tasks, unit="task", desc="collecting", disable=None):
        plan = CollectConfig(task, None, config.episodes, workers=config.workers, policies={"random": 1.0}, image_size=size)
        rates = collecting_rates(plan, config.repeats)
        yield row_of(task, size, "collect", rates["collect"], "bare loop", rates["bare"])
        if task in REFERENCE_TASKS and reference_installed():
            reference = reference_rates(plan, config.repeats)
            yield row_of(task, size, "collect", reference["collect"], f"{REFERENCE_TASKS[task]} World.collect", reference["reference"])


def reading(config: BenchmarkConfig) -> Iterator[BenchmarkRow]:
    """Measure every way to read each file, a reference's too where one is installed; the ways take turns, each gives a row."""
    cases = [(task, size) for task in config.tasks for size in config.image_sizes]
    for task, size in tqdm(cases, unit="case", desc="data", disable=None):
        plan = CollectConfig(task, None, config.episodes, workers=config.workers, policies={"random": 1.0}, image_size=size)
        with tempfile.TemporaryDirectory() as folder:
            for row in reading_rows(plan, Path(folder), config.clip_frames, config.clips, config.repeats):
                yield {"task": task, "px": size} | row


def waiting(config: BenchmarkConfig) -> Iterator[BenchmarkRow]:
    """Measure what a training step waits for data; yield a row for each number of packing processes."""
    from worldmodel.benchmarks.waiting import waiting_rows
    from worldmodel.presets import tiny  # torch, which the other benchmarks need not wait for

    with tempfile.TemporaryDirectory() as folder:
        yield from waiting_rows(Path(folder), config.episodes, config.steps, [0, config.workers], tiny())


def row_of(task: str, size: int, name: str, rates: Rates, other_name: str, other: Rates) -> BenchmarkRow:
    """Compare two rates in one row."""
    return {
        "task": task,
        "px": size,
        "side": name,
        "frames/s": rates.median,
        "range": rates.spread,
        "beside": other_name,
        "its frames/s": other.median,
        "its range": other.spread,
        "ratio": rates.median / other.median,
    }


def demonstrators(config: BenchmarkConfig) -> Iterator[BenchmarkRow]:
    """Count how many seeds the demonstrator and random actions solve; yield a row for each task."""
    for env_id in tqdm(config.tasks, unit="task", desc="demonstrators", disable=None):
        task = make_task(env_id)
        row: BenchmarkRow = {"task": env_id, "seeds": config.seeds}
        for label, options in (("", {}), (", all factors", {"variation": "all"})):
            for name, policy_of in (("demonstrator", task.demonstrator), ("random", random_policy(len(task.action_names)))):
                row[name + label] = sum(solves(task, policy_of, seed, options) for seed in range(config.seeds))
        task.close()
        yield row


def random_policy(size: int) -> Any:
    """Make a policy for `solves` that draws uniform actions (size,)."""
    return lambda rng: lambda obs, info: rng.uniform(-1, 1, size).astype(np.float32)
