"""Folders of videos and folders of pictures, with or without actions; they hold episodes as they are, no format above them.

Videos: `<name>.mp4` is an episode; next to it may lie `<name>.actions.npy` (or .csv, .jsonl) and `<name>.txt`.
Pictures: a folder `<name>` with `000000.png`, `000001.png`, ... is an episode; in it may lie `actions.npy` (or .csv,
.jsonl) and `captions.txt`; a folder of pictures alone is one episode.

N frames go with N - 1 actions, row t leading from frame t to frame t + 1; where there are N rows, the last one leads
nowhere and is left out. No actions: the episode's are (N - 1, 0). A text of N lines is a caption per frame; a text of another
length is the caption of every frame, unless it has almost N lines.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop.action_tables import ENDINGS, Table, UnreadableTable, load_table
from worldmodel.datasets.interop.foreign import action_names, episodes_of, foreign_episode, foreign_meta, new_path
from worldmodel.datasets.pictures.images import open_picture
from worldmodel.datasets.video import DEFAULT_FPS, GOOD, DamagedVideo, VideoFit, VideoWriter, decode, fit_image, fps_of, frame_rate
from worldmodel.errors import UserError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EPISODE_BYTES = 2**28
"""A longer video becomes several episodes, each beginning with the last frame of the one before: memory stays bounded."""
KEEPS = frozenset({"frames", "actions", "captions"})
"""What of an episode such a folder holds."""

logger = logging.getLogger(__name__)


class _Skip(Exception):
    """An episode that cannot be used; the text says why."""


def read(
    path: Path, size: int | None = None, fit: VideoFit = "crop", fps: float | None = None
) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Read episodes of a folder of videos, of a folder of folders of pictures, or of one video.

    What cannot be decoded is left out, warned of, and named with the reason in `meta["skipped"]`, which grows while the
    episodes are read.

    Args:
        path: the folder, or one video file.
        size: bring frames to this height and width in pixels.
        fit: what to do with frames that are not square when `size` is given.
        fps: frames per second to note down; by default what the first video says, 10 for pictures.

    Returns:
        The episodes in order of their names, and meta data.

    Raises:
        UserError: nothing to read; and, from the iterator, frames of several sizes, or not one episode that can be used.
    """
    path = Path(path)
    sources = _sources(path)
    claimed = None if fps or sources[0].is_dir() else frame_rate(sources[0])
    meta = foreign_meta(kind_of(path), path.name, 0, (), {"fps": fps or claimed or DEFAULT_FPS, "skipped": {}})
    return _episodes(path, sources, size, fit, meta), meta


def kind_of(path: Path) -> Literal["mp4", "frames"]:
    """Return `mp4` for a video or a folder of them, `frames` for pictures; UserError for anything else."""
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return "mp4"
    if path.is_dir():
        if _videos(path):
            return "mp4"
        if _pictures(path) or any(map(_pictures, _folders(path))):
            return "frames"
    raise UserError(f"{path} is no video, and no folder of videos or of folders of pictures")


def _sources(path: Path) -> list[Path]:
    """List what holds an episode each: video files, or folders of pictures."""
    if kind_of(path) == "mp4":
        return [path] if path.is_file() else _videos(path)
    return [path] if _pictures(path) else _folders(path)


def _videos(folder: Path) -> list[Path]:
    return _in_order(item for item in folder.iterdir() if item.suffix.lower() in VIDEOS)


def _folders(folder: Path) -> list[Path]:
    return _in_order(filter(Path.is_dir, folder.iterdir()))


def _pictures(folder: Path) -> list[Path]:
    return _in_order(item for item in folder.iterdir() if item.suffix.lower() in PICTURES)


