"""What all foreign formats need: their columns as the fields of an episode, meta data, files that appear whole, pyarrow."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from worldmodel.datasets.atomic import DeferredErrorFile, replacing, writing
from worldmodel.datasets.episodes.episode import ARRAYS, Episode, not_recorded
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError, first_line

CHANNELS = (1, 3, 4)
"""Gray, color, color with transparency."""
LEAST_SIDE = 8
"""Pixels: what is smaller is no picture."""
END = object()
NOTES = ("source", "dropped", "skipped", "skipped_episodes")
"""Meta data about how an episode file was made from a foreign one: whoever reads it next makes its own."""


def is_picture(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Test whether rows of this shape and type are pictures: uint8, channels last, first, or none (gray)."""
    if dtype != np.uint8 or len(shape) not in (2, 3):
        return False
    sides = shape if len(shape) == 2 else shape[:2] if shape[2] in CHANNELS else shape[1:] if shape[0] in CHANNELS else (0, 0)
    return min(sides) >= LEAST_SIDE


def as_frames(pictures: np.ndarray) -> np.ndarray:
    """Convert pictures of any layout that `is_picture` takes, (N, ...), to uint8 (N, H, W, 3); transparency is left out.

    Where the channels are the last gray frames, as stacking wrappers hand them out, the newest of them is taken.

    Raises:
        ValueError: channels come first and are four that are neither a stack nor color with transparency.
    """
    first = pictures.ndim == 4 and pictures.shape[-1] not in CHANNELS
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    elif first:
        pictures = np.moveaxis(pictures, 1, -1)
    if _is_stack(pictures):
        pictures = pictures[..., -1:]
    elif first and pictures.shape[-1] == 4 and pictures[..., 3].min() < 255:
        raise ValueError("its pictures have four channels, which are neither stacked frames nor color with transparency")
    colour = np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures[..., :3]
    return np.ascontiguousarray(colour)


def _is_stack(pictures: np.ndarray) -> bool:
    """Test whether the channels of pictures (N, H, W, C) are frames that move on by one from row to row."""
    moves = pictures.shape[-1] > 1 and len(pictures) > 1
    return moves and all(np.array_equal(old[..., 1:], new[..., :-1]) for old, new in itertools.pairwise(pictures))


def as_rows(values: np.ndarray, dtype: type) -> np.ndarray:
    """Convert values (rows, ...) to (rows, width) of a type; ValueError where they are no plain numbers."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"it holds {values.dtype} where numbers belong")
    return values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(dtype)


def as_field(name: str, values: np.ndarray) -> np.ndarray:
    """Convert a column of numbers (rows, ...) to the type and axes of an array of `Episode`; a flag is true where it is 1.

    ValueError where they are no plain numbers.
    """
    dtype, axes = ARRAYS[name]
    rows = as_rows(values, np.float64 if dtype is np.bool_ else dtype)
    rows = rows[:, 0] if axes == 1 else rows
    return rows == 1 if dtype is np.bool_ else rows


def is_choice(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Test whether a column of actions (rows,) or (rows, 1) holds discrete ones: whole numbers."""
    return dtype.kind in "iu" and shape[1:] in ((), (1,))


def one_hot(indices: np.ndarray, choices: int) -> np.ndarray:
    """Convert discrete actions in [0, choices), (T,), to float32 (T, choices); ValueError where one is another number."""
    indices = np.asarray(indices, np.int64).reshape(-1)
    if len(indices) and not 0 <= indices.min() <= indices.max() < choices:
        raise ValueError(f"its discrete actions go from {indices.min()} to {indices.max()}, there are {choices} to choose from")
    return np.eye(choices, dtype=np.float32)[indices]


def action_names(size: int) -> list[str]:
    """Name the numbers of an action that has no names."""
    return [f"a{i}" for i in range(size)]


def exact_texts(actions: np.ndarray) -> list[str]:
    """Write actions (T, a) as texts to three decimals, as the tasks of this package write their actions; "" where a is 0."""
    names = action_names(actions.shape[1])
    pairs = [zip(names, row, strict=True) for row in actions.tolist()]
    texts = [", ".join(f"{name}={round(value, 3) + 0.0:+.3f}" for name, value in row) for row in pairs]
    return [f"action: {text}" if text else "" for text in texts]


