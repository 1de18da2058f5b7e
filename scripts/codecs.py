"""Compare codecs on the same held-out frames: reconstruction, a linear probe of the true state, smoothness, speed; in one table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tyro.conf import Positional

from worldmodel.codec.codec import Codec
from worldmodel.codec.comparison import PARTS, check_size, compare_codec, control_errors, reconstruction_columns
from worldmodel.codec.comparison_table import HEADER, ROWS, codec_cells, control_cells, sheet
from worldmodel.codec.data import CodecData
from worldmodel.codec.kinds import load_codec
from worldmodel.codec.perceptual import NAME
from worldmodel.codec.training_frames import codec_data, open_frames
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.datasets.outputs import check_output, json_bytes, png_bytes, write_output
from worldmodel.errors import UserError
from worldmodel.precision import choose_device
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.system_info import command_line, device_facts, machine
from worldmodel.unseen import warn_of_seen


@dataclass(frozen=True)
class CodecsConfig(JsonFlag):
    """Compare codecs on the same held-out frames: reconstruction, a linear probe of the true state, smoothness, speed.

    `worldmodel codecs codec pixels --data two_room.h5 --out codecs.json` prints one table.
    """

    codecs: Positional[tuple[Path, ...]]
    """Folders of codecs, from worldmodel codec; all for frames of one size."""
    data: tuple[Path, ...]
    """Episode files, the codecs' own or others."""
    out: Path | None = None
    """JSON file for the table; next to it comes a picture, .png, of the codecs' reconstructions."""
    overwrite: bool = False
    """Replace files of these names which worldmodel did not make."""
    probe_frames: int = 6144
    """Largest number of training frames that the probe is fitted on; half as many held-out ones at most are reported on."""
    held_out: float = 0.1
    """Share of the episodes that is held out; as in training, or the codecs have seen them."""
    split_seed: int = 0
    """Decides which; as in training."""
    seed: int = 0
    """Of the choice of frames and of pairs of frames."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        if not self.codecs or not self.data:
            raise UserError("give at least one codec's folder, and episode files with --data")
        if self.probe_frames < 2 or self.seed < 0:
            raise UserError(f"--probe-frames {self.probe_frames} must be at least 2, --seed {self.seed} at least 0")


def main(config: CodecsConfig) -> dict[str, Any]:
    """Measure each codec, print the table, write the figures and the picture."""
    mixture = MixtureConfig(pictures=0, held_out=config.held_out, split_seed=config.split_seed)
    if config.out is not None:
        check_output(config.out, (".json",), config.data, config.overwrite)
        check_output(config.out.with_suffix(".png"), (), config.data, config.overwrite)
    device = choose_device(config.device)
    codecs = [load_codec(folder, device) for folder in config.codecs]
    opened = open_frames(config.data, mixture)
    for codec in codecs:
        warn_of_seen(codec, opened.stores, opened.held_out_episodes)
    data = codec_data(opened)
    for folder, codec in zip(config.codecs, codecs, strict=True):
        check_size(folder, codec, data)
    with tqdm(total=PARTS * len(codecs), unit="part", desc="codecs", disable=None) as bar:
        rows = [compare_codec(codec, data, config.probe_frames, config.seed, bar.update) for codec in codecs]
    control = {
        "probe": control_errors(data),
        "reconstruction": {name: rows[0]["reconstruction"][f"{name}_mean_frame"] for name in ("psnr", "ssim", "perceptual")},
    }
    names = [str(folder) for folder in config.codecs]
    print_columns([HEADER, *(codec_cells(name, row) for name, row in zip(names, rows, strict=True)), control_cells(control)])
    facts = {
        "command": command_line("codecs"),
        "machine": machine("numpy") | device_facts(codecs[0].mean.device),
        "data": {"files": list(map(str, config.data)), "held_out_frames": len(data.validation), "variables": list(data.names)},
        "perceptual": NAME if control["reconstruction"]["perceptual"] is not None else None,
        "codecs": [{"folder": name, **row} for name, row in zip(names, rows, strict=True)],
        "mean_frame": control,
    }
    if config.out is None:
        return facts
    write_output(config.out, json_bytes(facts))
    save_picture(config.out.with_suffix(".png"), names, codecs, data, config.seed)
    print(f"wrote {config.out} and {config.out.with_suffix('.png')}")
    return facts


def save_picture(path: Path, names: Sequence[str], codecs: list[Codec], data: CodecData, seed: int) -> None:
    """Draw held-out frames in the first column, each codec's reconstructions in the next ones, the mean frame in the last."""
    columns = reconstruction_columns(codecs, data, ROWS, seed)
    labels = ["truth", *(Path(name).name or name for name in names), "mean frame"]
    write_output(path, png_bytes(sheet(labels, columns)))


if __name__ == "__main__":
    sys.exit(run_verb("codecs", lambda: main, sys.argv[1:]))
