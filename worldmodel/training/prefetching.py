"""Feeding the training loop: batches packed ahead by a thread or by processes, and their frames as latents.

A group of steps is packed at a time (`packing.py`), and the next one while the present one is trained on. What a step gets does not
depend on who packed it.
"""

import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from worldmodel.batch import PackedBatch
from worldmodel.codec.codec import Codec
from worldmodel.errors import UserError
from worldmodel.packing import Packer
from worldmodel.precision import copied
from worldmodel.training.latent_cache import LatentCache, encode_frames, frame_key

CACHE_BYTES = 2**31
GROUPS_AHEAD = 2  # per worker process
SECONDS_TO_SAVE = 60.0
"""How long a worker serves on after a cluster's SIGTERM: the training process got the same signal, and has a step to finish first.
Validation and saving, which may take longer, need no batches."""


class PrefetchingLoader:
    """The packer's batches in order, packed at least one group ahead.

    Args:
        packer: where they come from.
        start: the step of the first batch.
        stop: the step after the last one.
        workers: processes that pack; 0 for a thread of this one. They read the data for themselves, so every source of the mixture
            must be picklable, and a program that is not started by the `worldmodel` command guards its entry by
            `if __name__ == "__main__"`, as always with processes.

    Attributes:
        stop: as given; raise it when more batches are wanted.
    """

    def __init__(self, packer: Packer, start: int, stop: int, workers: int = 0) -> None:
        self._packer, self._workers, self.stop = packer, workers, stop
        self._group = start // packer.steps_per_group  # the next one to be taken
        self._skip = start - self._group * packer.steps_per_group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packer")
        self._batches: list[PackedBatch] = []
        self._open()

    def _open(self) -> None:
        """Begin to pack the groups up to the last step."""
        per_group = self._packer.steps_per_group
        some = self._group * per_group + self._skip < self.stop
        groups = range(self._group, -(-self.stop // per_group) if some else self._group)
        self._groups: Iterator[list[PackedBatch]] = (
            _in_processes(self._packer, groups, self._workers) if self._workers and groups else map(self._packer.steps, groups)
        )
        self._pending = self._ahead()

    def _ahead(self) -> Future[list[PackedBatch] | None]:
        return self._thread.submit(next, self._groups, None)

    def next(self) -> PackedBatch:
        """Return the next batch, waiting for it if need be.

        Raises:
            UserError: what was wrong with the data, or that a worker process died.
            StopIteration: all groups up to `stop` were given.
        """
        if not self._batches:
            batches = self._pending.result()
            if batches is None and self._group * self._packer.steps_per_group < self.stop:  # more were wanted since
                self._open()
                batches = self._pending.result()
            if batches is None:
                raise StopIteration
            self._group += 1
            self._batches, self._skip = batches[self._skip :], 0
            self._pending = self._ahead()
        return self._batches.pop(0)

    def __enter__(self) -> "PrefetchingLoader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if isinstance(self._groups, Generator):
            self._groups.close()  # ends the processes


@dataclass
class _Failure:
    """What went wrong in a worker process."""

    message: str
    mistake: bool  # a UserError: the message is meant for the user


class _Groups(Dataset[list[dict[str, Any]] | _Failure]):
    """Groups of batches by number; arrays, since tensors would travel by way of shared memory, which containers keep small."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    def __getitem__(self, group: int) -> list[dict[str, Any]] | _Failure:
        try:
            batches = self.packer.steps(group)
        except UserError as error:
            return _Failure(str(error), mistake=True)
        except Exception as error:  # noqa: BLE001  raised again in the training process
            return _Failure(f"{type(error).__name__}: {error}", mistake=False)
        return [{k: v.numpy() if isinstance(v, Tensor) else v for k, v in vars(batch).items()} for batch in batches]


def _in_processes(packer: Packer, groups: range, workers: int) -> Generator[list[PackedBatch], None, None]:
    """Pack groups of batches in order, each by one of several processes; for a thread of its own, whose signal mask they inherit."""
    _block_signals()
    loader = DataLoader(
        _Groups(packer),
        batch_size=None,
        sampler=groups,
        num_workers=workers,
        prefetch_factor=GROUPS_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_follow_the_parent,
        multiprocessing_context="spawn",  # a forked child inherits the locks of threads that it does not have
    )
    batches = iter(loader)
    try:
        while isinstance(group := _next(batches), list):
            yield [_from_arrays(batch) for batch in group]
    finally:
        del batches, loader  # ends the processes, even while an error that is raised below is kept
    if group is not None:
        raise UserError(group.message) if group.mistake else RuntimeError(f"a data worker failed: {group.message}")


def _from_arrays(batch: dict[str, Any]) -> PackedBatch:
    fields: dict[str, Any] = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}
    return PackedBatch.restore(fields)


def _next(batches: Iterator[list[dict[str, Any]] | _Failure]) -> list[dict[str, Any]] | _Failure | None:
    try:
        return next(batches, None)
    except RuntimeError as error:  # from the loader itself
        message = f"a data worker ended without a word, perhaps for lack of memory; use fewer data_workers ({error})"
        return _Failure(message, mistake=True)


def _as_it_is(value: Any) -> Any:
    return value


def _block_signals() -> None:
    """Block Ctrl-C, which reaches all processes of a terminal, and SIGTERM, which a cluster sends to all: saving needs its workers."""
    resource_tracker.ensure_running()  # starting it, as the first process does, unblocks these signals
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _follow_the_parent(worker: int) -> None:
    """End a worker with the training process, and at once when that sends SIGTERM."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    threading.Thread(target=_end_after_sigterm, daemon=True).start()
    multiprocessing.util.Finalize(None, _end_at_once, exitpriority=-100)  # after every other


def _end_at_once() -> None:
    """Skip Python's own shutdown: with daemon threads running it may abort the process, and the loader would report a crash."""
    if sys.exc_info()[0] is None:  # after an error multiprocessing is to print it
        sys.stdout.flush()
        os._exit(0)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes follow their parent"
    parent.join()
    os._exit(1)  # an orderly end would wait for somebody to take the last batches


def _end_after_sigterm() -> None:
    """End on SIGTERM: at once if the training process sent it, else when that has had the time to save."""
    if hasattr(signal, "sigwaitinfo"):
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)
    else:  # macOS, where the sender is not known
        signal.sigwait({signal.SIGTERM})
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


class FrameEncoder:
    """The frozen codec in front of the model, with a cache of the frames that it has encoded.

    Args:
        codec: in evaluation mode, on `device`.
        device: of the latents.
        remember: keep latents until `forget`, up to 2 GiB.
        cache: latents on the disk; what is not in there is encoded.
    """

    def __init__(self, codec: Codec, device: torch.device, remember: bool, cache: LatentCache | None = None) -> None:
        self.codec, self.device, self.remember, self.cache = codec, device, remember, cache
        self.known: dict[bytes, Tensor] = {}

    def forget(self) -> None:
        """Drop everything that is cached."""
        self.known.clear()

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames (f, h, w, 3) uint8 to latents (f, p, c) on the device."""
        if not len(frames) or not (self.remember or self.cache is not None):
            return encode_frames(self.codec, frames, self.device)
        keys = [frame_key(frame.numpy()) for frame in frames]
        cached = self.cache.read(keys) if self.cache is not None else {}
        found: dict[bytes, Tensor] = {}
        if cached:
            found |= zip(cached, copied(torch.from_numpy(np.stack(list(cached.values()))), self.device), strict=True)
        new = {key: i for i, key in enumerate(keys) if key not in self.known and key not in found}
        encoded = encode_frames(self.codec, frames[list(new.values())], self.device)
        found |= dict(zip(new, encoded, strict=True))
        latents = torch.stack([found[key] if key in found else self.known[key] for key in keys])
        if self.remember:
            self.known |= found
            if len(self.known) * latents[0].nbytes > CACHE_BYTES:
                self.forget()
        return latents
