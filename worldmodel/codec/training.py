"""Trains a codec of any kind, measures it and writes it with its report.

    rae, our own encoder:   frames -> encoder by MAE    +
                                                        +-> probe of the true state -> one encoder, frozen -> decoder
                            frames -> encoder by VICReg +
    rae, pretrained:        a loaded encoder, frozen -> decoder
    vae:                    encoder and decoder in one
    pixels:                 nothing but statistics

Everything lands in one folder: run.json (what was asked), checkpoints/ while it trains, tensorboard/, then
config.json, model.safetensors and report.json. The same call on the same folder goes on where it stopped,
bit for bit on a CPU.
"""

import dataclasses
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from worldmodel.codec.codec import Codec
from worldmodel.codec.config import CodecConfig
from worldmodel.codec.data import CodecData
from worldmodel.codec.kinds import KINDS, TRAIN, load_codec
from worldmodel.codec.perceptual import PerceptualDistance, load_perceptual
from worldmodel.codec.pretrained import load_encoder
from worldmodel.codec.quality import measure_reconstruction
from worldmodel.codec.training_stages import EncoderVariant, Stages
from worldmodel.datasets.atomic import locked_folder
from worldmodel.errors import UserError
from worldmodel.serialization import check_or_write_config, read_json, write_json

__all__ = ["CodecConfig", "train_codec"]

logger = logging.getLogger(__name__)


def train_codec(
    config: CodecConfig,
    data: CodecData,
    out: Path | str,
    device: torch.device | str = "cpu",
    tensorboard: Path | str | None = None,
) -> tuple[Codec, dict[str, Any]]:
    """Train a codec, or go on with one, or read it if it is finished.

    Args:
        config: kind, sizes, steps and seed.
        data: frames, true variables and splits.
        out: folder of the codec; made if it is missing.
        device: to train on.
        tensorboard: log folder, `out/tensorboard` by default.

    Returns:
        The codec, frozen and in evaluation mode, and the report that also lies in `out/report.json`.

    Raises:
        UserError: when frames have the wrong size, the pretrained encoder or the perceptual distance cannot be had, or `out` is
            in use or holds something else or another run.
    """
    out, device = Path(out), torch.device(device)
    check_free(out)
    size = config.image_size or data.frames.shape[1]
    data.check(size)
    finished = (out / "report.json").exists()  # then no hub is asked; and what is missing is reported before a folder is made
    encoder = distance = None
    if not finished:
        distance = perceptual_distance(config)
        if config.encoder_name:
            encoder = load_encoder(config.encoder_name, size, config.encoder_input_size, config.encoder_layer)
    run = {"config": dataclasses.asdict(config), "data": data.fingerprint()}
    with locked_folder(out):
        check_or_write_config(out / "run.json", run)
        if (out / "report.json").exists():
            logger.info("%s holds a finished codec", out)
            return freeze(load_codec(out, device)), read_json(out / "report.json", TRAIN)
        started = time.perf_counter()
        with SummaryWriter(str(tensorboard or out / "tensorboard")) as writer:
            stages = Stages(config, data, out, device, writer, encoder, distance.to(device) if distance is not None else None)
            variants = KINDS[config.kind].variants(stages)
            chosen = choose(variants, config.margin)
            codec, probe = variants[chosen].codec, variants[chosen].probe
            seconds = codec.train_decoder(stages)
            logger.info("measuring what the codec reconstructs of held-out frames")
            reconstruction = measure_reconstruction(codec, probe, data, config.seed, writer)
        report = {
            "kind": codec.kind,
            "encoder": config.encoder_name or chosen,
            "chosen": chosen,
            "objectives": {name: variant.report for name, variant in variants.items()},
            "reconstruction": reconstruction,
            "decoder_seconds": seconds,
            "seconds": time.perf_counter() - started,
            "latents": {"num_tokens": codec.num_tokens, "channels": codec.channels},
            "parameters": parameter_counts(codec),
            "frames": {"train": len(data.train), "validation": len(data.validation)},
            "config": dataclasses.asdict(config),
        }
        codec.trained_on = data.trained_on
        freeze(codec).save_pretrained(out)
        write_json(out / "report.json", report)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return codec, report


def check_free(out: Path) -> None:
    """Refuse a path that holds something else.

    Raises:
        UserError: it is a file, or a folder without the run.json of a codec.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the codec")
    if out.exists() and not (out / "run.json").exists() and any(path.name != "lock" for path in out.iterdir()):
        raise UserError(f"{out} holds something else, there is no run.json; name an empty or new folder")


def perceptual_distance(config: CodecConfig) -> PerceptualDistance | None:
    """Load the distance that the config weighs, or None for a weight of 0 or where nothing is trained.

    Raises:
        UserError: its weights are not at hand.
    """
    if config.perceptual_weight == 0 or not KINDS[config.kind].training_steps(config):
        return None
    distance = load_perceptual()
    if distance is None:
        raise UserError(
            f"perceptual_weight is {config.perceptual_weight}, but the weights of the perceptual distance are not here; "
            "`worldmodel datasets fetch hed lpips` brings them"
        )
    return distance


def choose(variants: dict[str, EncoderVariant], margin: float) -> str:
    """Choose the candidate with the smallest held-out probe error; a later one must be better by the margin."""
    errors = {name: variant.report["probe"]["error"] for name, variant in variants.items()}
    chosen, *others = errors
    for name in others:
        if errors[name] < (1 - margin) * errors[chosen]:
            chosen = name
    if others:
        logger.info("the probe chooses %s among %s", chosen, errors)
    return chosen


def freeze(codec: Codec) -> Codec:
    """Return the codec itself, with no parameter that requires a gradient."""
    return codec.requires_grad_(False).eval()


def parameter_counts(codec: Codec) -> dict[str, int]:
    """Count the parameters that encoding and decoding take."""
    sizes = {name: parameter.numel() for name, parameter in codec.named_parameters()}
    decoder = sum(size for name, size in sizes.items() if name.startswith("decoder."))
    return {"encoder": sum(sizes.values()) - decoder, "decoder": decoder}
