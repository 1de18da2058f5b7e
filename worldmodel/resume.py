"""A run's folder: one process at a time, one configuration, and states that training goes on from exactly.

    config.json                         what the run was asked to do
    checkpoints/step_000100/            a checkpoint as in `checkpoint.py`, with the averaged weights, and
        training/                       weights, averages and optimizers, by `torch.distributed.checkpoint`
        progress.json                   step, counts; the step tells the place in the data, too

Tensors are saved in shards and loaded in place, so the same files serve one process and, later, many.
"""

import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from worldmodel.checkpoint import read_json, write_json
from worldmodel.errors import UserError
from worldmodel.optimizer import optimizer_tensors

SCHEMA_VERSION = 2
KIND = "run"


@dataclass
class Progress:
    """Where a run stands, apart from its tensors."""

    step: int = 0  # optimizer steps done
    positions: dict[str, int] = field(default_factory=dict)  # trained on so far, per source
    seconds: float = 0.0  # spent in steps

    def advance(self, sources: dict[str, int], seconds: float) -> None:
        """Count one step: its positions per source, its time."""
        self.step, self.seconds = self.step + 1, self.seconds + seconds
        for name, positions in sources.items():
            self.positions[name] = self.positions.get(name, 0) + positions


@dataclass
class State:
    """Everything that the next step depends on."""

    model: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    progress: Progress

    def tensors(self) -> dict[str, Tensor]:
        """Weights, averages and the optimizers' state by name, sharing memory with their owners."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        moments = optimizer_tensors(self.model, self.optimizers)
        return tensors | {f"optimizer.{name}": tensor for name, tensor in moments.items()}


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run folder; it is free again when the block or the process ends.

    Raises:
        UserError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"the run folder {run_dir} is in use by another process: wait for it, or name another") from None
        yield


def claim(run_dir: Path, record: dict[str, Any]) -> None:
    """Note what a run does in its folder, or check that a run there does the same.

    Raises:
        UserError: the folder holds a run with other settings, or something else.
    """
    path = run_dir / "config.json"
    record = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, "kind": KIND, **record}))
    if not path.exists():
        beside = path.with_suffix(".tmp")
        write_json(beside, record)
        os.replace(beside, path)
        return
    found = read_json(path)
    if found.get("kind") != KIND or found.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} belongs to something else or to another version of worldmodel: name another run folder")
    before, now = flatten(found), flatten(record)
    different = [name for name in now | before if before.get(name) != now.get(name)]
    if different:
        shown = ", ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in different[:4])
        more = f", and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            f"the run folder {run_dir} holds a run with other settings: {shown}{more}; "
            "name another folder, or give the same settings to go on"
        )


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint folder of the most steps."""
    found = checkpoints(run_dir)
    return found[-1] if found else None


def checkpoints(run_dir: Path) -> list[Path]:
    """All whole checkpoint folders of a run, by step."""
    folders = (run_dir / "checkpoints").glob("step_*")
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("step_")))


def prune(run_dir: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a killed process left half written."""
    for folder in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(folder)
    for leftover in (run_dir / "checkpoints").glob(".*"):
        shutil.rmtree(leftover)


def write_state(folder: Path, state: State) -> None:
    """Write everything that the next step depends on into a checkpoint folder."""
    with one_process():
        dcp.save(state.tensors(), checkpoint_id=folder / "training", no_dist=True)
    write_json(folder / "progress.json", vars(state.progress))


def read_state(folder: Path, state: State) -> None:
    """Fill `state` in place from a checkpoint folder.

    Raises:
        UserError: the folder is damaged.
    """
    try:
        with one_process():
            dcp.load(state.tensors(), checkpoint_id=folder / "training", no_dist=True)
    except dcp.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        message = f"{folder} is damaged ({cause}): remove it to go on from the checkpoint before it"
        raise UserError(message) from None
    record = read_json(folder / "progress.json")
    if record.keys() != vars(Progress()).keys():
        raise UserError(f"{folder} is of another version of worldmodel: remove it to go on from the one before it")
    state.progress = Progress(**record)


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Saving and loading from one process is meant, not a mistake that torch should warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
