"""Measure speeds, as ratios of sides that take turns in one run, or how often the demonstrators succeed.

Drawing and collecting (`envs`), reading episode files (`data`), demonstrators of all tasks (`demonstrators`).
"""

import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

import worldmodel
from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.collection.peer import PEER_FORMATS, PEER_TASKS, peer_installed, peer_rates
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.collection.speed import Rates, collecting_rates, drawing_rates
from worldmodel.datasets.episodes.loading_speed import loader_rates, reading_rates, stored_bytes, write_files
from worldmodel.envs import make_task, task_ids
from worldmodel.envs.demonstrators import solves
from worldmodel.errors import UserError
from worldmodel.scripts.console import print_columns, run_verb

Row = dict[str, Any]
DATA_TASKS = ("worldmodel/PushT-v0", "worldmodel/Ant-v0")
"""Flat colours and a shaded 3-D scene."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Speeds as ratios, or success of the demonstrators."""

    what: Annotated[Literal["envs", "data", "demonstrators"], tyro.conf.Positional] = "envs"
    """envs: frames/s of drawing and collecting. data: clips/s of reading. demonstrators: solved seeds, beside random actions."""
    tasks: tuple[str, ...] = ()
    """Task ids; by default all tasks of the suite, for data PushT and Ant."""
    image_sizes: tuple[int, ...] = ()
    """envs, data: height and width of the frames, in pixels; by default 64 128 224, for data 64 224."""
    seconds: float = 1.0
    """envs: time of one measurement of drawing."""
    repeats: int = 5
    """envs, data: measurements of each side; the table shows their median and their range."""
    episodes: int = 200
    """envs: episodes of 50 steps in one measurement of collecting. data: in the file that is read."""
    workers: int = 2
    """envs: processes that collect, and that run the bare loop beside it. data: of the loaders, beside none."""
    clips: int = 2048
    """data: clips in one measurement."""
    clip_frames: int = 4
    """data: frames of a clip."""
    seeds: int = 100
    """demonstrators: seeds of each task, with the factors at their defaults and with all factors sampled."""
    out: Path | None = None
    """Write the figures to this JSON file too."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        for name, least in (("repeats", 1), ("episodes", 1), ("workers", 1), ("seeds", 1), ("clips", 1), ("clip_frames", 2)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}")
        is_data = self.what == "data"
        object.__setattr__(self, "tasks", self.tasks or (DATA_TASKS if is_data else tuple(task_ids())))
        object.__setattr__(self, "image_sizes", self.image_sizes or ((64, 224) if is_data else (64, 128, 224)))
        if not self.seconds > 0:
            raise UserError(f"--seconds {self.seconds} must be more than 0")


def main(config: BenchmarkConfig) -> None:
    """Measure, print a table, write the figures."""
    if config.what == "demonstrators":
        tables = {"demonstrators": list(demonstrators(config))}
    elif config.what == "data":
        tables = reading(config)
    else:
        tables = {"drawing": list(drawing(config)), "collecting": list(collecting(config))}
    for title, rows in tables.items():
        print(f"\n{title}")
        print_columns([tuple(rows[0]), *(tuple(map(text_of, row.values())) for row in rows)])
    if config.out is not None:
        machine = {"processor": processor(), "python": platform.python_version(), "worldmodel": worldmodel.__version__}
        machine |= {name: version(name) for name in ("mujoco", "gymnasium", "numpy")}
        config.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"command": " ".join(["worldmodel benchmark", *sys.argv[2:]]), "machine": machine}
        write_atomic(config.out, json.dumps(facts | tables, indent=1, default=str).encode())
        print(f"\nwrote {config.out}")


def drawing(config: BenchmarkConfig) -> Iterator[Row]:
    """A row for each task and size: step and draw with the preset, and with MuJoCo's stock settings."""
    cases = [(task, size) for task in config.tasks for size in config.image_sizes]
    for task, size in tqdm(cases, unit="case", desc="drawing", disable=None):
        rates = drawing_rates(task, size, config.seconds, config.repeats)
        yield row_of(task, size, "fast", rates["fast"], "MuJoCo's default", rates["full"])


