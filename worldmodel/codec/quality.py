"""What a codec is worth: the probe, distances to a goal, smoothness along a trajectory, reconstruction."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.codec.codec import Codec
from worldmodel.codec.data import CodecData, mean_picture, subset, whole_episodes
from worldmodel.codec.frames import frames_to_float, one_above_other, psnr
from worldmodel.codec.perceptual import SMALLEST, load_perceptual, structural_similarity
from worldmodel.codec.probe import LinearProbe, fit_probe, goal_distance_report, probe_report

MEASURED_NUMBERS = 2**28
"""Latent numbers that statistics, goal features and the probe are computed on at most: a GiB in single precision."""
PERCEPTUAL_FRAMES = 32
"""Frames that the perceptual distance is measured on, about: a VGG16 looks at each pair."""


def measure_latents(
    codec: Codec, data: CodecData, index: np.ndarray, latents: Tensor, seed: int
) -> tuple[LinearProbe, dict[str, Any]]:
    """Fit the probe on training episodes and measure the latents on held-out ones.

    Args:
        codec: its statistics and goal features are set.
        data: the frames.
        index: (m,) training frames, of whole episodes.
        latents: (m, n, c) their latents.
        seed: of the choice of held-out episodes, at most half as many frames, and of pairs.

    Returns:
        The probe, and a report: `probe`; `goal_distance` of plain latents and of goal features;
        `step_ratio`, the distance of consecutive frames over that of random ones (small: smooth); `std` of
        held-out frames and extras.
    """
    held_out = whole_episodes(data.validation, data.episode, max(1, len(index) // 2), seed)
    test = codec.encode_frames(data.frames[held_out])
    features, episode = data.features[index], data.episode[index]
    choosing = choosing_frames(episode)
    probe = fit_probe(latents[~choosing], features[~choosing], latents[choosing], features[choosing])
    truth = data.features[held_out]
    std = {"frames": test.std().item()}
    if data.extra is not None and len(data.extra):
        std["extra"] = codec.encode_frames(data.extra[:512]).std().item()
    return probe, {
        "probe": probe_report(probe, test, truth, data.names),
        "goal_distance": {
            "latents": goal_distance_report(test, truth, 5000, seed),
            "goal_features": goal_distance_report(codec.goal_features(test), truth, 5000, seed),
        },
        "step_ratio": step_ratio(test, data.episode[held_out], seed),
        "std": std,
    }


def most_frames(codec: Codec, asked: int) -> int:
    """Return how many frames are kept encoded to be measured: what is asked, fewer where latents are large."""
    return min(asked, max(1, MEASURED_NUMBERS // (codec.num_tokens * codec.channels)))


def choosing_frames(episode: np.ndarray) -> np.ndarray:
    """Mark the frames (m,) bool that choose the ridge strength: every eighth episode, or half of a single one."""
    names = np.unique(episode)
    if len(names) == 1:
        return np.arange(len(episode)) >= len(episode) // 2
    return np.isin(episode, names[:: min(8, len(names))])


def step_ratio(latents: Tensor, episode: np.ndarray, seed: int) -> float:
    """Divide the squared latent distance of consecutive frames by that of random pairs."""
    same = torch.from_numpy(np.diff(episode) == 0)
    other = torch.from_numpy(np.random.default_rng(seed).permutation(len(latents)))
    near = torch.diff(latents, dim=0)[same.to(latents.device)].square().mean().item() if same.any() else 0.0
    return near / max((latents - latents[other]).square().mean().item(), 1e-12)


@torch.no_grad()
def measure_reconstruction(
    codec: Codec, probe: LinearProbe, data: CodecData, seed: int, writer: SummaryWriter | None = None
) -> dict[str, float | None]:
    """Measure how well held-out frames are reconstructed, with the mean training frame as control.

    Returns:
        `psnr` in dB, and `psnr_moving` over the pixels that differ from the mean frame; `ssim`; `perceptual`, the distance
        "lpips-hed", None where its weights are not here; the same with `_mean_frame` for the control; `psnr_noise_05` from
        latents with noise of deviation 0.5; `probe_error_repainted`: the probe's error on reconstructed frames encoded again, in
        feature units (is the thing where it should be?); `psnr_extra` for held-out extra pictures. What has nothing to be
        measured on is left out.
    """
    device = codec.mean.device
    index = subset(data.validation, 1024, seed)
    frames = frames_to_float(data.frames[index], device)
    mean = mean_picture(data.frames[subset(data.train, 1024, seed)])[0].to(device).expand_as(frames)
    latents = encode(codec, frames)
    reconstruction = decode(codec, latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    distance = load_perceptual() if codec.image_size >= SMALLEST else None
    report: dict[str, float | None] = {
        "psnr": psnr(reconstruction, frames),
        "psnr_mean_frame": psnr(mean, frames),
        "psnr_noise_05": psnr(decode(codec, latents + 0.5 * noise), frames),
        **image_similarity(reconstruction, frames, distance),
        **{f"{name}_mean_frame": value for name, value in image_similarity(mean, frames, distance).items()},
    }
    moving = ((frames - mean).abs().amax(dim=1, keepdim=True) > 0.1).expand_as(frames)
    if moving.any():
        report["psnr_moving"] = psnr(reconstruction[moving], frames[moving])
        report["psnr_moving_mean_frame"] = psnr(mean[moving], frames[moving])
    reencoded = probe.predict(encode(codec, reconstruction)) - data.features[index]
    report["probe_error_repainted"] = float(np.sqrt(np.square(reencoded).mean(axis=0)).mean())
    if writer is not None:
        writer.add_images("codec/frames_above_reconstructions_below", one_above_other(frames[:8], reconstruction[:8]))
    if data.extra_validation is not None and len(data.extra_validation):
        extra = frames_to_float(data.extra_validation[:1024], device)
        extra_reconstruction = decode(codec, encode(codec, extra))
        report["psnr_extra"] = psnr(extra_reconstruction, extra)
        if writer is not None:
            writer.add_images("codec/extra_above_reconstructions_below", one_above_other(extra[:8], extra_reconstruction[:8]))
    return report


@torch.no_grad()
def image_similarity(reconstruction: Tensor, frames: Tensor, distance: nn.Module | None) -> dict[str, float | None]:
    """Measure how alike frames (b, 3, h, w) look: `ssim`, 1 for equal ones, and `perceptual`, 0 for equal ones, of a spread of them.

    None for `ssim` of frames that are too small for it, and for `perceptual` without a distance.
    """
    ssim = structural_similarity(reconstruction, frames).mean().item() if min(frames.shape[-2:]) >= SMALLEST else None
    if distance is None:
        return {"ssim": ssim, "perceptual": None}
    some = slice(None, None, max(1, len(frames) // PERCEPTUAL_FRAMES))
    perceptual = distance.to(frames.device)(reconstruction[some], frames[some]).mean().item()
    return {"ssim": ssim, "perceptual": perceptual}


def encode(codec: Codec, frames: Tensor) -> Tensor:
    """Run `codec.encode`, in chunks where latents are large."""
    return torch.cat([codec.encode(piece) for piece in frames.split(piece_size(codec))])


def decode(codec: Codec, latents: Tensor) -> Tensor:
    """Run `codec.decode`, in chunks where latents are large."""
    return torch.cat([codec.decode(piece) for piece in latents.split(piece_size(codec))])


def piece_size(codec: Codec) -> int:
    """Return the frames of a chunk: 1024, fewer of a codec with more than 4096 latent numbers a frame."""
    return max(1, min(1024, 2**22 // (codec.num_tokens * codec.channels)))
