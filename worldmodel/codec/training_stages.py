"""The stages of a codec's training, each a call of `fit` with a checkpoint of its own.

What a kind needs before its latents can be measured makes an `EncoderVariant`; only a representation autoencoder then trains a
decoder.

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

from worldmodel.codec.adversarial import Discriminator
from worldmodel.codec.codec import Codec
from worldmodel.codec.config import CodecConfig, SSLObjective
from worldmodel.codec.data import CodecData, FrameBatchSampler, LatentSampler, extra_count, mean_picture, subset, whole_episodes
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.pixels import Pixels
from worldmodel.codec.pretrained import PretrainedEncoder
from worldmodel.codec.probe import LinearProbe
from worldmodel.codec.quality import measure_latents, most_frames
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.reconstruction_loss import ReconstructionLoss, perceptual_scale
from worldmodel.codec.slow_features import slow_feature_projection
from worldmodel.codec.ssl import JointEmbedding, MaskedAutoencoder
from worldmodel.codec.training_loop import Loss, fit
from worldmodel.codec.vae import VAE

logger = logging.getLogger(__name__)
BASIS_FRAMES = 2048
"""Training frames that the principal components of patches are found on."""


@dataclass(frozen=True)
class EncoderVariant:
    """A codec whose latents are final; a rae's decoder is trained only if it is chosen."""

    codec: Codec
    probe: LinearProbe
    report: dict[str, Any]


@dataclass(frozen=True)
class StageContext:
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


def make_variants(context: StageContext) -> dict[str, EncoderVariant]:
    """Train or build the codecs to choose from, by what made their encoder; one alone but for a rae with several objectives."""
    if context.config.kind == "vae":
        return {"vae": train_vae(context)}
    if context.config.kind == "pixels":
        return {"pixels": cut_pixels(context)}
    if context.pretrained is not None:
        return {context.config.encoder_name: take_encoder(context, context.pretrained)}
    return {name: train_encoder(context, name) for name in context.config.objectives}


def train_encoder(context: StageContext, name: SSLObjective) -> EncoderVariant:
    """Train one encoder by one self-supervised objective."""
    config, data, device = context.config, context.data, context.device
    seed = config.seed * 10 + (1 if name == "mae" else 2)
    objective: MaskedAutoencoder | JointEmbedding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = RAE(RAEConfig(config.encoder, config.decoder, config.noise, config.goal_features)).to(device).eval()
        if name == "mae":
            objective = MaskedAutoencoder(config.encoder, config.decoder, config.masked).to(device)
            objective.decoder.set_background(background(context))
            steps, sampler = config.masked.steps, FrameBatchSampler(data, config.batch_size, config.extra_share)
        else:  # extra pictures have no neighbors, and beside them the frames would look all alike
            objective = JointEmbedding(config.encoder, config.joint).to(device)
            steps = config.joint.steps
            sampler = FrameBatchSampler(data, config.batch_size, 0.0, config.joint.neighbour_steps)

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(sampler.draw(generator), generator)

    checkpoint = context.out / "checkpoints" / f"{name}.safetensors"
    seconds = fit(name, objective, loss, steps, seed, replace(config.fit, ema=0.0), checkpoint, context.writer)
    codec.encoder.load_state_dict(objective.encoder.state_dict())
    if isinstance(objective, MaskedAutoencoder):
        codec.decoder.load_state_dict(objective.decoder.state_dict())
    else:
        codec.decoder.set_background(background(context))
    return measured(context, codec, name, steps, seconds)


def take_encoder(context: StageContext, encoder: PretrainedEncoder) -> EncoderVariant:
    """Build a codec with a pretrained encoder and a fresh decoder."""
    config = context.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 10 + 4)
        codec = RAE(RAEConfig(encoder.config, config.decoder, config.noise, config.goal_features), encoder).to(context.device).eval()
    codec.decoder.set_background(background(context))
    return measured(context, codec, config.encoder_name, 0, 0.0)


def cut_pixels(context: StageContext) -> EncoderVariant:
    """Build a codec of patches, which needs no training."""
    codec = Pixels(context.config.pixels_config()).to(context.device).eval()
    if codec.config.components:
        some = context.data.frames[subset(context.data.train, BASIS_FRAMES, context.config.seed)]
        codec.set_basis(frames_to_float(some, context.device))
    codec.set_background(background(context).to(context.device))
    return measured(context, codec, "pixels", 0, 0.0)


