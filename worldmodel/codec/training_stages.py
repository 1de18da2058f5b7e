"""The stages of a codec's training, each a call of `fit` with a checkpoint of its own.

What a kind needs before its latents can be measured makes a `Candidate`; only a representation autoencoder then trains a decoder.

Axes: b batch, n tokens of a frame, c channels, m frames.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldmodel.codec.adversarial import Opponent
from worldmodel.codec.codec import Codec
from worldmodel.codec.config import CodecConfig, Objective
from worldmodel.codec.data import CodecData, FrameSampler, LatentSampler, extra_count, mean_picture, subset, whole_episodes
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.pixels import Pixels
from worldmodel.codec.pretrained import PretrainedEncoder
from worldmodel.codec.probe import LinearProbe
from worldmodel.codec.quality import measure_latents, most_frames
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.reconstruction_loss import PaintingLoss, perceptual_scale
from worldmodel.codec.slow_features import goal_projection
from worldmodel.codec.ssl import JointEmbedding, MaskedAutoencoder
from worldmodel.codec.training_loop import Loss, fit
from worldmodel.codec.vae import VAE

logger = logging.getLogger(__name__)
BASIS_FRAMES = 2048
"""Training frames that the principal components of patches are found on."""


@dataclass(frozen=True)
class Candidate:
    """A codec whose latents are final; a rae's decoder is trained only if it is chosen."""

    codec: Codec
    probe: LinearProbe
    report: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What every stage needs."""

    config: CodecConfig
    data: CodecData
    out: Path
    """Folder of the codec; checkpoints lie in `checkpoints`."""
    device: torch.device
    writer: SummaryWriter
    pretrained: PretrainedEncoder | None = None
    """The encoder that the config names."""
    perceptual: nn.Module | None = None
    """The perceptual distance, if the config weighs it."""


def make_candidates(run: Run) -> dict[str, Candidate]:
    """The codecs to choose from, by what made their encoder; one alone but for a rae with several objectives."""
    if run.config.kind == "vae":
        return {"vae": train_vae(run)}
    if run.config.kind == "pixels":
        return {"pixels": cut_pixels(run)}
    if run.pretrained is not None:
        return {run.config.encoder_name: take_encoder(run, run.pretrained)}
    return {name: train_encoder(run, name) for name in run.config.objectives}


def train_encoder(run: Run, name: Objective) -> Candidate:
    """Trains one encoder by one self-supervised objective."""
    config, data, device = run.config, run.data, run.device
    seed = config.seed * 10 + (1 if name == "mae" else 2)
    objective: MaskedAutoencoder | JointEmbedding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = RAE(RAEConfig(config.encoder, config.decoder, config.noise, config.goal_features)).to(device).eval()
        if name == "mae":
            objective = MaskedAutoencoder(config.encoder, config.decoder, config.masked).to(device)
            objective.decoder.set_background(background(run))
            steps, sampler = config.masked.steps, FrameSampler(data, config.batch_size, config.extra_share)
        else:  # extra pictures have no neighbours, and beside them the frames would look all alike
            objective = JointEmbedding(config.encoder, config.joint).to(device)
            steps = config.joint.steps
            sampler = FrameSampler(data, config.batch_size, 0.0, config.joint.neighbour_steps)

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(sampler.draw(generator), generator)

    checkpoint = run.out / "checkpoints" / f"{name}.safetensors"
    seconds = fit(name, objective, loss, steps, seed, replace(config.fit, ema=0.0), checkpoint, run.writer)
    codec.encoder.load_state_dict(objective.encoder.state_dict())
    if isinstance(objective, MaskedAutoencoder):
        codec.decoder.load_state_dict(objective.decoder.state_dict())
    else:
        codec.decoder.set_background(background(run))
    return measured(run, codec, name, steps, seconds)


def take_encoder(run: Run, encoder: PretrainedEncoder) -> Candidate:
    """A codec with a pretrained encoder and a fresh decoder."""
    config = run.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 10 + 4)
        codec = RAE(RAEConfig(encoder.config, config.decoder, config.noise, config.goal_features), encoder).to(run.device).eval()
    codec.decoder.set_background(background(run))
    return measured(run, codec, config.encoder_name, 0, 0.0)


def cut_pixels(run: Run) -> Candidate:
    """A codec of patches, which needs no training."""
    codec = Pixels(run.config.pixels_config()).to(run.device).eval()
    if codec.config.components:
        some = run.data.frames[subset(run.data.train, BASIS_FRAMES, run.config.seed)]
        codec.set_basis(frames_to_float(some, run.device))
    codec.set_background(background(run).to(run.device))
    return measured(run, codec, "pixels", 0, 0.0)


def train_vae(run: Run) -> Candidate:
    """Trains a variational autoencoder whole."""
    config = run.config
    seed = config.seed * 10 + 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = VAE(config.vae_config()).to(run.device)
    codec.decoder.set_background(background(run))
    sampler = FrameSampler(run.data, config.batch_size, config.extra_share)
    painting = painting_loss(run, batch_sources(run))

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        batch = sampler.draw(generator)
        painted, divergence = codec.reconstruct(batch.frames, generator)
        total, parts = painting(painted, batch.frames, batch.scale, codec.decoder.last_layer, progress)
        return total + config.kl_weight * divergence, parts | {"kl": divergence.detach()}

    seconds = fit_painter(run, "vae", codec, loss, config.vae_steps, seed, painting)
    return measured(run, codec, "vae", config.vae_steps, seconds)


def train_decoder(run: Run, codec: RAE) -> float:
    """Trains the decoder on latents of the frozen encoder; returns the seconds it took."""
    sources = batch_sources(run)
    sampler = LatentSampler(sources, codec.encode_frames, 4 * codec.num_tokens * codec.channels)
    painting = painting_loss(run, sources)

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        latents, frames, scale = sampler.draw(generator)
        painted = codec.paint_noisy(latents, generator)
        return painting(painted, frames, scale, codec.decoder.last_layer, progress)

    return fit_painter(run, "decoder", codec, loss, run.config.decoder_steps, run.config.seed * 10 + 3, painting)


def fit_painter(run: Run, name: str, codec: Codec, loss: Loss, steps: int, seed: int, painting: PaintingLoss) -> float:
    """`fit` for a stage that paints, with its opponent if it has one."""
    checkpoint = run.out / "checkpoints" / f"{name}.safetensors"
    factor = run.config.adversarial.lr_factor
    return fit(name, codec, loss, steps, seed, run.config.fit, checkpoint, run.writer, painting.opponent, factor)


def painting_loss(run: Run, sources: list[tuple[np.ndarray, int]]) -> PaintingLoss:
    """The loss of painted frames that the config asks for; `sources` as in `batch_sources`."""
    config, opponent = run.config, None
    if config.adversarial.weight > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * 10 + 6)
            opponent = Opponent(config.adversarial.width).to(run.device)
    scale = perceptual_scale(run.perceptual, sources, run.device) if run.perceptual is not None else None
    return PaintingLoss(config.perceptual_weight, run.perceptual, scale, config.adversarial, opponent)


def batch_sources(run: Run) -> list[tuple[np.ndarray, int]]:
    """Training frames and, if there are any, extra pictures, each with how many of a batch they give."""
    config, data = run.config, run.data
    num_extra = extra_count(data, config.batch_size, config.extra_share)
    frames = data.frames[subset(data.train, config.decoder_frames, config.seed)]
    sources = [(frames, config.batch_size - num_extra)]
    if data.extra is not None and num_extra:
        sources.append((data.extra[subset(np.arange(len(data.extra)), config.decoder_frames, config.seed)], num_extra))
    return sources


def background(run: Run) -> Tensor:
    """The (3, h, w) mean picture that a decoder starts from."""
    return mean_picture(run.data.frames[subset(run.data.train, 1024, run.config.seed)])[0]


def measured(run: Run, codec: Codec, name: str, steps: int, seconds: float) -> Candidate:
    """Sets statistics and goal features, and measures the latents of an encoder that took these steps and seconds."""
    with tqdm(total=2, unit="part", desc=f"codec {name}: encoding frames", leave=False, disable=None) as bar:
        index, latents = calibrate(codec, run.config, run.data)
        bar.update()
        bar.set_description(f"codec {name}: fitting the probe")
        probe, report = measure_latents(codec, run.data, index, latents, run.config.seed)
        bar.update()
    logger.info("%s: probe error %.4f", name, report["probe"]["error"])
    for key, value in report["probe"].items():
        if isinstance(value, float):
            run.writer.add_scalar(f"codec/{name}/probe_{key}", value, steps)
    return Candidate(codec, probe, {**report, "steps": steps, "seconds": seconds})


def calibrate(codec: Codec, config: CodecConfig, data: CodecData) -> tuple[np.ndarray, Tensor]:
    """Sets the latent statistics, then the goal features, from training frames of whole episodes.

    Extra pictures enter the statistics with their share. Without them, where a frame hardly ever varies a
    picture's latents would be huge; with them no latent channel of a picture has more variance than 1 over
    the share. Not those of pixels, which have one scale for all: there pictures would only make frames faint.

    Returns:
        The indices of the frames, and their (m, n, c) latents.
    """
    most = most_frames(codec, config.probe_frames)
    index = whole_episodes(data.train, data.episode, most, config.seed)
    raw = raw_latents(codec, data.frames[index])
    mean, square = raw.mean(dim=0), raw.square().mean(dim=0)
    if codec.kind != "pixels" and data.extra is not None and extra_count(data, config.batch_size, config.extra_share):
        pictures = subset(np.arange(len(data.extra)), most, config.seed)
        other, share = raw_latents(codec, data.extra[pictures]), config.extra_share
        mean = (1 - share) * mean + share * other.mean(dim=0)
        square = (1 - share) * square + share * other.square().mean(dim=0)
    codec.set_statistics(mean, (square - mean.square()).clamp_min(0))
    latents = ((raw.float() - codec.mean) / codec.std).float()
    goal_map = goal_projection(latents, data.episode[index], config.goal_features, config.goal_ridge)
    codec.set_goal_map(goal_map)
    return index, latents


def raw_latents(codec: Codec, frames: np.ndarray) -> Tensor:
    """(m, n, c) float64 outputs of the encoder; the codec's statistics must still be those of a new codec."""
    return codec.encode_frames(frames).double()