def collecting(config: BenchmarkConfig) -> Iterator[Row]:
    """A row for each task: frames/s into a file, beside a bare loop, and beside a peer where one is installed."""
    size = config.image_sizes[0]
    for task in tqdm(config.tasks, unit="task", desc="collecting", disable=None):
        plan = CollectConfig(task, None, config.episodes, workers=config.workers, policies={"random": 1.0}, image_size=size)
        rates = collecting_rates(plan, config.repeats)
        yield row_of(task, size, "collect", rates["collect"], "bare loop", rates["bare"])
        if task in PEER_TASKS and peer_installed():
            peer = peer_rates(plan, config.repeats)
            yield row_of(task, size, "collect", peer["collect"], f"{PEER_TASKS[task]} World.collect", peer["peer"])


def reading(config: BenchmarkConfig) -> dict[str, list[Row]]:
    """Two tables: clips/s of each storage beside the same bytes in order, and of loaders beside a peer's where one is installed."""
    cases = [(task, size) for task in config.tasks for size in config.image_sizes]
    tables: dict[str, list[Row]] = {"reading (files in the page cache)": [], "loaders (shuffled, batches of 32)": []}
    alone, loaders = tables.values()
    for task, size in tqdm(cases, unit="case", desc="data", disable=None):
        plan = CollectConfig(task, None, config.episodes, workers=config.workers, policies={"random": 1.0}, image_size=size)
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(plan, Path(folder))
            for storage, path in files.items():
                rates = reading_rates(path, config.clip_frames, config.clips, config.repeats)
                alone.append(reading_row(task, size, storage, config.clip_frames * stored_bytes(path), rates))
            for workers in (0, config.workers):
                sides = loader_rates(files, Path(folder), config.clip_frames, config.clips, workers, config.repeats)
                loaders += [loader_row(task, size, workers, name, config.clip_frames, sides) for name in sides]
    return tables


def reading_row(task: str, size: int, storage: str, clip_bytes: float, rates: dict[str, Rates]) -> Row:
    """Random clips of one file, beside all of it in order."""
    random, in_order, read = (rates[name] for name in ("random", "in order", "read"))
    return {
        "task": task,
        "px": size,
        "storage": storage,
        "bytes/clip": clip_bytes,
        "clips/s": random.median,
        "range": random.spread,
        "in order": in_order.median,
        "its range": in_order.spread,
        "ratio": random.median / in_order.median,
        "only read": read.median,
        "ratio to read": random.median / read.median,
    }


def loader_row(task: str, size: int, workers: int, name: str, clip_frames: int, sides: dict[str, tuple[Rates, float]]) -> Row:
    """One side of the loaders, and how many times as fast as each of the peer's it is."""
    rates, frame_bytes = sides[name]
    row: Row = {"task": task, "px": size, "workers": workers, "loader": f"stable-worldmodel {name}" if name in PEER_FORMATS else name}
    row |= {"bytes/clip": clip_frames * frame_bytes, "clips/s": rates.median, "range": rates.spread}
    return row | {f"x {peer}": rates.median / sides[peer][0].median if peer in sides else float("nan") for peer in PEER_FORMATS}


def row_of(task: str, size: int, name: str, rates: Rates, other_name: str, other: Rates) -> Row:
    """One comparison."""
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


def demonstrators(config: BenchmarkConfig) -> Iterator[Row]:
    """A row for each task: how many seeds the demonstrator and random actions solve."""
    for env_id in tqdm(config.tasks, unit="task", desc="demonstrators", disable=None):
        task = make_task(env_id)
        row: Row = {"task": env_id, "seeds": config.seeds}
        for label, options in (("", {}), (", all factors", {"variation": "all"})):
            for name, policy_of in (("demonstrator", task.demonstrator), ("random", random_policy(len(task.action_names)))):
                row[name + label] = sum(solves(task, policy_of, seed, options) for seed in range(config.seeds))
        task.close()
        yield row


def random_policy(size: int) -> Any:
    """What `solves` takes: uniform actions (size,)."""
    return lambda rng: lambda obs, info: rng.uniform(-1, 1, size).astype(np.float32)


def text_of(value: Any) -> str:
    """A figure as a cell of a table."""
    if isinstance(value, tuple):
        return "-".join(text_of(part) for part in value)
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


def processor() -> str:
    """The name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    sys.exit(run_verb("benchmark", lambda: main, sys.argv[1:]))
