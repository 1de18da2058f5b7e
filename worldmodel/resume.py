"""A run's folder: one process at a time, one configuration, and training states that a run goes on from exactly.

    run/config.json                      what the run was asked to do
    run/checkpoints/step_000100/         a checkpoint (`checkpoint.py`: averaged weights, tokenizer, codec, card)
    run/checkpoints/step_000100/training weights, averages and optimizer, by `torch.distributed.checkpoint`
    run/checkpoints/step_000100/progress.json   step, place in the data, counts

Tensors are sharded and loaded in place, so the same files serve one process and, later, many.
"""

import contextlib
import fcntl
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

SCHEMA_VERSION = 1
KIND = "run"


@dataclass
class Progress:
    """Where a run stands, apart from its tensors."""

    step: int = 0  # optimizer steps done
    packer: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)  # trained on so far, per source
    seconds: float = 0.0  # spent in steps


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
    record = {"schema_version": SCHEMA_VERSION, "kind": KIND, **record}
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
    """Nested objects as one, with dotted names; tuples as lists, as in JSON."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
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


def write_state(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything that the next step depends on into a checkpoint folder."""
    with one_process():
        dcp.save(training_tensors(model, average, optimizer), checkpoint_id=folder / "training", no_dist=True)
    write_json(folder / "progress.json", vars(progress))


def read_state(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Fill model, average and optimizer in place from a checkpoint folder.

    Raises:
        UserError: the folder is damaged.
    """
    try:
        with one_process():
            dcp.load(training_tensors(model, average, optimizer), checkpoint_id=folder / "training", no_dist=True)
    except dcp.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise UserError(f"{folder} is damaged ({cause}): remove it to go on from the checkpoint before it") from None
    record = read_json(folder / "progress.json")
    if record.keys() != vars(Progress()).keys():
        raise UserError(f"{folder} is of another version of worldmodel: remove it to go on from the one before it")
    return Progress(**record)


def training_tensors(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, averages and the optimizer's moments by name, sharing memory with their owners."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return tensors


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Saving and loading from one process is meant, not a mistake that torch should warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
