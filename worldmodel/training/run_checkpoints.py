"""Checkpoints of a run that one or many processes train: the averaged model to use, and the state to go on from."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError

from worldmodel.checkpoint import write_pretrained
from worldmodel.codec.codec import Codec
from worldmodel.datasets.atomic import DISK_FULL
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.tokenizer import Tokenizer
from worldmodel.training.distributed import Processes, whole_model
from worldmodel.training.resume import State, checkpoints, prune, shared_folder, write_state


def whole_average(average: WorldModel, processes: Processes, device: torch.device | None = None) -> WorldModel | None:
    """Copy the averaged model, whole and in evaluation mode, on the main process; None on the others. All have to call it.

    Args:
        average: in parts where there are several processes; alone it is returned as it is.
        processes: that hold it.
        device: of the result; by default the process's own.
    """
    if processes.world_size == 1:
        return average
    weights = whole_model(average)
    if not processes.is_main:
        return None
    with torch.device("meta"):
        model = WorldModel(average.config)
    model = model.to_empty(device="cpu")
    buffers = dict(average.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])  # also those that no checkpoint holds
    model.load_state_dict(weights, assign=True)  # which are there once
    return model.to(device or processes.device).eval().requires_grad_(False)


def save(
    folder: Path, state: State, tokenizer: Tokenizer, codec: Codec, card: dict[str, Any], processes: Processes, keep: int
) -> None:
    """Write a checkpoint of all processes, whole or not at all, and remove old ones. All have to call it.

    Args:
        folder: of the checkpoint, in the run's `checkpoints`.
        state: with the averaged model.
        tokenizer: goes with it.
        codec: goes with it.
        card: what to say about it.
        processes: that hold the state.
        keep: how many checkpoints stay.
    """
    assert isinstance(state.average, WorldModel)
    average = whole_average(state.average, processes, torch.device("cpu"))
    with shared_folder(folder, processes) as beside:
        if average is not None:
            write_pretrained(beside, average, tokenizer, codec, card)
        processes.barrier()  # the main process writes alone for long
        write_state(beside, state)
    if processes.is_main:
        prune(folder.parent.parent, keep)
    processes.barrier()


def drop_newer(run_dir: Path, checkpoint: Path) -> None:
    """Remove the checkpoints after one that training goes on from."""
    found = checkpoints(run_dir)
    for folder in found[found.index(checkpoint) + 1 :]:
        shutil.rmtree(folder)


@contextlib.contextmanager
def room_on_disk(run_dir: Path) -> Iterator[None]:
    """Turn a full disk into a sentence; a checkpoint that was being written is gone, the one before it stays.

    Args:
        run_dir: of the run.

    Raises:
        UserError: something was written in the block and there was no room for it.
    """
    try:
        yield
    except (OSError, SafetensorError, dcp.CheckpointException) as error:
        causes = [each for each, _ in error.failures.values()] if isinstance(error, dcp.CheckpointException) else [error]
        if not any(map(_is_full, causes)):
            raise
        raise UserError(f"the disk of {run_dir} is full: make room, and the same command goes on from the last checkpoint") from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return isinstance(error, SafetensorError) and any(f"(os error {number})" in str(error) for number in DISK_FULL)