def _in_order(items: Iterable[Path]) -> list[Path]:
    """Sort paths as people number them, 2.png before 10.png; hidden ones are left out.

    Names of one beginning and a decimal number, as time stamps are, are sorted by that: 0.25.png before 0.5.png. But in 1.5.png and
    1.10.png two whole numbers stand side by side: a number that is written out of its digits does not end in 0.
    """

    def key(item: Path) -> tuple[list[str | int], str]:
        parts = re.split(r"([0-9]+)", item.name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], item.name

    found = sorted((item for item in items if not item.name.startswith(".")), key=key)
    numbers = _decimal_numbers([item.name if item.is_dir() else item.stem for item in found])
    return [item for _, item in sorted(zip(numbers, found, strict=True), key=lambda pair: pair[0])] if numbers else found


def _decimal_numbers(stems: list[str]) -> list[float]:
    """Read the decimal numbers that names end in; none unless all do, behind the same words, and it is clear that they are numbers."""
    found = [re.fullmatch(r"(.*?)([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)", stem) for stem in stems]
    if not all(found) or len({match[1] for match in found if match}) != 1:
        return []
    digits = [match[2] for match in found if match]
    fractions = [number.partition(".")[2] for number in digits if "." in number]
    one_width = len({len(fraction) for fraction in fractions}) == 1 and len(fractions) == len(digits)
    if not fractions or not one_width and any(fraction.endswith("0") and fraction != "0" for fraction in fractions):
        return []
    numbers = [float(number) for number in digits]
    return numbers if len(set(numbers)) == len(numbers) else []


def _beside(source: Path, ending: str) -> Path:
    """Return where the companion file of an episode lies: `a.mp4` -> `a.actions.npy`, folder `a` -> `a/actions.npy`."""
    if source.is_dir():
        return source / ("captions.txt" if ending == ".txt" else ending.removeprefix("."))
    return source.with_name(source.stem + ending)


def _episodes(path: Path, sources: list[Path], size: int | None, fit: VideoFit, meta: dict[str, Any]) -> Iterator[Episode]:
    with_actions = any(_beside(source, f".actions{ending}").exists() for source in sources for ending in ENDINGS)
    shape: tuple[int, ...] | None = None
    skipped = meta["skipped"]
    for number, source in enumerate(tqdm(sources, desc=path.name, disable=None)):
        try:
            for episode in _read_source(source, number, size, fit, with_actions):
                if shape is None:
                    shape = episode.frames.shape[1:]
                    meta["action_names"] = action_names(episode.actions.shape[1])
                if episode.frames.shape[1:] != shape:
                    found, before = "x".join(map(str, episode.frames.shape[1:3])), "x".join(map(str, shape[:2]))
                    raise UserError(f"{source} has frames of {found} pixels, those before it {before}; give --size")
                yield episode
        except _Skip as error:
            logger.warning("%s is left out: %s", source, error)
            skipped[source.name] = str(error)
    if shape is None:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise UserError(f"nothing in {path} can be used ({len(skipped)} tried; {reasons}); give other files")


