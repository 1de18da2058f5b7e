"""Train the visual codec on episode files: encoders by self-supervision, the better one frozen, then its decoder."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.codec.training import CodecConfig, check_free, train_codec
from worldmodel.codec.training_frames import codec_data, open_frames
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.home import checkpoints_dir
from worldmodel.precision import choose_device
from worldmodel.scripts.console import command, run_verb, stages
from worldmodel.scripts.json_flag import JsonFlag


@dataclass(frozen=True)
class CodecVerbConfig(JsonFlag):
    """Train the visual codec on episode files: encoders by self-supervision, the better one frozen, then its decoder.

    `worldmodel codec --data two_room.h5 --out codec --codec.kind pixels` goes on after a stop when it runs again.
    """

    data: tuple[Path, ...] = ()
    """Episode files, from worldmodel collect or worldmodel datasets convert; a recipe may name them instead."""
    out: Path | None = None
    """Folder of the codec; by default `codec` in the checkpoints folder of WORLDMODEL_HOME."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Sizes, steps and seed."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """What is held out, and whether pictures are used in addition to the frames."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""


def main(config: CodecVerbConfig) -> dict[str, Any]:
    """Train or continue, then say how good it is."""
    out, device = config.out or checkpoints_dir() / "codec", choose_device(config.device)
    check_free(out)
    recipe = config.mixture.recipe
    with stages("reading the frames"):
        data = codec_data(open_frames(config.data, config.mixture))
    _, report = train_codec(config.codec, data, out, device)
    try:
        lines = [f"{name}: probe R^2 {variant['probe']['r2']:.3f}" for name, variant in report["objectives"].items()]
        lines += [f"chosen: {report['chosen']}, PSNR {report['reconstruction']['psnr']:.1f} dB on held-out frames"]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{out / 'report.json'} is damaged: remove it and the same command measures the codec again") from None
    print("\n".join(lines))
    print(f"{out}: codec written; its report is {out / 'report.json'}")
    given = [*(["--data", *config.data] if config.data else []), *(["--mixture.recipe", recipe] if recipe else [])]
    print(f"next: {command('pretrain', *given, '--codec', out)}")
    return report


if __name__ == "__main__":
    sys.exit(run_verb("codec", lambda: main, sys.argv[1:]))
