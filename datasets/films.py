"""Films and sheets of frames for people: enlarged without smoothing, with words above them, as mp4, GIF or PNG.

Axes: t steps, h height, w width.
"""

import itertools
import math
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
MOVING = 6.0
"""Seconds that a film's frames take together, if its rate may be chosen."""
SLOWEST, FASTEST = 2.0, 8.0
"""Frames per second."""
HOLD = 1.5
"""Seconds that a film stands still at its end at least."""
SHORTEST = 4.0
"""Seconds that a film lasts at least: one of few frames stands still for longer."""
LEAST_WIDTH, LEAST_WITH_WORDS = 256, 384
"""Pixels that a film is wide at least, without and with words above it; frames are enlarged by a whole number until they are."""
Label = str | tuple[str, ...]
"""A text above a frame, or several, each above its equal share of the width."""


def paced(frames: int, fps: float | None = None) -> tuple[float, float]:
    """Choose frames per second at which so many frames can be followed, unless given, and the seconds for which the last one stays."""
    fps = fps or min(FASTEST, max(SLOWEST, frames / MOVING))
    return fps, max(HOLD, SHORTEST - frames / fps)


def write_film(
    path: Path | str, frames: Iterable[np.ndarray], fps: float | None = None, hold: float | None = None, label: Label = ()
) -> None:
    """Write a film whole or not at all; its file says that worldmodel made it.

    Small frames are enlarged by a whole number, without smoothing, until they are `LEAST_WIDTH` or `LEAST_WITH_WORDS` wide.

    Args:
        path: ends in .mp4 (H.264) or .gif.
        frames: uint8 (h, w, 3) each, of one size.
        fps: frames per second; by default as many as can be followed.
        hold: seconds that the last frame stays; by default until the film has lasted four, and 1.5 at least.
        label: what stands above the film; none by default.

    Raises:
        UserError: another ending; no frame; it cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} must end in {' or '.join(ENDINGS)}")
    if fps is None or hold is None:
        frames = list(frames)
        fps, usual = paced(len(frames), fps)
        hold = usual if hold is None else hold
    shown = _held(_enlarged(frames, label), math.ceil(hold * fps))
    first = next(shown, None)
    if first is None:
        raise UserError(f"there is no frame for {path} to show")
    shown = itertools.chain([first], shown)
    with writing(path), replacing(path, ending=f".tmp{ending}") as temporary:
        if ending == ".gif":
            _write_gif(temporary, shown, fps)
            return
        with VideoWriter(temporary, fps, comment=MARK) as film:
            for frame in shown:
                film.add(frame)


def _enlarged(frames: Iterable[np.ndarray], label: Label) -> Iterator[np.ndarray]:
    """Yield the frames as they are shown."""
    for frame in frames:
        scale = scale_for(frame.shape[1], LEAST_WIDTH)
        if label:
            [frame] = labelled([frame[None]], [[label]])
        elif scale > 1:
            frame = frame.repeat(scale, axis=0).repeat(scale, axis=1)
        yield frame


def scale_for(width: int, least: int) -> int:
    """Return the whole number by which pictures so wide are enlarged to be `least` pixels wide."""
    return max(1, -(-least // width))


def _held(frames: Iterable[np.ndarray], times: int) -> Iterator[np.ndarray]:
    """Yield the frames, the last one so many times more."""
    last = None
    for last in frames:
        yield last
    yield from itertools.repeat(last, times) if last is not None else ()


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    first, *others = (Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames)
    first.save(path, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, comment=MARK.encode())


def labelled(rows: Sequence[np.ndarray], labels: Sequence[Sequence[Label]], least_width: int = LEAST_WITH_WORDS) -> np.ndarray:
    """Put films below each other, each with a line of text above it: uint8 (t, height, width, 3) with even sides.

    Args:
        rows: uint8 (t, h, w, 3) each, of equal length.
        labels: for each step of each row.
        least_width: pixels; frames are enlarged by a whole number until they are as wide.
    """
    scale = scale_for(max(row.shape[2] for row in rows), least_width)
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
                film[t, top : top + STRIP] = _line(text, film.shape[2], large.shape[2], font)
        top += STRIP + large.shape[1]
    return film


def _line(label: Label, width: int, below: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> np.ndarray:
    """Draw a label on white, uint8 (STRIP, width, 3), above frames `below` pixels wide."""
    strip, texts = Image.new("RGB", (width, STRIP), "white"), (label,) if isinstance(label, str) else label
    for i, text in enumerate(texts):
        ImageDraw.Draw(strip).text((MARGIN + i * below // len(texts), 1), text, "black", font)
    return np.asarray(strip)


def captioned(pictures: Sequence[np.ndarray], captions: Sequence[str], least_width: int = 256) -> Image.Image:
    """Put pictures next to each other, enlarged, each with its caption below.

    Args:
        pictures: uint8 (h, w, 3) each, of one size.
        captions: one each.
        least_width: pixels; pictures are enlarged by a whole number until they are as wide.
    """
    height, width = pictures[0].shape[:2]
    scale = scale_for(width, least_width)
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