def _read_source(source: Path, number: int, size: int | None, fit: VideoFit, with_actions: bool) -> Iterator[Episode]:
    """Read the episodes of one video or one folder of pictures: one, or several when it is long.

    Raises:
        _Skip: it cannot be used. A long one is decoded once more before its first part is given, so that nothing is given of one
            that breaks off or has another number of frames than its actions say.
    """
    try:
        table, lines = _read_actions(source, with_actions), _read_lines(source)
        frames = decode(source, size, fit) if source.is_file() else _open_pictures(source, size, fit)
        start, total, piece = 0, 0, list[np.ndarray]()
        for frame in frames:
            if len(piece) > 1 and len(piece) * frame.nbytes >= EPISODE_BYTES:
                total = total or _count_frames(source)
                yield _piece(piece, start, total, table, lines, number)
                start, piece = start + len(piece) - 1, piece[-1:]
            piece.append(frame)
        yield _piece(piece, start, start + len(piece), table, lines, number)
    except (DamagedVideo, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _Skip(str(error)) from error


def _count_frames(source: Path) -> int:
    return sum(1 for _ in decode(source, size=16)) if source.is_file() else len(_pictures(source))


def _piece(piece: list[np.ndarray], start: int, total: int, table: Table | None, lines: list[str], number: int) -> Episode:
    """Make an episode of frames start, start + 1, ... of the `total` ones of a source; its actions and lines are cut to them."""
    if total < 2:
        raise _Skip(f"it has {total} frames, an episode needs two")
    if len({frame.shape for frame in piece}) > 1:
        raise _Skip("its pictures have several sizes; --size makes them one")
    actions = np.zeros((total, 0), np.float32) if table is None else table.rows
    if table is not None and table.doubt and len(actions) == total:  # one row less could hold no head
        raise _Skip(table.doubt)
    if len(actions) not in (total - 1, total):
        raise _Skip(f"it has {len(actions)} rows of actions for {total} frames, there must be one less than frames, or as many")
    stop = start + len(piece)
    captions = _captions(lines, total)[start:stop]
    return foreign_episode(np.stack(piece), actions[start : stop - 1], captions=captions, seed=number)


def _captions(lines: list[str], total: int) -> list[str]:
    """Make a caption for each of `total` frames: a line each, or all lines for every one. Blank lines at the end may be too many.

    Raises:
        _Skip: there are almost as many lines as frames, so that some of them are missing, or too many.
    """
    while len(lines) > total and not lines[-1].strip():
        lines = lines[:-1]
    if len(lines) == total:
        return lines
    if len(lines) > 1 and abs(len(lines) - total) <= max(1, total // 10):
        raise _Skip(f"it has {len(lines)} lines of captions for {total} frames, there must be one a frame, or one text for all")
    return [" ".join(lines).strip()] * total


def _open_pictures(folder: Path, size: int | None, fit: VideoFit) -> Iterator[np.ndarray]:
    for path in _pictures(folder):
        try:
            with open_picture(path) as image:
                yield fit_image(image, size, fit)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reports some damaged files as a syntax error
            raise _Skip(f"{path.name} cannot be decoded") from error


def _read_lines(source: Path) -> list[str]:
    path = _beside(source, ".txt")
    return path.read_text(encoding="utf-8-sig", errors="replace").removesuffix("\n").split("\n") if path.exists() else []


def _read_actions(source: Path, needed: bool) -> Table | None:
    """Read the actions next to a source, None where no source of the folder has any; _Skip where it alone lacks them."""
    paths = [path for ending in ENDINGS if (path := _beside(source, f".actions{ending}")).exists()]
    if not paths and needed:
        raise _Skip("it has no actions, others in the folder have")
    try:
        return load_table(paths[0]) if paths else None
    except UnreadableTable as error:
        raise _Skip(str(error)) from error


def write_videos(store: EpisodeStore, path: Path, fps: float | None = None, crf: int = GOOD) -> None:
    """Write episode i as `<i>.mp4`, with its actions and captions next to it.

    Args:
        store: the episodes.
        path: folder to make.
        fps: frames per second; by default the file's own, else 10.
        crf: quality of the videos, see `VideoWriter`; 0 is lossless.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    rate = fps or fps_of(store)
    with new_path(path, folder=True) as folder:
        for i, episode in enumerate(episodes_of(store, "mp4")):
            with VideoWriter(folder / f"{i:06d}.mp4", rate, crf) as video:
                for frame in episode.frames:
                    video.add(frame)
            _write_beside(folder / f"{i:06d}.mp4", episode)


def write_pictures(store: EpisodeStore, path: Path) -> None:
    """Write episode i as a folder `<i>` of PNG files with its actions and captions, losslessly; UserError where it cannot."""
    with new_path(path, folder=True) as folder:
        for i, episode in enumerate(episodes_of(store, "frames")):
            (folder / f"{i:06d}").mkdir()
            for t, frame in enumerate(episode.frames):
                Image.fromarray(frame).save(folder / f"{i:06d}" / f"{t:06d}.png")
            _write_beside(folder / f"{i:06d}", episode)


def _write_beside(source: Path, episode: Episode) -> None:
    if episode.actions.shape[1]:
        np.save(_beside(source, ".actions.npy"), episode.actions)
    if any(episode.captions):
        lines = [" ".join(caption.splitlines()) for caption in episode.captions]
        _beside(source, ".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
