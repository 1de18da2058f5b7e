"""What a codec is worth: the probe, distances to a goal, smoothness along a trajectory, what it paints."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from worldmodel.codec.codec import Codec
from worldmodel.codec.data import CodecData, mean_picture, subset, whole_episodes
from worldmodel.codec.frames import frames_to_float, psnr
from worldmodel.codec.probe import LinearProbe, fit_probe, goal_distance_report, probe_report


def measure_latents(
    codec: Codec, data: CodecData, index: np.ndarray, latents: Tensor, seed: int
) -> tuple[LinearProbe, dict[str, Any]]:
    """Fits the probe on training episodes and measures the latents on held-out ones.

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


def choosing_frames(episode: np.ndarray) -> np.ndarray:
    """(m,) bool: frames that choose the ridge strength: every eighth episode, or half of a single one."""
    names = np.unique(episode)
    if len(names) == 1:
        return np.arange(len(episode)) >= len(episode) // 2
    return np.isin(episode, names[:: min(8, len(names))])


def step_ratio(latents: Tensor, episode: np.ndarray, seed: int) -> float:
    """Squared latent distance of consecutive frames over that of random pairs."""
    same = torch.from_numpy(np.diff(episode) == 0)
    other = torch.from_numpy(np.random.default_rng(seed).permutation(len(latents)))
    near = torch.diff(latents, dim=0)[same.to(latents.device)].square().mean().item() if same.any() else 0.0
    return near / max((latents - latents[other]).square().mean().item(), 1e-12)


@torch.no_grad()
def measure_reconstruction(codec: Codec, probe: LinearProbe, data: CodecData, seed: int, writer: SummaryWriter) -> dict[str, float]:
    """How well held-out frames are painted, with the mean training frame as control.

    Returns:
        `psnr` in dB, and `psnr_moving` over the pixels that differ from the mean frame; the same with
        `_mean_frame` for the control; `psnr_noise_05` from latents with noise of deviation 0.5;
        `probe_error_repainted`: the probe's error on painted frames encoded again, in feature units (is the
        thing where it should be?); `psnr_extra` for held-out extra pictures. What has nothing to be
        measured on is left out.
    """
    device = codec.mean.device
    index = subset(data.validation, 1024, seed)
    frames = frames_to_float(data.frames[index], device)
    mean = mean_picture(data.frames[subset(data.train, 1024, seed)])[0].to(device).expand_as(frames)
    latents = codec.encode(frames)
    painted = codec.decode(latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    report = {
        "psnr": psnr(painted, frames),
        "psnr_mean_frame": psnr(mean, frames),
        "psnr_noise_05": psnr(codec.decode(latents + 0.5 * noise), frames),
    }
    moving = ((frames - mean).abs().amax(dim=1, keepdim=True) > 0.1).expand_as(frames)
    if moving.any():
        report["psnr_moving"] = psnr(painted[moving], frames[moving])
        report["psnr_moving_mean_frame"] = psnr(mean[moving], frames[moving])
    repainted = probe.predict(codec.encode(painted)) - data.features[index]
    report["probe_error_repainted"] = float(np.sqrt(np.square(repainted).mean(axis=0)).mean())
    writer.add_images("codec/frames_above_painted_below", torch.cat([frames[:8], painted[:8]]))
    if data.extra_validation is not None and len(data.extra_validation):
        extra = frames_to_float(data.extra_validation[:1024], device)
        extra_painted = codec.decode(codec.encode(extra))
        report["psnr_extra"] = psnr(extra_painted, extra)
        writer.add_images("codec/extra_above_painted_below", torch.cat([extra[:8], extra_painted[:8]]))
    return report