def foreign_episode(frames: np.ndarray, actions: np.ndarray, **known: Any) -> Episode:
    """Make an episode of what a foreign file knows: numbers that are missing have width 0, texts are empty, rewards are NaN.

    Args:
        frames: uint8 (T+1, H, W, 3).
        actions: float32 (T, a); a is 0 for video without actions.
        known: fields of `Episode` that are known. Without `action_texts` the numbers are written out as a0, a1, ...

    Raises:
        ValueError: an action is not finite, or lengths do not fit T actions.
    """
    rows, steps = len(frames), len(actions)
    if not np.isfinite(actions).all():
        raise ValueError(f"action {int(np.argmin(np.isfinite(actions).all(axis=1)))} is not a finite number")
    fields: dict[str, Any] = dict(
        proprio=np.zeros((rows, 0), np.float32),
        state=np.zeros((rows, 0)),
        features=np.zeros((rows, 0), np.float32),
        success=np.zeros(rows, np.bool_),
        captions=[""] * rows,
        questions=[""] * rows,
        answers=[""] * rows,
        action_texts=exact_texts(actions),
        action_words=[""] * steps,
        changes=[""] * steps,
        seed=0,
        policy="unknown",
        variation={},
        goal_state=np.zeros(0),
        goal_text="",
        **not_recorded(steps),
    )
    return Episode(frames=frames, actions=actions, **(fields | known))


@contextlib.contextmanager
def explaining(path: Path, number: int) -> Iterator[None]:
    """Raise what damaged or unexpected data make readers raise as a UserError that names the episode's number."""
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:  # pyarrow's are some of these
        damage = f"episode {number} is damaged or not as its format says ({first_line(error)})"
        raise UserError(f"{path}: {damage}; fetch it again, or leave the episode out") from error


def explained(path: Path, episodes: Iterator[Episode | None]) -> Iterator[Episode]:
    """Yield episodes as they come, None for one that is left out, so that its number counts; see `explaining`."""
    for number in itertools.count():
        with explaining(path, number):
            episode = next(episodes, END)
        if isinstance(episode, Episode):
            yield episode
        elif episode is END:
            return


def foreign_meta(
    layout: str, origin: str, action_size: int, dropped: Iterable[str], facts: dict[str, Any] | None = None, kept: object = None
) -> dict[str, Any]:
    """Make the meta data of an episode file that is made from a foreign one.

    Args:
        layout: name of the format.
        origin: name of the foreign file or data set.
        action_size: numbers in an action.
        dropped: names of foreign fields that have no home here.
        facts: what the format says itself.
        kept: meta data of the episode file that the foreign one was made from, which knows better; `NOTES` are made anew.
    """
    meta: dict[str, Any] = {
        "env_id": origin,
        "seed": 0,
        "feature_names": [],
        "action_names": action_names(action_size),
        "action_block": 1,
        "factors": [],
        "restorable": False,
        "licence": "unknown",
    }
    before = {name: value for name, value in kept.items() if name not in NOTES} if isinstance(kept, dict) else {}
    return meta | (facts or {}) | before | {"source": {"format": layout, "name": origin}, "dropped": sorted(set(dropped))}


def episodes_of(store: EpisodeStore, what: str) -> Iterator[Episode]:
    """Read the episodes of a file in turn, with a bar on the screen that says what for."""
    return (store.episode(i) for i in tqdm(range(len(store)), desc=what, unit="episode", disable=None))


def no_pictures(path: object, layout: str, found: Iterable[str]) -> UserError:
    """Make the error for a data set without pictures."""
    return UserError(
        f"{path} is a {layout} data set without pictures (it has {', '.join(sorted(found)) or 'no columns'}); "
        "record it with rendered frames, an episode file needs them"
    )


@contextlib.contextmanager
def new_path(path: Path, folder: bool = False) -> Iterator[Path]:
    """Make a place to write a file to, or an empty folder to fill; it gets its name when the block ends well, or nothing is left.

    UserError where something has that name already, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; remove it or choose another name")
    with writing(path), replacing(path, folder) as temporary:
        yield temporary


@contextlib.contextmanager
def new_hdf5(path: Path, **settings: Any) -> Iterator[h5py.File]:
    """Open a new HDF5 file to write; OSError for a full disk, where HDF5 alone would end the process with a crash."""
    with DeferredErrorFile(path) as disk:
        try:
            with h5py.File(disk, "w", **settings) as file:
                yield file
        finally:  # whatever HDF5 makes of a full disk, the full disk is what the user hears of
            if disk.error is not None:
                raise disk.error
