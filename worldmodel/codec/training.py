"""Trains a codec: one encoder per objective, a probe to choose between them, then the decoder of the chosen one.

    frames -> encoder by MAE    \\
                                  probe of the true state -> the better encoder, frozen -> statistics -> decoder
    frames -> encoder by VICReg /

Everything lands in one folder: run.json (what was asked), checkpoints/ while it trains, tensorboard/, then config.json,
model.safetensors and report.json. The same call on the same folder goes on where it stopped, bit for bit on a CPU.
"""

import dataclasses
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.codec.data import CodecData, FrameSampler, LatentSampler, subset
from worldmodel.codec.fitting import FitConfig, fit
from worldmodel.codec.frames import frames_to_float, psnr
from worldmodel.codec.probe import LinearProbe, fit_probe, goal_distance_report, probe_report
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.ssl import JointConfig, JointEmbedding, MaskedAutoencoder, MaskedConfig
from worldmodel.codec.vit import DecoderConfig, Encoder, EncoderConfig
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
    """Self-supervised objectives to try; the linear probe chooses among them."""
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    """Of the objective mae."""
    joint: JointConfig = field(default_factory=JointConfig)
    """Of the objective vicreg."""
    encoder_steps: int = 500
    """Training steps of each objective."""
    decoder_steps: int = 800
    """Training steps of the decoder."""
    batch_size: int = 128
    """Frames in a batch."""
    extra_share: float = 0.2
    """Share of a batch taken from the extra pictures, when there are any."""
    noise: float = 0.8
    """tau of the decoder's noise augmentation."""
    probe_frames: int = 8192
    """Largest number of frames that the latent statistics and the probe are computed on."""
    decoder_frames: int = 32768
    """Largest number of frames kept encoded in memory for the decoder."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Optimisation of every stage."""
    seed: int = 0
    """Of weights, batches, noise and masks."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.objectives if name not in ("mae", "vicreg")]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives are {self.objectives}, but they must be one or both of 'mae' and 'vicreg'")
        if self.encoder_steps < 1 or self.decoder_steps < 1 or self.batch_size < 2:
            raise UserError(
                f"encoder_steps {self.encoder_steps} and decoder_steps {self.decoder_steps} must be at least 1, "
                f"batch_size {self.batch_size} at least 2"
            )
        if not 0 <= self.extra_share < 1:
            raise UserError(f"extra_share is {self.extra_share}, but it must lie in [0, 1)")


def train_codec(
    config: CodecConfig,
    data: CodecData,
    out: Path | str,
    device: torch.device | str = "cpu",
    tensorboard: Path | str | None = None,
) -> tuple[RAE, dict[str, Any]]:
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
        UserError: when frames have the wrong size, when `out` holds something else or another run, or is in use.
    """
    out, device = Path(out), torch.device(device)
    data.check(config.encoder.image_size)
    with claim(out, config, data):
        if (out / "report.json").exists():
            logger.info("%s holds a finished codec", out)
            return RAE.from_pretrained(out, device), json.loads((out / "report.json").read_text())
        started = time.perf_counter()
        with SummaryWriter(str(tensorboard or out / "tensorboard")) as writer:
            candidates = {name: train_encoder(name, config, data, out, device, writer) for name in config.objectives}
            chosen = max(candidates, key=lambda name: candidates[name].report["probe"]["r2"])
            logger.info("the probe chooses %s among %s", chosen, ", ".join(candidates))
            codec = candidates[chosen].codec
            seconds = train_decoder(codec, config, data, out, writer)
            report = {
                "chosen": chosen,
                "objectives": {name: candidate.report for name, candidate in candidates.items()},
                "reconstruction": reconstruction_report(codec, candidates[chosen].probe, config, data, writer),
                "decoder_seconds": seconds,
                "seconds": time.perf_counter() - started,
                "latents": {"num_tokens": codec.num_tokens, "channels": codec.channels},
                "parameters": {"encoder": count(codec.encoder), "decoder": count(codec.decoder)},
                "frames": {"train": len(data.train), "validation": len(data.validation)},
                "config": dataclasses.asdict(config),
            }
        codec.requires_grad_(False).save_pretrained(out)
        write_json(out / "report.json", report)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return codec, report


@dataclass(frozen=True)
class Candidate:
    """A trained encoder inside a codec whose decoder is still untrained."""

    codec: RAE
    probe: LinearProbe
    report: dict[str, Any]


