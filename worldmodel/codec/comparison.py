"""Codecs compared on one set of frames: what they keep, how they reconstruct, and how fast they are.

Axes: b batch, n tokens of a frame, c channels, h w pixels, m frames.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.codec.codec import Codec
from worldmodel.codec.data import CodecData, mean_picture, subset, whole_episodes
from worldmodel.codec.frames import frames_to_float, frames_to_uint8
from worldmodel.codec.quality import measure_latents, measure_reconstruction, most_frames
from worldmodel.errors import UserError

SPEED_FRAMES = 256
"""Frames in a batch when encoding is timed."""
PARTS = 4
"""Of the comparison: encoding, the probe, the reconstruction, the speed."""
SPEED_REPEATS = 3
"""The fastest of so many passes counts."""


def check_size(folder: Path, codec: Codec, data: CodecData) -> None:
    """Refuse a codec for frames of another size.

    Raises:
        UserError: naming both sizes.
    """
    size = data.frames.shape[1]
    if codec.image_size != size:
        raise UserError(
            f"the codec {folder} encodes frames of {codec.image_size} pixels, but the data's have {size}; "
            "give data of that size, or leave the codec out"
        )


def compare_codec(
    codec: Codec, data: CodecData, probe_frames: int, seed: int, progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Measure one row of the comparison.

    Args:
        codec: its frames have the data's size.
        data: the probe is fitted on its training episodes; everything is measured on held-out ones.
        probe_frames: largest number of frames that the probe is fitted on.
        seed: of the choice of frames and pairs.
        progress: called when one of the `PARTS` is done.

    Returns:
        `kind`, `encoder`, `num_tokens`, `channels`, `parameters`; `reconstruction`, `probe`, `goal_distance`, `step_ratio` and
        `std` as in a codec's report; `encode_frames_per_second`.
    """
    index = whole_episodes(data.train, data.episode, most_frames(codec, probe_frames), seed)
    latents = codec.encode_frames(data.frames[index])
    progress()
    probe, report = measure_latents(codec, data, index, latents, seed)
    progress()
    reconstruction = measure_reconstruction(codec, probe, data, seed)
    progress()
    speed = encode_speed(codec, data.frames[data.validation[:SPEED_FRAMES]])
    progress()
    return {
        "kind": codec.kind,
        "encoder": codec.encoder_name,
        "num_tokens": codec.num_tokens,
        "channels": codec.channels,
        "parameters": sum(parameter.numel() for parameter in codec.parameters()),
        "reconstruction": reconstruction,
        **report,
        "encode_frames_per_second": speed,
    }


def control_errors(data: CodecData) -> dict[str, float]:
    """Compute the probe's `r2` and `error` of the control: every held-out frame is predicted as the mean of the training frames."""
    truth = data.features[data.validation].astype(np.float64)
    residual = np.square(truth - data.features[data.train].mean(axis=0)).mean(axis=0)
    varies = truth.var(axis=0) > 1e-8
    if not varies.any():
        return {"r2": 0.0, "error": 0.0}
    r2 = 1 - residual[varies] / truth.var(axis=0)[varies]
    return {"r2": float(r2.mean()), "error": float(np.sqrt(residual[varies]).mean())}


def encode_speed(codec: Codec, frames: np.ndarray) -> float:
    """Measure the frames per second that are encoded, float frames on the codec's device to latents, in one batch."""
    batch = frames_to_float(frames, codec.mean.device)
    seconds = []
    for _ in range(1 + SPEED_REPEATS):
        started = time.perf_counter()
        codec.encode(batch)
        if batch.is_cuda:
            torch.cuda.synchronize(batch.device)
        seconds.append(time.perf_counter() - started)
    return len(batch) / min(seconds[1:])  # the first pass is for warming up


@torch.no_grad()
def reconstruction_columns(codecs: list[Codec], data: CodecData, rows: int, seed: int) -> list[np.ndarray]:
    """Collect held-out frames, then each codec's reconstruction, then the mean picture: uint8 (rows, h, w, 3) each."""
    frames = data.frames[subset(data.validation, rows, seed)]
    mean = mean_picture(data.frames[subset(data.train, 1024, seed)])[0]
    reconstructions = [frames_to_uint8(reconstruct(codec, frames)) for codec in codecs]
    return [frames, *reconstructions, frames_to_uint8(mean.expand(len(frames), *mean.shape))]


def reconstruct(codec: Codec, frames: np.ndarray) -> Tensor:
    """Encode and decode uint8 frames (b, h, w, 3): (b, 3, h, w) in [0, 1]."""
    return codec.decode(codec.encode_frames(frames))
