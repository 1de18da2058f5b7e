"""Measure speeds, as ratios of implementations measured in turn in one run, or how often the demonstrators succeed.

Drawing and collecting (`envs`), reading episode files and waiting for them (`data`), training steps (`train`), demonstrators of all
tasks (`demonstrators`).
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro
from tqdm import tqdm

from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.collection.reference_library import REFERENCE_TASKS, reference_installed, reference_rates
from worldmodel.datasets.collection.throughput import Rates, collecting_rates, drawing_rates
from worldmodel.datasets.outputs import check_output, json_bytes, write_output
from worldmodel.envs import make_task, task_ids
from worldmodel.envs.demonstrators import solves
from worldmodel.errors import UserError
from worldmodel.scripts.benchmark_reading import reading_rows, torchvision_decodes
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.system_info import command_line, machine

BenchmarkRow = dict[str, Any]
Part = Literal["speed", "checks", "attention", "compilation", "optimizers", "precision", "waiting"]
PARTS: tuple[Part, ...] = get_args(Part)
PresetName = Literal["tiny", "small", "base"]
DATA_TASKS = ("worldmodel/PushT-v0", "worldmodel/Ant-v0")
"""Flat colors and a shaded 3-D scene."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Speeds as ratios, or success of the demonstrators."""

    what: Annotated[Literal["envs", "data", "train", "demonstrators"], tyro.conf.Positional] = "envs"
    """envs: frames/s of drawing and collecting. data: clips/s of reading, and what training waits. train: what limits a training step,
    with targets. demonstrators: solved seeds, with random actions as control."""
    tasks: tuple[str, ...] = ()
    """Task ids; by default all tasks of the suite, for data PushT and Ant."""
    image_sizes: tuple[int, ...] = ()
    """envs, data: height and width of the frames, in pixels; by default 64 128 224, for data 64 224."""
    seconds: float = 1.0
    """envs: time of one measurement of drawing. train: of one measurement, at least one step."""
    repeats: int = 5
    """envs, data, train: measurements of each side; the table shows their median and their range or quartiles."""
    episodes: int = 200
    """envs: episodes of 50 steps in one measurement of collecting. data, train: in the file that is read."""
    workers: int = 2
    """envs: processes that collect, and that run the bare loop. data: of the loaders, compared with one thread and none. train:
    that pack batches for a GPU."""
    clips: int = 2048
    """data: clips in one measurement, in batches of 32; every file is in the page cache."""
    clip_frames: int = 4
    """data: frames of a clip."""
    steps: int = 0
    """data, train: training steps in which waiting for data is measured; by default 100, for train 30."""
    parts: tuple[Part, ...] = PARTS
    """train: what to measure. speed: steps beside a matrix product, a mixture of experts beside a dense model, the mask beside a step.
    checks: whether the fast ways compute what the plain ones do. attention, compilation, optimizers, precision: each way beside the
    other. waiting: for data."""
    preset: PresetName | None = None
    """train: sizes of model and batch; by default base on a GPU, tiny on a CPU."""
    device: str = "auto"
    """train: auto: the first GPU, else the CPU."""
    seeds: int = 100
    """demonstrators: seeds of each task, with the factors at their defaults and with all factors sampled."""
    out: Path | None = None
    """Write the figures to this JSON file too."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        object.__setattr__(self, "steps", self.steps or (30 if self.what == "train" else 100))
        positive = {name: 1 for name in ("repeats", "episodes", "workers", "seeds", "clips", "steps")}
        for name, least in (positive | {"clip_frames": 2}).items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}")
        is_data = self.what == "data"
        object.__setattr__(self, "tasks", self.tasks or (DATA_TASKS if is_data else tuple(task_ids())))
        object.__setattr__(self, "image_sizes", self.image_sizes or ((64, 224) if is_data else (64, 128, 224)))
        if not self.seconds > 0:
            raise UserError(f"--seconds {self.seconds} must be more than 0")
        if self.out is not None:
            check_output(self.out, (".json",), overwrite=self.overwrite)


def main(config: BenchmarkConfig) -> None:
    """Measure; print each table and write the figures so far as soon as it is measured."""
    facts: dict[str, Any] = {"command": command_line("benchmark"), "machine": machine_of(config)}
    for title, rows in tables(config, facts["machine"]):
        facts.setdefault(title, []).extend(rows)
        print(f"\n{title}")
        print_columns([tuple(rows[0]), *(tuple(map(text_of, row.values())) for row in rows)])
        if config.out is not None:
            write_output(config.out, json_bytes(json.loads(json.dumps(facts, default=str)), indent=1))
    if config.out is not None:
        print(f"\nwrote {config.out}")


def tables(config: BenchmarkConfig, machine: dict[str, Any]) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Measure what is asked for and yield its tables one after the other; facts found on the way are added to `machine`."""
    if config.what == "train":
        from worldmodel.scripts.benchmark_training import training_tables  # torch, which the other benchmarks need not wait for

        yield from training_tables(config, machine)
        return
    measurements: dict[str, dict[str, Callable[[BenchmarkConfig], Iterator[BenchmarkRow]]]] = {
        "envs": {"drawing": drawing, "collecting": collecting},
        "data": {"reading": reading, "waiting": waiting},
        "demonstrators": {"demonstrators": demonstrators},
    }
    for title, measure in measurements[config.what].items():
        yield title, list(measure(config))


def machine_of(config: BenchmarkConfig) -> dict[str, Any]:
    """Describe the machine and the versions that figures are measured with."""
    facts = machine("mujoco", "gymnasium", "numpy") | {"load": [round(load, 2) for load in os.getloadavg()]}
    if config.what == "data":
        facts |= {"stable_worldmodel": str(reference_installed()), "its JPEG decoder": str(torchvision_decodes())}
    return facts


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
    from worldmodel.presets import tiny  # torch, which the other benchmarks need not wait for
    from worldmodel.scripts.benchmark_waiting import waiting_rows

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


def text_of(value: Any) -> str:
    """Format a figure as a cell of a table."""
    if isinstance(value, tuple):
        return "-".join(text_of(part) for part in value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


if __name__ == "__main__":
    sys.exit(run_verb("benchmark", lambda: main, sys.argv[1:]))
