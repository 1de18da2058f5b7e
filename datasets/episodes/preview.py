"""Episodes for the eye: a contact sheet of frames with what was said about them, and a film of several side by side."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.films import paced, write_film
from worldmodel.datasets.outputs import check_output, png_bytes, write_output
from worldmodel.errors import UserError

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

TILE = 128
"""Frames are enlarged to at least this many pixels, without smoothing."""
GAP, LINE, FONT_SIZE = 8, 13, 11
CAPTION_LINES = 5
STRIP = 20
"""Height of the line of text below a film's picture."""
FRAMES_PER_READ = 16
ENDINGS = (".png", ".mp4", ".gif")
INK, SOFT = "#1d1f24", "#70757f"


def preview(path: Path, out: Path | None = None, overwrite: bool = False) -> Path:
    """Draw a contact sheet, or a film when `out` ends in .mp4 or .gif, and return what was written, `<stem>.png` by default.

    Raises:
        UserError: the file cannot be read; `out` has another ending, or is a file of somebody else, unless `overwrite`.
    """
    out = out if out is not None else path.with_suffix(".png")
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"{out}: a preview ends in .png (contact sheet), .mp4 or .gif (film)")
    check_output(out, ENDINGS, [path], overwrite)
    (contact_sheet if out.suffix.lower() == ".png" else preview_video)(path, out)
    return out


def contact_sheet(path: Path, out: Path, episodes: int = 6, steps: int = 8) -> None:
    """Write a PNG: a row for each episode, a column for each step, at most so many, evenly spread, the captions below the frames."""
    font = ImageFont.load_default(FONT_SIZE)
    with EpisodeStore(path) as store:
        chosen = _spread(len(store), episodes)
        columns = min(steps, int(store.lengths[chosen].max()) + 1)
        scale = _scale(store)
        height, width = (scale * side for side in store.frame(0, 0).shape[:2])
        captions, policies = store.has_text("captions"), store.texts("policy")
        row_height = LINE + height + (1 + CAPTION_LINES * captions) * LINE + GAP
        sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + len(chosen) * row_height), "white")
        draw = ImageDraw.Draw(sheet)
        for row, i in enumerate(chosen.tolist()):
            top = GAP + row * row_height
            draw.text((GAP, top), _shortened(_title(store, i, policies[i]), sheet.width - 2 * GAP, font), INK, font)
            for column, t in enumerate(_spread(int(store.lengths[i]) + 1, columns).tolist()):
                left = GAP + column * (width + GAP)
                sheet.paste(Image.fromarray(store.frame(i, t)).resize((width, height), Image.Resampling.NEAREST), (left, top + LINE))
                said = [f"step {t * store.action_block}", *(_wrapped(store.caption(i, t), width, font) if captions else ())]
                draw.multiline_text((left, top + LINE + height), "\n".join(said), SOFT, font, spacing=1)
    write_output(out, png_bytes(sheet))


def preview_video(path: Path, out: Path, episodes: int = 9, fps: float = 8, max_steps: int = 400) -> None:
    """Write an mp4 (H.264) or a GIF: several episodes in a grid, the step's number below each; one that ended stands still.

    At most `episodes` are shown, evenly spread over the file, `fps` recorded steps a second, `max_steps` of them at most.
    """
    with EpisodeStore(path) as store:
        chosen = _spread(len(store), episodes)
        frames = min(max_steps, int(store.lengths[chosen].max())) + 1
        write_film(out, _grids(store, chosen, frames), *paced(frames, fps))


def _grids(store: EpisodeStore, chosen: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """Yield the pictures of a film of several episodes."""
    font = ImageFont.load_default(FONT_SIZE)
    for start in range(0, frames, FRAMES_PER_READ):
        times = np.arange(start, min(start + FRAMES_PER_READ, frames))
        tiles = [_read_held(store, i, times) for i in chosen.tolist()]
        for k, t in enumerate(times.tolist()):
            yield _grid(store, chosen, [tile[k] for tile in tiles], t, font)


def _read_held(store: EpisodeStore, i: int, times: np.ndarray) -> np.ndarray:
    """Read the frames of an episode at these times, uint8 (len(times), H, W, 3); the last one goes on."""
    return store.frames(store.frame_rows([i])[np.minimum(times, store.lengths[i])])


def _grid(store: EpisodeStore, chosen: np.ndarray, frames: list[np.ndarray], t: int, font: Font) -> np.ndarray:
    """Draw one picture of the film: uint8 (height, width, 3) with even sides."""
    scale = _scale(store)
    height, width = (scale * side for side in frames[0].shape[:2])
    columns = int(np.ceil(np.sqrt(len(frames))))
    rows = -(-len(frames) // columns)
    size = (columns * (width + GAP) + GAP, rows * (height + STRIP) + GAP)
    picture = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), "white")
    draw = ImageDraw.Draw(picture)
    for place, (i, frame) in enumerate(zip(chosen.tolist(), frames, strict=True)):
        left, top = GAP + place % columns * (width + GAP), GAP + place // columns * (height + STRIP)
        picture.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (left, top))
        step = min(t, int(store.lengths[i])) * store.action_block
        draw.text((left, top + height + 2), f"episode {i}, step {step}", INK if t <= store.lengths[i] else SOFT, font)
    return np.asarray(picture)


def _title(store: EpisodeStore, i: int, policy: str) -> str:
    first = int(store.offsets[i]) - i
    total = float(store.rows("reward", first, first + int(store.lengths[i])).sum())
    reward = "" if np.isnan(total) else f"return {total:.4g}"
    parts = [f"episode {i}", f"policy {policy}" if policy else "", reward, store.goal_text(i)]
    return " · ".join(part for part in parts if part)


def _spread(length: int, most: int) -> np.ndarray:
    """Choose at most `most` of 0 ... length - 1, evenly, the first and the last with them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _scale(store: EpisodeStore) -> int:
    return max(1, -(-TILE // store.image_size))


def _wrapped(text: str, width: int, font: Font) -> list[str]:
    """Break the text into lines that fit, `CAPTION_LINES` of them at most."""
    for per_line in range(max(8, int(2 * len(text) * width / max(1.0, font.getlength(text)))), 7, -1):  # letters differ in width
        lines = textwrap.wrap(text, per_line, max_lines=CAPTION_LINES, placeholder=" ...")
        if all(font.getlength(line) <= width for line in lines):
            break
    return [_shortened(line, width, font) for line in lines]


def _shortened(text: str, width: int, font: Font) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
