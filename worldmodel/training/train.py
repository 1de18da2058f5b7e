"""Training: from batches to checkpoints, for one process or many, and on after any interruption as if there was none.

What a step does is a function of the weights and of (seed, number of its batch) alone: the documents, the noise and the flow times
follow from that number. Weights, steps and the batches that were skipped are in every checkpoint. So run it again with the same
arguments and number of threads, and on a CPU it continues bit for bit; on another number of processes, up to the order of additions.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from worldmodel import __version__
from worldmodel.checkpoint import Pretrained, check_fit
from worldmodel.errors import UserError
from worldmodel.packing import Packer
from worldmodel.precision import choose_device
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import Processes, single
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.resume import locked_run_folder
from worldmodel.training.run import Run, TrainResult
from worldmodel.training.run_checkpoints import room_on_disk

logger = logging.getLogger(__name__)

CHANGE_NOTHING = ("data_workers", "accumulation", "compile", "processes", "sharding")
"""Fields of the training config that may be others when a run goes on."""
SIGNAL_DEBOUNCE_S = 5.0
"""Seconds within which a signal may come to a process of torchrun a second time."""


def train(
    parts: Pretrained,
    batches: Batches,
    config: TrainConfig,
    run_dir: Path | str,
    hooks: Hooks | None = None,
    processes: Processes | None = None,
) -> TrainResult:
    """Train a model in place, or go on with the run that `run_dir` holds.

    Args:
        parts: what checkpoints will hold. The model is initialized, on the CPU, and its weights are overwritten where a run is
            continued; of several processes the main one's counts, and the others' may be on the meta device. The codec is frozen and
            encodes the frames. The card is what else to write on the card of every checkpoint, as JSON; a continued run must give
            the same.
        batches: what is trained on, and measured on.
        config: how to train.
        run_dir: gets config.json, metrics.jsonl, tensorboard/, checkpoints/, and skipped.jsonl where a batch was skipped.
        hooks: what is called, and what ends the run early.
        processes: that train together, from `worldmodel.training.distributed.processes`; None: this one alone.

    Raises:
        UserError: the run folder is in use or holds a run with other settings; model, codec and tokenizer do
            not fit; processes disagree; shards or rows do not divide among them; memory ran out; the disk is full; losses stay broken
            although batches were skipped and checkpoints gone back to (the last checkpoint stays as it is).
    """
    run_dir = Path(run_dir)
    hooks, packer = hooks or Hooks(), batches.packer
    check_fit(parts.model.config, parts.codec, parts.tokenizer)
    if packer.config != config.packing:
        raise ValueError(f"the packer was built with {packer.config}, but the training config has {config.packing}")
    if (config.cache_latents == "disk") != (batches.latents is not None):
        given = "no" if batches.latents is None else "a"
        raise ValueError(f"cache_latents is {config.cache_latents!r}, and {given} latent cache was given")
    processes = processes or single(choose_device(config.device))  # a device that is not there must not claim the folder
    own = replace(batches, packer=packer.share(processes.rank, processes.world_size))
    rows, cuts = config.packing.rows, processes.world_size * config.accumulation
    if rows % cuts:
        raise UserError(
            f"{rows} rows do not divide among {processes.world_size} processes with accumulation {config.accumulation}: "
            f"take rows that are a multiple of {cuts}"
        )
    record = {
        "train": {name: value for name, value in asdict(config).items() if name not in CHANGE_NOTHING},
        "model": asdict(parts.model.config),
        "data": describe_data(packer),
        "card": parts.card,
    }
    processes.agree("the versions of worldmodel and torch", (__version__, torch.__version__))
    same = {"accumulation": config.accumulation, "sharding": config.sharding, "run_dir": str(run_dir.resolve())}
    processes.agree("what to train", record | same)
    processes.agree("the data", [len(source) for source in packer.mixture.sources])
    with contextlib.ExitStack() as held:
        held.enter_context(room_on_disk(run_dir))
        if processes.is_main:
            held.enter_context(locked_run_folder(run_dir, record))
            if hooks.on_start is not None:
                hooks.on_start()
        processes.barrier()
        return Run(parts, own, config, run_dir, hooks, processes, record).train()


def describe_data(packer: Packer) -> dict[str, Any]:
    """Describe what the batches are drawn from, for the run's config."""
    names = [source.name for source in packer.mixture.sources]
    return {
        "seed": packer.mixture.seed,
        "sources": dict(zip(names, packer.mixture.probabilities.tolist(), strict=True)),
    }


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or Ctrl-C sets, for `train(stop=...)`; a second signal interrupts at once.

    For a program's main thread. Under torchrun, which passes on what it gets, a cluster that signals all processes of a job reaches
    this one twice: what comes within `SIGNAL_DEBOUNCE_S` seconds is the same signal.
    """
    event, since = threading.Event(), time.monotonic()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if event.is_set():
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - since < SIGNAL_DEBOUNCE_S:
                return
            raise KeyboardInterrupt
        since = time.monotonic()
        event.set()
        logger.warning("%s: saving after this step; again to stop at once", signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
