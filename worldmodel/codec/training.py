"""Trains a codec: an encoder per objective, a probe to choose between them, the decoder of the chosen one.

    frames -> encoder by MAE    +
                                +-> probe of the true state -> one encoder, frozen -> decoder
    frames -> encoder by VICReg +

Everything lands in one folder: run.json (what was asked), checkpoints/ while it trains, tensorboard/, then
config.json, model.safetensors and report.json. The same call on the same folder goes on where it stopped,
bit for bit on a CPU.
"""

import dataclasses
import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.codec.codec import Codec, load_codec
from worldmodel.codec.data import (
    CodecData,
    FrameSampler,
    LatentSampler,
    extra_count,
    mean_picture,
    subset,
    whole_episodes,
)
from worldmodel.codec.fitting import FitConfig, fit
from worldmodel.codec.folder import claim, write_json
from worldmodel.codec.measure import measure_latents, measure_reconstruction
from worldmodel.codec.metric import goal_projection
from worldmodel.codec.probe import LinearProbe
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.ssl import JointConfig, JointEmbedding, MaskedAutoencoder, MaskedConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

Objective = Literal["mae", "vicreg"]


@dataclass(frozen=True)
class CodecConfig:
    """Everything that decides what codec comes out, given the data."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Shape of the encoder and of the latents."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Shape of the decoder."""
    objectives: tuple[Objective, ...] = ("mae", "vicreg")
    """Self-supervised objectives to try, the preferred one first."""
    margin: float = 0.1
    """A later objective is chosen only if its probe error is smaller by this share: ties go to the first."""
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    """Of the objective mae."""
    joint: JointConfig = field(default_factory=JointConfig)
    """Of the objective vicreg."""
    decoder_steps: int = 700
    """Training steps of the decoder."""
    batch_size: int = 64
    """Frames in a batch."""
    extra_share: float = 0.1
    """Share of extra pictures, when there are any, in batches and in the latent statistics."""
    noise: float = 0.8
    """tau of the decoder's noise augmentation."""
    goal_features: int = 6
    """Number of goal features."""
    goal_ridge: float = 0.1
    """Noise that goal features must stand, as a share of the latents' variance within episodes."""
    probe_frames: int = 6144
    """Largest number of frames that statistics, goal features and the probe are computed on."""
    decoder_frames: int = 32768
    """Largest number of frames, and of extra pictures, kept encoded in memory for the decoder."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Optimisation of every stage."""
    seed: int = 0
    """Of weights, batches, noise and masks."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.objectives if name not in ("mae", "vicreg")]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives are {self.objectives}, but they must be one or both of 'mae', 'vicreg'")
        if self.decoder_steps < 1 or self.batch_size < 2:
            raise UserError(f"decoder_steps {self.decoder_steps} must be at least 1, batch_size {self.batch_size} at least 2")
        if self.seed < 0:
            raise UserError(f"seed {self.seed} must be at least 0")
        if not 0 <= self.extra_share < 1 or not 0 <= self.margin < 1:
            raise UserError(f"extra_share {self.extra_share} and margin {self.margin} must lie in [0, 1)")


@dataclass(frozen=True)
class Candidate:
    """A codec with a trained encoder; its decoder is trained only if it is chosen."""

    codec: RAE
    probe: LinearProbe
    report: dict[str, Any]


def train_codec(
    config: CodecConfig,
    data: CodecData,
    out: Path | str,
    device: torch.device | str = "cpu",
    tensorboard: Path | str | None = None,
) -> tuple[Codec, dict[str, Any]]:
    """Trains a codec, or goes on with one, or reads it if it is finished.

    Args:
        config: sizes, steps and seed.
        data: frames, true variables and splits.
        out: folder of the codec; made if it is missing.
        device: to train on.
        tensorboard: log folder, `out/tensorboard` by default.

    Returns:
        The codec, frozen and in evaluation mode, and the report that also lies in `out/report.json`.

    Raises:
        UserError: when frames have the wrong size, or `out` is in use or holds something else or another run.
    """
    out, device = Path(out), torch.device(device)
    data.check(config.encoder.image_size)
    run = {"config": dataclasses.asdict(config), "data": data.fingerprint()}
    with claim(out, run):
        if (out / "report.json").exists():
            logger.info("%s holds a finished codec", out)
            return freeze(load_codec(out, device)), json.loads((out / "report.json").read_text())
        started = time.perf_counter()
        with SummaryWriter(str(tensorboard or out / "tensorboard")) as writer:
            candidates = {name: train_encoder(name, config, data, out, device, writer) for name in config.objectives}
            chosen = choose(candidates, config.margin)
            codec, probe = candidates[chosen].codec, candidates[chosen].probe
            seconds = train_decoder(codec, config, data, out, writer)
            reconstruction = measure_reconstruction(codec, probe, data, config.seed, writer)
        report = {
            "chosen": chosen,
            "objectives": {name: candidate.report for name, candidate in candidates.items()},
            "reconstruction": reconstruction,
            "decoder_seconds": seconds,
            "seconds": time.perf_counter() - started,
            "latents": {"num_tokens": codec.num_tokens, "channels": codec.channels},
            "parameters": {"encoder": count(codec.encoder), "decoder": count(codec.decoder)},
            "frames": {"train": len(data.train), "validation": len(data.validation)},
            "config": dataclasses.asdict(config),
        }
        freeze(codec).save_pretrained(out)
        write_json(out / "report.json", report)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return codec, report


def train_encoder(
    name: Objective,
    config: CodecConfig,
    data: CodecData,
    out: Path,
    device: torch.device,
    writer: SummaryWriter,
) -> Candidate:
    """Trains one encoder by one objective, sets statistics and goal features, and measures the latents."""
    seed = config.seed * 10 + (1 if name == "mae" else 2)
    background, _ = mean_picture(data.frames[subset(data.train, 1024, config.seed)])
    objective: MaskedAutoencoder | JointEmbedding
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rae = RAEConfig(config.encoder, config.decoder, config.noise, config.goal_features)
        codec = RAE(rae).to(device).eval()
        if name == "mae":
            objective = MaskedAutoencoder(config.encoder, config.decoder, config.masked).to(device)
            objective.decoder.set_background(background)
            steps, sampler = config.masked.steps, FrameSampler(data, config.batch_size, config.extra_share)
        else:  # extra pictures have no neighbours, and beside them the frames would look all alike
            objective = JointEmbedding(config.encoder, config.joint).to(device)
            steps = config.joint.steps
            sampler = FrameSampler(data, config.batch_size, 0.0, config.joint.neighbour_steps)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(sampler.draw(generator), generator)

    checkpoint = out / "checkpoints" / f"{name}.safetensors"
    seconds = fit(name, objective, loss, steps, seed, config.fit, checkpoint, writer)
    codec.encoder.load_state_dict(objective.encoder.state_dict())
    if isinstance(objective, MaskedAutoencoder):
        codec.decoder.load_state_dict(objective.decoder.state_dict())
    else:
        codec.decoder.set_background(background)
    index, latents = calibrate(codec, config, data)
    probe, report = measure_latents(codec, data, index, latents, config.seed)
    logger.info("%s: probe error %.4f", name, report["probe"]["error"])
    for key, value in report["probe"].items():
        if isinstance(value, float):
            writer.add_scalar(f"codec/{name}/probe_{key}", value, steps)
    return Candidate(codec, probe, {**report, "steps": steps, "seconds": seconds})


def choose(candidates: dict[Objective, Candidate], margin: float) -> Objective:
    """The objective with the smallest held-out probe error; a later one must be better by the margin."""
    errors = {name: candidate.report["probe"]["error"] for name, candidate in candidates.items()}
    chosen, *others = errors
    for name in others:
        if errors[name] < (1 - margin) * errors[chosen]:
            chosen = name
    logger.info("the probe chooses %s among %s", chosen, errors)
    return chosen


def calibrate(codec: RAE, config: CodecConfig, data: CodecData) -> tuple[np.ndarray, Tensor]:
    """Sets the latent statistics, then the goal features, from training frames of whole episodes.

    Extra pictures enter the statistics with their share. Without them, where a frame hardly ever varies a
    picture's latents would be huge; with them no latent channel of a picture has more variance than 1 over
    the share.

    Returns:
        The indices of the frames, and their (m, n, c) latents.
    """
    index = whole_episodes(data.train, data.episode, config.probe_frames, config.seed)
    raw = raw_latents(codec, data.frames[index])
    mean, square = raw.mean(dim=0), raw.square().mean(dim=0)
    if data.extra is not None and extra_count(data, config.batch_size, config.extra_share):
        pictures = subset(np.arange(len(data.extra)), config.probe_frames, config.seed)
        other, share = raw_latents(codec, data.extra[pictures]), config.extra_share
        mean = (1 - share) * mean + share * other.mean(dim=0)
        square = (1 - share) * square + share * other.square().mean(dim=0)
    codec.set_statistics(mean, (square - mean.square()).clamp_min(0))
    latents = ((raw.float() - codec.mean) / codec.std).float()
    goal_map = goal_projection(latents, data.episode[index], config.goal_features, config.goal_ridge)
    codec.set_goal_map(goal_map)
    return index, latents


def raw_latents(codec: RAE, frames: np.ndarray) -> Tensor:
    """(m, n, c) float64 outputs of the encoder; the codec's statistics must still be those of a new codec."""
    return codec.encode_frames(frames).double()


def train_decoder(codec: RAE, config: CodecConfig, data: CodecData, out: Path, writer: SummaryWriter) -> float:
    """Trains the decoder on latents of the frozen encoder; returns the seconds it took."""
    num_extra = extra_count(data, config.batch_size, config.extra_share)
    frames = data.frames[subset(data.train, config.decoder_frames, config.seed)]
    sources = [(frames, codec.encode_frames(frames), config.batch_size - num_extra)]
    if data.extra is not None and num_extra:
        extra = data.extra[subset(np.arange(len(data.extra)), config.decoder_frames, config.seed)]
        sources.append((extra, codec.encode_frames(extra), num_extra))
    sampler = LatentSampler(sources)

    def loss(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return codec.decoder_loss(*sampler.draw(generator), generator)

    checkpoint = out / "checkpoints" / "decoder.safetensors"
    return fit("decoder", codec, loss, config.decoder_steps, config.seed * 10 + 3, config.fit, checkpoint, writer)


def freeze(codec: Codec) -> Codec:
    """The codec itself, with no parameter that wants a gradient."""
    return codec.requires_grad_(False).eval()


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
