"""The comparison of codecs as rows of cells, and a sheet of their reconstructions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.codec.perceptual import NAME

if TYPE_CHECKING:
    from PIL import Image

ROWS, SCALE, MARGIN, LABEL_HEIGHT = 6, 2, 4, 16
"""Frames in the picture, their enlargement, and the space between and above them in pixels."""
HEADER = ("codec", "kind", "encoder", "latents", "parameters", "PSNR", "SSIM", NAME) + (
    "probe R^2",
    "error",
    "step ratio",
    "goal distance",
    "frames/s",
)


def codec_cells(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """Format a codec's row of the table."""
    return (
        name,
        row["kind"],
        row["encoder"],
        f"{row['num_tokens']} x {row['channels']}",
        f"{row['parameters'] / 1e6:.2f} M",
        *reconstruction_cells(row["reconstruction"]),
        f"{row['probe']['r2']:.3f}",
        f"{row['probe']['error']:.4f}",
        f"{row['step_ratio']:.3f}",
        f"{row['goal_distance']['goal_features']['spearman']:.3f}",
        f"{row['encode_frames_per_second']:,.0f}",
    )


def control_cells(control: dict[str, Any]) -> tuple[str, ...]:
    """Format the row of the control, which knows nothing of a frame and always decodes to the mean one."""
    probe = control["probe"]
    known = (*reconstruction_cells(control["reconstruction"]), f"{probe['r2']:.3f}", f"{probe['error']:.4f}")
    return ("mean frame", "-", "-", "-", "-", *known, "-", "-", "-")


def reconstruction_cells(values: dict[str, float | None]) -> tuple[str, ...]:
    """Format PSNR in dB, SSIM and perceptual distance; a dash for what cannot be measured."""
    formats = {"psnr": "{:.1f} dB", "ssim": "{:.4f}", "perceptual": "{:.4f}"}
    return tuple("-" if values[name] is None else form.format(values[name]) for name, form in formats.items())


def sheet(labels: Sequence[str], columns: Sequence[np.ndarray]) -> "Image.Image":
    """Lay out pictures uint8 (rows, h, w, 3) of each column below its label."""
    from PIL import Image, ImageDraw

    rows, size = len(columns[0]), SCALE * columns[0].shape[1]
    step = size + MARGIN
    picture = Image.new("RGB", (len(columns) * step + MARGIN, LABEL_HEIGHT + rows * step), "white")
    draw = ImageDraw.Draw(picture)
    for column, (label, frames) in enumerate(zip(labels, columns, strict=True)):
        left = MARGIN + column * step
        fitting = next(label[:end] for end in range(len(label), 0, -1) if draw.textlength(label[:end]) <= size or end == 1)
        draw.text((left, 2), fitting, fill="black")
        for row, frame in enumerate(frames):
            enlarged = Image.fromarray(frame).resize((size, size), Image.Resampling.NEAREST)
            picture.paste(enlarged, (left, LABEL_HEIGHT + row * step))
    return picture
