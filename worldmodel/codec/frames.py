"""Frames in two forms: uint8 (..., h, w, 3) in files and environments, float (..., 3, h, w) in the codec."""

from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.errors import UserError


def check_frames(frames: np.ndarray, image_size: int) -> None:
    """Refuse anything but uint8 frames of the codec's size.

    Raises:
        UserError: naming the shape and type found and those expected.
    """
    if frames.dtype != np.uint8 or frames.ndim < 3 or frames.shape[-3:] != (image_size, image_size, 3):
        raise UserError(
            f"frames are {frames.dtype} of shape {tuple(frames.shape)}, but this codec takes uint8 frames "
            f"of shape (..., {image_size}, {image_size}, 3); collect or resize them at {image_size} pixels"
        )


def frames_to_float(frames: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Convert uint8 (..., h, w, 3) in 0..255 to float32 (..., 3, h, w) in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
    return rearrange(tensor.to(device), "... h w c -> ... c h w").contiguous().float() / 255.0


def frames_to_uint8(frames: Tensor) -> np.ndarray:
    """Convert float (..., 3, h, w) to uint8 (..., h, w, 3), rounded; values outside [0, 1] are clamped."""
    levels = (frames.detach().float().clamp(0, 1) * 255.0).round().to(torch.uint8)
    return rearrange(levels, "... c h w -> ... h w c").cpu().numpy()


class FrameCodec(Protocol):
    """The part of a codec that turns frames into latents and back."""

    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames float (b, 3, height, width) in [0, 1] to latents (b, n, c)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, n, c) to frames float (b, 3, height, width) in [0, 1]."""


@torch.no_grad()
def encode_frames(codec: FrameCodec, frames: np.ndarray, device: torch.device | str = "cpu", batch_size: int = 256) -> Tensor:
    """Encode at least one frame, uint8 (..., h, w, 3), to latents (..., n, c) float32 on the device, `batch_size` at a time."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    starts = range(0, len(flat), batch_size)
    latents = torch.cat([codec.encode(frames_to_float(flat[start : start + batch_size], device)).float() for start in starts])
    return latents.reshape(*frames.shape[:-3], *latents.shape[1:])


@torch.no_grad()
def decode_video(codec: FrameCodec, latents: Tensor, batch_size: int = 256) -> np.ndarray:
    """Decode latents (..., t, n, c) to frames uint8 (..., t, h, w, 3), `batch_size` at a time."""
    parts = latents.flatten(0, -3).split(batch_size)
    frames = np.concatenate([frames_to_uint8(codec.decode(part)) for part in parts])
    return frames.reshape(*latents.shape[:-2], *frames.shape[1:])


def one_above_other(above: Tensor, below: Tensor) -> Tensor:
    """Lay pictures (n, c, h, w) side by side, each of `below` under its own of `above`, as one picture (1, c, 2 h, n w).

    A log that is handed 2 n pictures makes a grid of eight columns of them, where they lie one above the other only if n is 8.
    """
    return rearrange(torch.stack([above, below]), "two n c h w -> 1 c (two h) (n w)")


def psnr(first: Tensor, second: Tensor) -> float:
    """Compute the peak signal-to-noise ratio in dB of two tensors in [0, 1]; 100 dB when they are equal."""
    return psnr_of((first.double() - second.double()).square().mean().item())


def psnr_of(error: float) -> float:
    """Compute the peak signal-to-noise ratio in dB of a mean squared error of numbers in [0, 1]; at most 100 dB."""
    return float(-10.0 * np.log10(max(error, 1e-10)))
