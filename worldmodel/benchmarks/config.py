"""What a benchmark measures, and how long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from worldmodel.envs import full_id, task_ids
from worldmodel.errors import UserError

What = Literal["envs", "data", "train", "demonstrators", "play"]
Part = Literal["speed", "checks", "attention", "compilation", "optimizers", "precision", "waiting"]
PARTS: tuple[Part, ...] = get_args(Part)
PresetName = Literal["tiny", "small", "base"]
DATA_TASKS = ("worldmodel/PushT-v0", "worldmodel/Ant-v0")
"""Flat colors and a shaded 3-D scene."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which sides are measured, for how long, and on what."""

    what: What = "envs"
    """envs: frames/s of drawing and collecting. data: clips/s of reading, and what training waits. train: what limits a training step,
    with targets. demonstrators: solved seeds, with random actions as control. play: a dream driven beside its simulator."""
    checkpoint: Path | None = None
    """play: the model, a checkpoint or the folder of a run."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(name="task")] = ()
    """Tasks, names or ids; by default all tasks of the suite, for data PushT and Ant, for play the model's first one."""
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
    """data, train: training steps in which waiting for data is measured; by default 100, for train 30. play: model steps that are
    driven; by default 2000."""
    parts: tuple[Part, ...] = PARTS
    """train: what to measure. speed: steps beside a matrix product, a mixture of experts beside a dense model, the mask beside a step.
    checks: whether the fast ways compute what the plain ones do. attention, compilation, optimizers, precision: each way beside the
    other. waiting: for data."""
    preset: PresetName | None = None
    """train: sizes of model and batch; by default base on a GPU, tiny on a CPU."""
    device: str = "auto"
    """train, play: auto: the first GPU, else the CPU."""
    seeds: int = 100
    """demonstrators: seeds of each task, with the factors at their defaults and with all factors sampled."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        object.__setattr__(self, "steps", self.steps or {"train": 30, "play": 2000}.get(self.what, 100))
        positive = {name: 1 for name in ("repeats", "episodes", "workers", "seeds", "clips", "steps")}
        for name, least in (positive | {"clip_frames": 2}).items():
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}")
        if (self.what == "play") != (self.checkpoint is not None):
            raise UserError("play measures a model: give it --checkpoint, and no other benchmark")
        is_data = self.what == "data"
        usual = {"data": DATA_TASKS, "play": ()}.get(self.what, tuple(task_ids()))
        object.__setattr__(self, "tasks", tuple(map(full_id, self.tasks)) or usual)
        object.__setattr__(self, "image_sizes", self.image_sizes or ((64, 224) if is_data else (64, 128, 224)))
        if not self.seconds > 0:
            raise UserError(f"--seconds {self.seconds} must be more than 0")
