"""Feeding the training loop: batches packed one ahead in a thread, frames encoded once."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.rae import RAE
from worldmodel.packing import PackedBatch, Packer

ENCODE_FRAMES = 32  # at once: one size, whatever was cached, gives the same bits
CACHE_BYTES = 2**31


class BatchStream:
    """The packer, one batch ahead in a thread; `state` is the packer's after the batch handed out last."""

    def __init__(self, packer: Packer) -> None:
        self.packer, self.state = packer, packer.state_dict()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="packer")
        self.pending = self.worker.submit(self._draw)

    def _draw(self) -> tuple[PackedBatch, dict[str, Any]]:
        return self.packer.next_batch(), self.packer.state_dict()

    def next(self) -> PackedBatch:
        """The next batch, waiting for it if need be."""
        batch, self.state = self.pending.result()
        self.pending = self.worker.submit(self._draw)
        return batch

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.worker.shutdown(wait=True, cancel_futures=True)
        self.packer.load_state_dict(self.state)


class FrameEncoder:
    """The frozen codec in front of the model, with a memory of the frames that it has encoded."""

    def __init__(self, codec: RAE, device: torch.device, cache: bool) -> None:
        self.codec, self.device, self.cache = codec, device, cache
        self.known: dict[bytes, Tensor] = {}

    def forget(self) -> None:
        """Drop everything that is cached."""
        self.known.clear()

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (f, h, w, 3) uint8 -> latents (f, p, c) on the device."""
        if not self.cache or not len(frames):
            return self._encode(frames)
        keys = [hashlib.blake2b(frame.numpy(), digest_size=16).digest() for frame in frames]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        self.known.update(zip(new, self._encode(frames[list(new.values())]), strict=True))
        latents = torch.stack([self.known[key] for key in keys])
        if len(self.known) * latents[0].nbytes > CACHE_BYTES:
            self.forget()
        return latents

    def _encode(self, frames: Tensor) -> Tensor:
        parts = [self.codec.encode(frames_to_float(part, self.device)) for part in frames.split(ENCODE_FRAMES) if len(part)]
        return torch.cat(parts) if parts else torch.zeros(0, self.codec.num_tokens, self.codec.channels, device=self.device)
