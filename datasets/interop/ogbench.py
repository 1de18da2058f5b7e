"""OGBench's npz files (visual-*: observations are uint8 pictures), in the three layouts in which they are met.

    as published     observations f0 .. fT of each trajectory end to end, as many actions, terminals 1 at fT; the last
                     action of a trajectory leads nowhere. This is what `write` makes.
    compact          the same rows with `valids`: 0 at fT (terminals are 1 there and one row before)
    regular          `next_observations` next to observations: T rows a trajectory, terminals 1 at the last one

A file may be larger than memory: its columns are read row by row out of the zip archive.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from tqdm import tqdm

from worldmodel.datasets.episodes.episode import OUTCOMES, Episode
from worldmodel.datasets.episodes.schema import ACTION_COLUMNS
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop.foreign import (
    as_field,
    as_frames,
    as_rows,
    explained,
    foreign_episode,
    foreign_meta,
    is_choice,
    is_picture,
    new_path,
    no_pictures,
    one_hot,
)
from worldmodel.errors import UserError

FORMAT = "ogbench"
PHYSICS = ("qpos", "qvel", "button_states")
"""Columns that make up the state, in this order."""
OWN = ("state", "proprio", "success", *OUTCOMES)
"""Columns that `write` adds, the last three where any was recorded; OGBench's loader ignores them. `terminals` mark where a trajectory
stops, not that the environment ended it."""
DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, ArithmeticError, MemoryError, zipfile.BadZipFile, zlib.error)


class _Column:
    """Rows of one array of an npz file, read one after the other."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._data: IO[bytes] = archive.open(f"{name}.npy")
        self._size = archive.getinfo(f"{name}.npy").file_size
        try:
            version = npy.read_magic(self._data)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, fortran, self.dtype = header(self._data)
            if fortran or self.dtype.hasobject or not self.shape:
                raise ValueError(f"column {name} is no plain table")
        except BaseException:
            self._data.close()
            raise

    def read(self, rows: int) -> np.ndarray:
        """Read the next rows, (rows, ...)."""
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        if not 0 <= size <= self._size:
            raise EOFError("the column is larger than its file")
        data = bytearray()
        while len(data) < size:
            part = self._data.read(size - len(data))
            if not part:
                raise EOFError("the column ends early")
            data += part
        return np.frombuffer(data, self.dtype).reshape(shape)

    def __enter__(self) -> "_Column":
        return self

    def __exit__(self, *error: object) -> None:
        self._data.close()


def read(path: Path) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Read a file, one trajectory in memory at a time.

    Returns:
        The episodes (trajectories of a single frame are left out), and the meta data.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds no pictures (while reading, too).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            if not names >= {"observations", "actions", "terminals"}:
                raise UserError(f"{path} is no OGBench file: it needs observations, actions and terminals, it has {sorted(names)}")
            with _Column(archive, "terminals") as column:
                ends = column.read(column.shape[0]).reshape(-1) > 0
            if "valids" in names:
                with _Column(archive, "valids") as column:
                    ends = column.read(column.shape[0]).reshape(-1) == 0
            regular = "next_observations" in names
            columns = _columns_of(names, regular)
            with ExitStack() as stack:
                shapes = {name: stack.enter_context(_Column(archive, name)) for name in columns}
            short = [name for name, column in shapes.items() if column.shape[0] != len(ends)]
            pictures = is_picture(shapes["observations"].shape[1:], shapes["observations"].dtype)
            size, choices = _actions_of(archive, shapes["actions"])
    except DAMAGE as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path) from error
    if not pictures:
        raise no_pictures(path, "OGBench", names)
    if short or not len(ends) or not ends[-1]:
        raise UserError(f"{path} is not whole: {', '.join(short) or 'its last trajectory'} ends early; fetch it again")
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    least = 1 if regular else 2
    skipped = {"skipped_episodes": int((lengths < least).sum())} if (lengths < least).any() else {}
    if (lengths < least).all():
        raise UserError(f"{path} has no trajectory of at least two frames; nothing in it can be used")
    dropped = names - set(columns) - {"terminals", "valids"}
    meta = foreign_meta(FORMAT, path.stem, size, dropped, skipped)
    return explained(path, _episodes(path, columns, lengths.tolist(), regular, choices)), meta


