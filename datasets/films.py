"""Films and sheets of frames for people: enlarged without smoothing, with words above them, as mp4, GIF or PNG.

Axes: t steps, h height, w width.
"""

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.datasets.atomic import replacing, writing
from worldmodel.datasets.outputs import MARK
from worldmodel.datasets.video import VideoWriter
from worldmodel.errors import UserError

ENDINGS = (".mp4", ".gif")
"""What a film's name may end in."""
STRIP, MARGIN, FONT_SIZE = 18, 4, 12
"""Height of the line of text above a row, space left of it, size of its letters, in pixels."""
SHORTEST = 6.0
"""Seconds that a film of few frames shall last at least, before it stands still."""
HOLD = 1.5
"""Seconds that a film stands still at its end."""
SLOWEST, FASTEST = 2.0, 8.0
"""Frames per second."""


def frame_rate_for(frames: int) -> float:
    """Compute frames per second at which this many can be followed: as slow as `SHORTEST` asks for, within bounds."""
    return min(FASTEST, max(SLOWEST, frames / SHORTEST))


def write_film(path: Path | str, frames: Iterable[np.ndarray], fps: float, hold: float = 0.0) -> None:
    """Write a film whole or not at all; its file says that worldmodel made it.

    Args:
        path: ends in .mp4 (H.264) or .gif.
        frames: uint8 (h, w, 3) each, of one size.
        fps: frames per second.
        hold: seconds that the last frame stays.

    Raises:
        UserError: another ending; no frame; it cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} must end in {' or '.join(ENDINGS)}")
    shown = _held(frames, round(hold * fps))
    with writing(path), replacing(path, ending=f".tmp{ending}") as temporary:
        if ending == ".gif":
            _write_gif(temporary, shown, fps)
            return
        with VideoWriter(temporary, fps, comment=MARK) as film:
            for frame in shown:
                film.add(frame)


def _held(frames: Iterable[np.ndarray], times: int) -> Iterator[np.ndarray]:
    """Yield the frames, the last one so many times more."""
    last = None
    for last in frames:
        yield last
    yield from itertools.repeat(last, times) if last is not None else ()


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    first, *others = (Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, comment=MARK.encode())


def labelled(rows: Sequence[np.ndarray], labels: Sequence[Sequence[str]], least_width: int = 384) -> np.ndarray:
    """Put films below each other, each with a line of text above it: uint8 (t, height, width, 3) with even sides.

    Args:
        rows: uint8 (t, h, w, 3) each, of equal length.
        labels: a text for each step of each row.
        least_width: pixels; frames are enlarged by a whole number until they are as wide.
    """
    scale = max(1, -(-least_width // max(row.shape[2] for row in rows)))
    font = ImageFont.load_default(FONT_SIZE)
    width = scale * max(row.shape[2] for row in rows)
    height = sum(STRIP + scale * row.shape[1] for row in rows)
    film = np.full((len(rows[0]), height + height % 2, width + width % 2, 3), 255, np.uint8)
    top = 0
    for row, texts in zip(rows, labels, strict=True):
        large = row.repeat(scale, axis=1).repeat(scale, axis=2)
        film[:, top + STRIP : top + STRIP + large.shape[1], : large.shape[2]] = large
        for t, text in enumerate(texts):
            if t and text == texts[t - 1]:
                film[t, top : top + STRIP] = film[t - 1, top : top + STRIP]
            else:
                film[t, top : top + STRIP] = _line(text, film.shape[2], font)
        top += STRIP + large.shape[1]
    return film


def _line(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> np.ndarray:
    """Draw a text on white: uint8 (STRIP, width, 3)."""
    strip = Image.new("RGB", (width, STRIP), "white")
    ImageDraw.Draw(strip).text((MARGIN, 1), text, "black", font)
    return np.asarray(strip)


def captioned(pictures: Sequence[np.ndarray], captions: Sequence[str], least_width: int = 256) -> Image.Image:
    """Put pictures next to each other, enlarged, each with its caption below.

    Args:
        pictures: uint8 (h, w, 3) each, of one size.
        captions: one each.
        least_width: pixels; pictures are enlarged by a whole number until they are as wide.
    """
    height, width = pictures[0].shape[:2]
    scale = max(1, -(-least_width // width))
    height, width = scale * height, scale * width
    font = ImageFont.load_default(FONT_SIZE)
    texts = ["\n".join(textwrap.wrap(caption, max(8, int(width / (0.55 * FONT_SIZE))))) for caption in captions]
    below = max(text.count("\n") + 1 for text in texts) * (FONT_SIZE + 4) + 2 * MARGIN
    sheet = Image.new("RGB", (len(pictures) * (width + MARGIN) + MARGIN, height + below + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        left = MARGIN + column * (width + MARGIN)
        sheet.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (left, MARGIN))
        draw.multiline_text((left, height + 2 * MARGIN), text, "black", font)
    return sheet