def train_encoder(
    name: Objective, config: CodecConfig, data: CodecData, out: Path, device: torch.device, writer: SummaryWriter
) -> Candidate:
    """Trains one encoder by one objective, sets the latent statistics and measures the latents."""
    seed = config.seed * 10 + (1 if name == "mae" else 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective: MaskedAutoencoder | JointEmbedding
        if name == "mae":
            objective = MaskedAutoencoder(config.encoder, config.masked)
        else:
            objective = JointEmbedding(config.encoder, config.joint)
        codec = RAE(RAEConfig(config.encoder, config.decoder, config.noise)).to(device).eval()
    objective.to(device)
    sampler = FrameSampler(data, config.batch_size, config.extra_share, config.joint.neighbour_steps)
    checkpoint = out / "checkpoints" / f"{name}.safetensors"
    seconds = fit(
        name,
        objective,
        lambda generator: objective(sampler.draw(generator), generator),
        config.encoder_steps,
        seed,
        config.fit,
        checkpoint,
        writer,
    )
    codec.encoder.load_state_dict(objective.encoder.state_dict())
    probe, report = measure_latents(codec, config, data)
    for key, value in {**report["probe"], **report["goal_distance"]}.items():
        if isinstance(value, float):
            writer.add_scalar(f"codec/{name}/probe_{key}", value, config.encoder_steps)
    return Candidate(codec, probe, {**report, "seconds": seconds})


def measure_latents(codec: RAE, config: CodecConfig, data: CodecData) -> tuple[LinearProbe, dict[str, Any]]:
    """Sets the codec's latent statistics from training frames; probes its latents on held-out ones."""
    train = subset(data.train, config.probe_frames, config.seed)
    held_out = subset(data.validation, config.probe_frames // 2, config.seed)
    raw = codec.encode_frames(data.frames[train])
    codec.set_statistics(*latent_statistics(raw))
    latents, held_out_latents = codec.encode_frames(data.frames[train]), codec.encode_frames(data.frames[held_out])
    episodes = np.unique(data.episode[train])
    choose = np.isin(data.episode[train], episodes[:: max(2, min(8, len(episodes)))])
    probe = fit_probe(latents[~choose], data.features[train[~choose]], latents[choose], data.features[train[choose]])
    report = {
        "probe": probe_report(probe, held_out_latents, data.features[held_out], data.names),
        "goal_distance": goal_distance_report(held_out_latents, data.features[held_out], 5000, config.seed),
        "step_ratio": step_ratio(held_out_latents, data.episode[held_out], held_out, config.seed),
    }
    if data.extra is not None and len(data.extra):
        report["extra_std"] = codec.encode_frames(data.extra[:512]).std().item()
    return probe, report


def latent_statistics(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(M, n, c) encoder outputs -> (n, c) mean and standard deviation per position and channel, eps 1e-5 (RAE)."""
    variance, mean = torch.var_mean(raw.double(), dim=0, correction=0)
    return mean.float(), (variance + 1e-5).sqrt().float()


def step_ratio(latents: Tensor, episode: np.ndarray, index: np.ndarray, seed: int) -> float:
    """Latent distance of consecutive frames over that of random ones; small means smooth along a trajectory."""
    pairs = np.flatnonzero((np.diff(index) == 1) & (np.diff(episode) == 0))
    other = np.random.default_rng(seed).permutation(len(latents))
    near = (latents[pairs] - latents[pairs + 1]).square().mean().item() if len(pairs) else 0.0
    return near / max((latents - latents[other]).square().mean().item(), 1e-12)


def train_decoder(codec: RAE, config: CodecConfig, data: CodecData, out: Path, writer: SummaryWriter) -> float:
    """Trains the decoder on latents of the frozen encoder; returns the seconds it took."""
    device = codec.mean.device
    num_extra = round(config.batch_size * config.extra_share) if data.extra is not None and len(data.extra) else 0
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


@torch.no_grad()
def reconstruction_report(
    codec: RAE, probe: LinearProbe, config: CodecConfig, data: CodecData, writer: SummaryWriter
) -> dict[str, Any]:
    """How well held-out frames are painted, beside the mean training frame as control.

    Returns:
        `psnr` in dB; `psnr_moving` over the pixels that differ from the mean frame; `psnr_mean_frame`, `psnr_moving_mean_frame`
        of the control; `psnr_noise_05` from latents with noise of standard deviation 0.5; `probe_error_repainted`: error of
        the probe on painted frames that were encoded again (is the thing where it should be?), in feature units;
        `psnr_extra` for held-out extra pictures.
    """
    device = codec.mean.device
    index = subset(data.validation, 1024, config.seed)
    frames = frames_to_float(data.frames[index], device)
    mean = frames_to_float(data.frames[subset(data.train, 1024, config.seed)], device).mean(dim=0).expand_as(frames)
    latents = codec.encode(frames)
    painted = codec.decode(latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(config.seed)).to(device)
    moving = ((frames - mean).abs().amax(dim=1, keepdim=True) > 0.1).expand_as(frames)
    again = probe_report(probe, codec.encode(painted), data.features[index], data.names)
    report = {
        "psnr": psnr(painted, frames),
        "psnr_moving": psnr(painted[moving], frames[moving]) if moving.any() else None,
        "psnr_mean_frame": psnr(mean, frames),
        "psnr_moving_mean_frame": psnr(mean[moving], frames[moving]) if moving.any() else None,
        "psnr_noise_05": psnr(codec.decode(latents + 0.5 * noise), frames),
        "probe_error_repainted": again["error"],
    }
    shown = [torch.cat([frames[:8], painted[:8]])]
    if data.extra_validation is not None and len(data.extra_validation):
        extra = frames_to_float(data.extra_validation[:1024], device)
        extra_painted = codec.decode(codec.encode(extra))
        report["psnr_extra"] = psnr(extra_painted, extra)
        shown.append(torch.cat([extra[:8], extra_painted[:8]]))
    for name, pictures in zip(("frames", "extra"), shown, strict=False):
        writer.add_images(f"codec/{name}_above_painted_below", pictures, config.decoder_steps)
    return report


@contextmanager
def claim(out: Path, config: CodecConfig, data: CodecData) -> Iterator[None]:
    """Holds the folder for this run, and checks that what lies there is this run.

    Raises:
        UserError: when another process uses it, or when it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the codec")
    foreign = out.exists() and any(p.name != ".lock" for p in out.iterdir()) and not (out / "run.json").exists()
    if foreign:
        raise UserError(f"{out} holds something else (no run.json); name an empty or new folder for the codec")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is in use by another process; wait for it or name another folder") from None
        run = json.loads(json.dumps({"config": dataclasses.asdict(config), "data": data.fingerprint()}))
        if not (out / "run.json").exists():
            write_json(out / "run.json", run)
        elif json.loads((out / "run.json").read_text()) != run:
            raise UserError(
                f"{out} holds a codec run with another configuration or other data (see run.json); "
                "name another folder, or the same arguments to go on with it"
            )
        yield


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