def train_vae(context: StageContext) -> EncoderVariant:
    """Train a variational autoencoder whole."""
    config = context.config
    seed = config.seed * 10 + 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = VAE(config.vae_config()).to(context.device)
    codec.decoder.set_background(background(context))
    sampler = FrameBatchSampler(context.data, config.batch_size, config.extra_share)
    reconstruction_loss = make_reconstruction_loss(context, batch_sources(context))

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        batch = sampler.draw(generator)
        reconstruction, divergence = codec.reconstruct(batch.frames, generator)
        total, parts = reconstruction_loss(reconstruction, batch.frames, batch.scale, codec.decoder.last_layer, progress)
        return total + config.kl_weight * divergence, parts | {"kl": divergence.detach()}

    seconds = fit_reconstruction(context, "vae", codec, loss, config.vae_steps, seed, reconstruction_loss)
    return measured(context, codec, "vae", config.vae_steps, seconds)


def train_decoder(context: StageContext, codec: RAE) -> float:
    """Train the decoder on latents of the frozen encoder; returns the seconds it took."""
    sources = batch_sources(context)
    sampler = LatentSampler(sources, codec.encode_frames, 4 * codec.num_tokens * codec.channels)
    reconstruction_loss = make_reconstruction_loss(context, sources)

    def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        latents, frames, scale = sampler.draw(generator)
        reconstruction = codec.decode_with_noise(latents, generator)
        return reconstruction_loss(reconstruction, frames, scale, codec.decoder.last_layer, progress)

    return fit_reconstruction(
        context, "decoder", codec, loss, context.config.decoder_steps, context.config.seed * 10 + 3, reconstruction_loss
    )


def fit_reconstruction(
    context: StageContext, name: str, codec: Codec, loss: Loss, steps: int, seed: int, reconstruction_loss: ReconstructionLoss
) -> float:
    """Run `fit` for a stage that trains a decoder, with its discriminator if it has one."""
    checkpoint = context.out / "checkpoints" / f"{name}.safetensors"
    factor = context.config.adversarial.lr_factor
    return fit(
        name, codec, loss, steps, seed, context.config.fit, checkpoint, context.writer, reconstruction_loss.discriminator, factor
    )


def make_reconstruction_loss(context: StageContext, sources: list[tuple[np.ndarray, int]]) -> ReconstructionLoss:
    """Build the loss of decoded frames that the config asks for; `sources` as in `batch_sources`."""
    config, discriminator = context.config, None
    if config.adversarial.weight > 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * 10 + 6)
            discriminator = Discriminator(config.adversarial.width).to(context.device)
    scale = perceptual_scale(context.perceptual, sources, context.device) if context.perceptual is not None else None
    return ReconstructionLoss(config.perceptual_weight, context.perceptual, scale, config.adversarial, discriminator)


def batch_sources(context: StageContext) -> list[tuple[np.ndarray, int]]:
    """Return training frames and, if there are any, extra pictures, each with how many of a batch they give."""
    config, data = context.config, context.data
    num_extra = extra_count(data, config.batch_size, config.extra_share)
    frames = data.frames[subset(data.train, config.decoder_frames, config.seed)]
    sources = [(frames, config.batch_size - num_extra)]
    if data.extra is not None and num_extra:
        sources.append((data.extra[subset(np.arange(len(data.extra)), config.decoder_frames, config.seed)], num_extra))
    return sources


def background(context: StageContext) -> Tensor:
    """Compute the (3, h, w) mean picture that a decoder starts from."""
    return mean_picture(context.data.frames[subset(context.data.train, 1024, context.config.seed)])[0]


def measured(context: StageContext, codec: Codec, name: str, steps: int, seconds: float) -> EncoderVariant:
    """Set statistics and goal features, and measure the latents of an encoder that took these steps and seconds."""
    with tqdm(total=2, unit="part", desc=f"codec {name}: encoding frames", leave=False, disable=None) as bar:
        index, latents = calibrate(codec, context.config, context.data)
        bar.update()
        bar.set_description(f"codec {name}: fitting the probe")
        probe, report = measure_latents(codec, context.data, index, latents, context.config.seed)
        bar.update()
    logger.info("%s: probe error %.4f", name, report["probe"]["error"])
    for key, value in report["probe"].items():
        if isinstance(value, float):
            context.writer.add_scalar(f"codec/{name}/probe_{key}", value, steps)
    return EncoderVariant(codec, probe, {**report, "steps": steps, "seconds": seconds})


def calibrate(codec: Codec, config: CodecConfig, data: CodecData) -> tuple[np.ndarray, Tensor]:
    """Set the latent statistics, then the goal features, from training frames of whole episodes.

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
    goal_map = slow_feature_projection(latents, data.episode[index], config.goal_features, config.goal_ridge)
    codec.set_goal_map(goal_map)
    return index, latents


def raw_latents(codec: Codec, frames: np.ndarray) -> Tensor:
    """Encode frames to (m, n, c) float64; the codec's statistics must still be those of a new codec."""
    return codec.encode_frames(frames).double()