def _columns_of(names: set[str], regular: bool) -> list[str]:
    """Find the columns that have a home here. The regular layout lacks the state of the last frame, so that it is not taken."""
    if regular:
        return ["observations", "actions", "next_observations"]
    state = ["state"] if "state" in names else [name for name in PHYSICS if name in names]
    return ["observations", "actions", *state, *(name for name in OWN[1:] if name in names)]


def _actions_of(archive: zipfile.ZipFile, column: _Column) -> tuple[int, int]:
    """Count the numbers in an action, and of how many it is one (0: actions are vectors)."""
    if not is_choice(column.shape, column.dtype):
        return int(np.prod(column.shape[1:])), 0
    with _Column(archive, "actions") as again:
        choices = int(again.read(again.shape[0]).max()) + 1
    return choices, choices


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is truncated, damaged or not an npz file; fetch it again")


def _episodes(path: Path, columns: list[str], lengths: list[int], regular: bool, choices: int) -> Iterator[Episode | None]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            opened = {name: stack.enter_context(_Column(archive, name)) for name in columns}
        except DAMAGE as error:
            raise _damaged(path) from error
        for rows in tqdm(lengths, desc=path.name, disable=None):
            try:
                found = {name: column.read(rows) for name, column in opened.items()}
            except DAMAGE as error:
                raise _damaged(path) from error
            yield _episode(found, regular, choices) if regular or rows > 1 else None


def _episode(found: dict[str, np.ndarray], regular: bool, choices: int) -> Episode:
    pictures, actions = found["observations"], found["actions"]
    if regular:
        pictures = np.concatenate([pictures, found["next_observations"][-1:]])
    else:
        actions = actions[:-1]
    known: dict[str, Any] = {}
    parts = [as_rows(found[name], np.float64) for name in ("state", *PHYSICS) if name in found]
    if parts:
        known["state"] = np.concatenate(parts, axis=1)
    known |= {name: as_field(name, found[name]) for name in ("proprio", "success") if name in found}
    known |= {name: as_field(name, found[name])[:-1] for name in OUTCOMES if name in found}
    vectors = one_hot(actions, choices) if choices else as_rows(actions, np.float32)
    return foreign_episode(as_frames(pictures), vectors, **known)


def write(store: EpisodeStore, path: Path) -> None:
    """Write an episode file in the published layout; `ogbench.utils.load_dataset(path, ob_dtype=np.uint8)` reads it.

    State, proprio, success, reward, terminated and truncated are kept as columns of these names; texts, features, factors and
    additional cameras have no place and are left out. The action of a last frame is 0, and so is its reward.

    Raises:
        UserError: the file exists, there are no actions, or it cannot be written.
    """
    if not store.has_actions:
        raise UserError(f"{store.path} has no actions; OGBench's layout has no place for video alone")
    with new_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("observations", "actions", "terminals", *OWN):
            if name not in OUTCOMES or store.has_outcomes:
                _write_column(store, archive, name)


def _write_column(store: EpisodeStore, archive: zipfile.ZipFile, name: str) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        for i in tqdm(range(len(store)), desc=name, disable=None):
            rows = np.ascontiguousarray(_rows(store, i, name))
            if i == 0:
                shape = (store.num_frames, *rows.shape[1:])
                npy.write_array_header_1_0(out, {"descr": npy.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape})
            out.write(rows.tobytes())


def _rows(store: EpisodeStore, i: int, name: str) -> np.ndarray:
    """Read the rows of episode i in one column."""
    first, steps = int(store.offsets[i]), int(store.lengths[i])
    if name == "terminals":
        return (np.arange(steps + 1) == steps).astype(np.float32)
    if name in ACTION_COLUMNS:
        rows = store.rows(name, first - i, first - i + steps)
        return np.concatenate([rows, np.zeros_like(rows[:1])])
    return store.rows("frames" if name == "observations" else name, first, first + steps + 1)
