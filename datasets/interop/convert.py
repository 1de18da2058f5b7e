"""From any data format into any other: formats are recognized by what is in the files, episodes pass through one at a time."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py

from worldmodel.datasets.episodes.episode import OUTCOMES, Episode
from worldmodel.datasets.episodes.schema import FORMAT as WORLDMODEL
from worldmodel.datasets.episodes.schema import Storage
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import EpisodeWriter
from worldmodel.datasets.interop import folders, lerobot, minari, ogbench, stable_worldmodel
from worldmodel.datasets.interop.foreign import episodes_of
from worldmodel.datasets.video import VideoFit
from worldmodel.errors import UserError

Format = Literal["worldmodel", "stable-worldmodel", "lerobot", "minari", "ogbench", "mp4", "frames"]
FORMATS: tuple[Format, ...] = get_args(Format)
HDF5 = (".h5", ".hdf5")
RESIZED = ("lerobot", "mp4", "frames")
"""Formats whose pictures can be resized while they are read."""
MODULES = {"stable-worldmodel": stable_worldmodel, "minari": minari, "ogbench": ogbench}
"""Formats that are read and written without further choices."""
HAS_PLACE: dict[str, frozenset[str]] = {
    "mp4": folders.KEEPS,
    "frames": folders.KEEPS,
    "ogbench": frozenset({"frames", "actions", *ogbench.OWN}),
}
"""What of an episode these formats hold; the others hold all of it."""
TEXTS = ("captions", "questions", "answers", "action_words", "changes", "goal_text")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    source: Format
    target: Format
    episodes: int
    frames: int
    dropped: list[str] = field(default_factory=list)
    """Names of what was there but has no place in the target."""
    skipped: int = 0
    """Episodes that could not be used."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, by the name of a skipped episode, where the format has names."""


def recognise(path: Path) -> Format:
    """Recognize the format of a file or folder by what is in it; UserError where it is not there, or of none that is known."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found = _recognise_folder(path) if path.is_dir() else _recognise_file(path)
    if found is None:
        raise UserError(f"{path} has none of the known formats: {', '.join(FORMATS)}")
    return found


def _recognise_file(path: Path) -> Format | None:
    if path.suffix == ".npz":
        return "ogbench"
    if path.suffix.lower() in folders.VIDEOS:
        return "mp4"
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") == WORLDMODEL:
                return "worldmodel"
            return "stable-worldmodel" if "ep_len" in file and "ep_offset" in file else None
    except (OSError, RuntimeError):
        return "worldmodel" if path.suffix in HDF5 else None  # truncated perhaps: the store says what can be done


def _recognise_folder(path: Path) -> Format | None:
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if any((folder / minari.METADATA).is_file() for folder in (path, path / "data")):
        return "minari"
    if any(_recognise_file(item) == "stable-worldmodel" for item in path.iterdir() if item.suffix in HDF5):
        return "stable-worldmodel"
    try:
        return folders.kind_of(path)
    except UserError:
        return None


def convert(
    source: Path,
    target: Path,
    format: Format | None = None,
    *,
    storage: Storage = "lossless",
    size: int | None = None,
    fit: VideoFit = "crop",
    fps: float | None = None,
) -> Conversion:
    """Write the episodes of `source`, whatever its format, as `target`, which appears whole or not at all.

    Into the format that it has already a file is written anew; an episode file can so change its `storage`.

    Args:
        source: file or folder; its format is recognized.
        target: file or folder to make.
        format: of the target; by default that of its name: `.h5` an episode file, `.npz` OGBench.
        storage: how an episode file keeps pictures.
        size: bring pictures to this height and width in pixels, where the source is `lerobot`, `mp4` or `frames`.
        fit: what becomes of pictures that are not square when `size` is given.
        fps: frames per second: of `mp4` and `frames` that are read, instead of what they say; of `mp4` and `lerobot` that are written.

    Raises:
        UserError: unknown format; `target` exists; the source is damaged or has nothing that can be used; a package is missing.
    """
    source, target = Path(source), Path(target)
    before, after = recognise(source), format or _format_of_name(target)
    if after not in FORMATS:
        raise UserError(f"unknown format {after!r}; there are {', '.join(FORMATS)}")
    if target.exists():
        raise UserError(f"{target} exists already; remove it or choose another name")
    if size is not None and size < 1 or fps is not None and not fps > 0:
        raise UserError(f"size {size} and fps {fps} must be above 0")
    if size and before not in RESIZED:
        raise UserError(f"--size: pictures of {before} are not resized; it works on {', '.join(RESIZED)}")
    if before == "worldmodel" and after != "worldmodel":
        return _write(source, target, after, fps, Conversion(before, after, 0, 0))
    episodes, meta = _read(source, before, size, fit, fps)
    if after == "worldmodel":
        return _store(episodes, meta, target, storage, Conversion(before, after, 0, 0))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        between = Path(folder) / "episodes.h5"
        read = _store(episodes, meta, between, "lossless", Conversion(before, after, 0, 0))
        return _write(between, target, after, fps, read)


def _format_of_name(target: Path) -> Format:
    if target.suffix in HDF5:
        return "worldmodel"
    if target.suffix == ".npz":
        return "ogbench"
    raise UserError(f"the name {target} does not tell a format; give --to with one of {', '.join(FORMATS)}")


def _read(
    source: Path, format: Format, size: int | None, fit: VideoFit, fps: float | None
) -> tuple[Iterator[Episode], dict[str, Any]]:
    if format == "worldmodel":
        store = EpisodeStore(source)
        return episodes_of(store, source.name), store.meta
    if format == "lerobot":
        return lerobot.read(source, size, fit)
    if format in ("mp4", "frames"):
        return folders.read(source, size, fit, fps)
    return MODULES[format].read(source)


def _store(episodes: Iterator[Episode], meta: dict[str, Any], target: Path, storage: Storage, done: Conversion) -> Conversion:
    """Write an episode file; return what was done."""
    count = frames = 0
    with EpisodeWriter(target, meta, storage=storage) as writer:
        for episode in episodes:
            writer.append(episode)
            count += 1
            frames += len(episode.frames)
    reasons = dict(meta.get("skipped", {}))
    skipped = len(reasons) or int(meta.get("skipped_episodes", 0))
    return Conversion(done.source, done.target, count, frames, list(meta.get("dropped", [])), skipped, reasons)


def _write(source: Path, target: Path, format: Format, fps: float | None, done: Conversion) -> Conversion:
    """Write an episode file in another format; return what was done in addition to what was before."""
    with EpisodeStore(source) as store:
        lost = _without_place(store, format)
        if format == "lerobot":
            lerobot.write(store, target, fps)
        elif format == "mp4":
            folders.write_videos(store, target, fps)
        elif format == "frames":
            folders.write_pictures(store, target)
        else:
            MODULES[format].write(store, target)
        dropped = sorted({*done.dropped, *lost})
        return Conversion(done.source, done.target, len(store), store.num_frames, dropped, done.skipped, done.reasons)


def _without_place(store: EpisodeStore, format: Format) -> set[str]:
    """List columns with something in them that the format has no place for."""
    if format not in HAS_PLACE:
        return set()
    there = {name for name in ("proprio", "state", "features", "goal_state") if store.column(name).shape[1]}
    there |= {name for name in TEXTS if any(store.texts(name))}
    there |= {"views"} if store.cameras else set()
    there |= set(OUTCOMES) if store.has_outcomes else set()
    there |= {"success"} if store.column("success").any() else set()
    there |= {"variation"} if any(text != "{}" for text in store.texts("variation")) else set()
    return there - HAS_PLACE[format]
