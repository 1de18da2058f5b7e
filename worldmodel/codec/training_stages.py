"""The stages of a codec's training, each a call of `fit` with a checkpoint of its own, and what they have in common.

Which stages there are says the kind of codec (`Codec.variants`, `Codec.train_decoder`), with what is here.

Axes: b batch, n tokens of a frame, c channels, m frames.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldmodel.codec.adversarial import Discriminator
from worldmodel.codec.codec import Codec
from worldmodel.codec.config import CodecConfig
from worldmodel.codec.data import CodecData, extra_count, mean_picture, subset, whole_episodes
from worldmodel.codec.pretrained import PretrainedEncoder
from worldmodel.codec.probe import LinearProbe
from worldmodel.codec.quality import measure_latents, most_frames
from worldmodel.codec.reconstruction_loss import ReconstructionLoss, perceptual_scale
from worldmodel.codec.slow_features import slow_feature_projection
from worldmodel.codec.training_loop import FitConfig, Loss, fit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderVariant:
    """A codec whose latents are final; what `Codec.train_decoder` trains is trained only if it is chosen."""

    codec: Codec
    probe: LinearProbe
    report: dict[str, Any]


@dataclass(frozen=True)
class Stages:
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

    def fit(
        self,
        name: str,
        module: nn.Module,
        loss: Loss,
        steps: int,
        seed: int,
        config: FitConfig,
        discriminator: Discriminator | None = None,
    ) -> float:
        """Run `fit` for a stage of this name, or go on with it; returns the seconds it took."""
        checkpoint = self.out / "checkpoints" / f"{name}.safetensors"
        factor = self.config.adversarial.lr_factor
        return fit(name, module, loss, steps, seed, config, checkpoint, self.writer, discriminator, factor)

    def reconstruction_loss(self, sources: list[tuple[np.ndarray, int]]) -> ReconstructionLoss:
        """Build the loss of decoded frames that the config asks for, with its discriminator if it has one.

        Args:
            sources: of the frames, from `batch_sources`.
        """
        config, discriminator = self.config, None
        if config.adversarial.weight > 0:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed * 10 + 6)
                discriminator = Discriminator(config.adversarial.width).to(self.device)
        scale = perceptual_scale(self.perceptual, sources, self.device) if self.perceptual is not None else None
        return ReconstructionLoss(config.perceptual_weight, self.perceptual, scale, config.adversarial, discriminator)

    def batch_sources(self) -> list[tuple[np.ndarray, int]]:
        """Return training frames and, if there are any, extra pictures, each with how many of a batch they give."""
        config, data = self.config, self.data
        num_extra = extra_count(data, config.batch_size, config.extra_share)
        frames = data.frames[subset(data.train, config.decoder_frames, config.seed)]
        sources = [(frames, config.batch_size - num_extra)]
        if data.extra is not None and num_extra:
            sources.append((data.extra[subset(np.arange(len(data.extra)), config.decoder_frames, config.seed)], num_extra))
        return sources

    def background(self) -> Tensor:
        """Compute the (3, h, w) mean picture that a decoder starts from."""
        return mean_picture(self.data.frames[subset(self.data.train, 1024, self.config.seed)])[0]

    def measured(self, codec: Codec, name: str, steps: int, seconds: float) -> EncoderVariant:
        """Set statistics and goal features, and measure the latents of an encoder that took these steps and seconds."""
        with tqdm(total=2, unit="part", desc=f"codec {name}: encoding frames", leave=False, disable=None) as bar:
            index, latents = calibrate(codec, self.config, self.data)
            bar.update()
            bar.set_description(f"codec {name}: fitting the probe")
            probe, report = measure_latents(codec, self.data, index, latents, self.config.seed)
            bar.update()
        logger.info("%s: probe error %.4f", name, report["probe"]["error"])
        for key, value in report["probe"].items():
            if isinstance(value, float):
                self.writer.add_scalar(f"codec/{name}/probe_{key}", value, steps)
        return EncoderVariant(codec, probe, {**report, "steps": steps, "seconds": seconds})


def calibrate(codec: Codec, config: CodecConfig, data: CodecData) -> tuple[np.ndarray, Tensor]:
    """Set the latent statistics, then the goal features, from training frames of whole episodes.

    Extra pictures enter the statistics with their share, unless a codec has other reasons (`Codec.counts_pictures`). Without them,
    where a frame hardly ever varies a picture's latents would be huge; with them no latent channel of a picture has more variance
    than 1 over the share.

    Returns:
        The indices of the frames, and their (m, n, c) latents.
    """
    most = most_frames(codec, config.probe_frames)
    index = whole_episodes(data.train, data.episode, most, config.seed)
    raw = raw_latents(codec, data.frames[index])
    mean, square = raw.mean(dim=0), raw.square().mean(dim=0)
    if codec.counts_pictures and data.extra is not None and extra_count(data, config.batch_size, config.extra_share):
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
