"""Episode files: one HDF5 file of flat columns, written atomically, read at random.

Frame columns (`frames`, `proprio`, `state`, `features`, `success` and three texts) have sum(T_i + 1) rows, action columns
(`actions`, `action_texts`) sum(T_i), episode columns one. `ep_len[i]` is T_i and `ep_offset[i]` the first frame row of episode
i; its first action row is `ep_offset[i] - i`. A text column is a group of `bytes` (UTF-8, end to end) and `end` (where each
text stops). Columns are zstd-compressed with a checksum. Frames lie in chunks of 16: of the lossless codings measured (64 and
224 px, flat and shaded scenes) the smallest by far, and it still reads tens of thousands of short clips a second.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np

from worldmodel.datasets.atomic import BlackHoleFile, sync_and_rename
from worldmodel.datasets.episode import Clip, Episode
from worldmodel.datasets.schema import (
    CHUNK_CACHE_BYTES,
    FORMAT,
    FRAME_COLUMNS,
    FRAME_TEXTS,
    FRAMES_PER_CHUNK,
    NUMBERS,
    SCHEMA_VERSION,
    TEXTS,
    open_file,
)
from worldmodel.errors import UserError

ROWS_PER_CHUNK = 1024
BYTES_PER_CHUNK = 2**16
ROWS_PER_WRITE = 256


class EpisodeWriter:
    """Appends episodes to a new file that appears under its name only when the `with` block ends well.

    Args:
        path: the file to make; it must not exist.
        meta: JSON values kept with the file (`env_id`, `seed`, `feature_names`, ...).

    Raises:
        UserError: the file exists, no episode was appended, or the disk is full.
        ValueError: an episode whose arrays do not have the shapes of the first one.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise UserError(f"{self.path} exists already; remove it or choose another name")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._disk = BlackHoleFile(self._temporary)
        # The metadata of this library version carries checksums too, so that a damaged file is noticed.
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"), rdcc_nbytes=CHUNK_CACHE_BYTES)
        self._file.attrs.update(
            format=FORMAT, schema_version=SCHEMA_VERSION, meta=json.dumps(meta, sort_keys=True)
        )
        self._columns: dict[
            str, h5py.Dataset
        ] = {}  # open handles: a column keeps its last chunk cached while one is open
        self._pending: dict[str, list[np.ndarray]] = {}
        self._num_bytes = dict.fromkeys(TEXTS, 0)
        self._num_rows = 0
        self._num_episodes = 0

    def append(self, episode: Episode) -> None:
        """Adds one episode at the end."""
        for name in (*FRAME_COLUMNS, "actions"):
            self._add(name, getattr(episode, name))
        for name in (*FRAME_TEXTS, "action_texts"):
            self._add_texts(name, getattr(episode, name))
        self._add("ep_len", np.array([len(episode)], np.int64))
        self._add("ep_offset", np.array([self._num_rows], np.int64))
        self._add("seed", np.array([episode.seed], np.int64))
        self._add("goal_state", episode.goal_state[None])
        self._add_texts("policy", [episode.policy])
        self._add_texts("variation", [json.dumps(episode.variation, sort_keys=True)])
        self._num_rows += len(episode) + 1
        self._num_episodes += 1
        if sum(len(rows) for rows in self._pending["frames"]) >= ROWS_PER_WRITE:
            self._write_pending()

    def _add(self, name: str, rows: np.ndarray) -> None:
        pending = self._pending.setdefault(name, [])
        before = (
            pending[0].shape[1:]
            if pending
            else self._columns[name].shape[1:]
            if name in self._columns
            else rows.shape[1:]
        )
        if rows.shape[1:] != before:
            raise ValueError(
                f"episode {self._num_episodes}: {name} rows have shape {rows.shape[1:]}, those before {before}"
            )
        pending.append(rows)

    def _add_texts(self, name: str, texts: list[str]) -> None:
        encoded = [text.encode() for text in texts]
        ends = self._num_bytes[name] + np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._num_bytes[name] = int(ends[-1])
        self._add(f"{name}/bytes", np.frombuffer(b"".join(encoded), np.uint8))
        self._add(f"{name}/end", ends)

    def _write_pending(self) -> None:
        try:
            self._write_columns()
        finally:  # whatever HDF5 makes of a full disk, the full disk is what the user hears of
            self._check_disk()

    def _write_columns(self) -> None:
        for name, pending in self._pending.items():
            rows = np.concatenate(pending)
            if name not in self._columns:
                self._columns[name] = self._create(name, rows)
            column = self._columns[name]
            start = column.shape[0]
            column.resize(start + len(rows), axis=0)
            column[start:] = rows
        self._pending = {}

    def _create(self, name: str, rows: np.ndarray) -> h5py.Dataset:
        per_chunk = (
            FRAMES_PER_CHUNK
            if name == "frames"
            else BYTES_PER_CHUNK
            if name.endswith("/bytes")
            else ROWS_PER_CHUNK
        )
        return self._file.create_dataset(
            name,
            shape=(0, *rows.shape[1:]),
            maxshape=(None, *rows.shape[1:]),
            chunks=(per_chunk, *rows.shape[1:]),
            dtype=rows.dtype,
            fletcher32=True,
            **hdf5plugin.Zstd(clevel=3),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._num_episodes == 0:
            raise UserError(f"no episode was written to {self.path}; an episode file needs at least one")
        self._write_pending()
        self._close()
        self._check_disk()
        sync_and_rename(self._temporary, self.path)

    def _close(self) -> None:
        self._columns = {}
        self._file.close()
        self._disk.close()

    def _check_disk(self) -> None:
        error = self._disk.error
        if error is not None:
            raise UserError(f"cannot write {self.path}: {error.strerror}; make room and try again") from error


def write_episodes(path: Path, episodes: Iterable[Episode], meta: dict[str, Any]) -> None:
    """Writes an episode file whole or not at all; see `EpisodeWriter`."""
    with EpisodeWriter(path, meta) as writer:
        for episode in episodes:
            writer.append(episode)


class EpisodeStore:
    """Reads an episode file; safe to hand to forked or spawned processes (each opens the file for itself).

    Args:
        path: the file.
        in_memory: decode every column once and keep it in RAM (H * W * 3 bytes a frame: 245 MB for 20,000 frames of 64 px).

    Raises:
        UserError: the file is missing, truncated, damaged, not an episode file, or of another schema version.
    """

    def __init__(self, path: Path, in_memory: bool = False) -> None:
        self.path = Path(path)
        self.in_memory = in_memory
        self._memory: dict[str, np.ndarray] = {}
        self._columns: dict[
            str, h5py.Dataset
        ] = {}  # open handles: a column keeps its chunk cache while one is open
        self._file, self._pid = open_file(self.path), os.getpid()
        self.meta: dict[str, Any] = json.loads(self._file.attrs["meta"])
        self.lengths = self._rows("ep_len", 0, None)
        self._offsets = self._rows("ep_offset", 0, None)
        if in_memory:
            self._load()

    def _load(self) -> None:
        parts = [f"{name}/{part}" for name in TEXTS for part in ("bytes", "end")]
        self._memory = {name: self._rows(name, 0, None) for name in (*NUMBERS, *parts)}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        """Frames of all episodes together."""
        return int(self.lengths.sum()) + len(self)

    @property
    def image_size(self) -> int:
        """Height of a frame in pixels."""
        return int(self._column("frames").shape[1])

    @property
    def action_size(self) -> int:
        """Numbers in one environment action."""
        return int(self._column("actions").shape[1])

    def episode(self, i: int) -> Episode:
        """The whole of episode i."""
        first, steps = self._first_row(i), int(self.lengths[i])
        frame_rows, action_rows = (first, first + steps + 1), (first - i, first - i + steps)
        return Episode(
            **{name: self._rows(name, *frame_rows) for name in FRAME_COLUMNS},
            **{name: self._texts(name, *frame_rows) for name in FRAME_TEXTS},
            actions=self._rows("actions", *action_rows),
            action_texts=self._texts("action_texts", *action_rows),
            seed=int(self._rows("seed", i, i + 1)[0]),
            policy=self._texts("policy", i, i + 1)[0],
            variation=json.loads(self._texts("variation", i, i + 1)[0]),
            goal_state=self._rows("goal_state", i, i + 1)[0],
        )

    def clip(self, i: int, start: int, length: int, action_block: int = 1) -> Clip:
        """A window of episode i: `length` model steps of `action_block` environment steps each.

        Args:
            i: episode.
            start: environment step of the first frame, 0 <= start <= T - length * action_block.
            length: number of model steps t; the clip has t + 1 frames and t block actions.
            action_block: environment actions per model step, k.
        """
        steps = length * action_block
        if length < 1 or action_block < 1 or not 0 <= start <= int(self.lengths[i]) - steps:
            raise ValueError(
                f"episode {i} of {self.path} has {self.lengths[i]} actions; a clip of {length} steps of {action_block} cannot "
                f"start at {start}"
            )
        row = self._first_row(i) + start
        actions = self._rows("actions", row - i, row - i + steps)
        texts = self._texts("action_texts", row - i, row - i + steps)
        return Clip(
            frames=np.ascontiguousarray(self._rows("frames", row, row + steps + 1)[::action_block]),
            actions=actions.reshape(length, -1),  # (t k) a -> t (k a)
            action_texts=["; ".join(texts[t : t + action_block]) for t in range(0, steps, action_block)],
            start=start,
            episode=i,
        )

    def frame(self, i: int, t: int) -> np.ndarray:
        """Frame t of episode i: uint8 (H, W, 3)."""
        row = self._frame_row(i, t)
        return self._rows("frames", row, row + 1)[0]

    def caption(self, i: int, t: int) -> str:
        """The sentence recorded with frame t of episode i."""
        row = self._frame_row(i, t)
        return self._texts("captions", row, row + 1)[0]

    def question(self, i: int, t: int) -> tuple[str, str]:
        """The question recorded with frame t of episode i, and its answer."""
        row = self._frame_row(i, t)
        return self._texts("questions", row, row + 1)[0], self._texts("answers", row, row + 1)[0]

    def frame_rows(self, episodes: Iterable[int]) -> np.ndarray:
        """Row numbers, int64, of all frames of some episodes in the frame columns; see `column` and `frames`."""
        spans = [np.arange(self._offsets[i], self._offsets[i] + self.lengths[i] + 1) for i in episodes]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def frames(self, rows: np.ndarray) -> np.ndarray:
        """Frames of any row numbers, in the order asked: uint8 (len(rows), H, W, 3)."""
        rows = np.asarray(rows, np.int64)
        if self.in_memory:
            return self._memory["frames"][rows]
        frames = np.empty((len(rows), *self._column("frames").shape[1:]), np.uint8)
        chunk = rows // FRAMES_PER_CHUNK
        for index in np.unique(chunk):  # each chunk is decoded once
            members = np.flatnonzero(chunk == index)
            start = index * FRAMES_PER_CHUNK
            frames[members] = self._rows("frames", start, start + FRAMES_PER_CHUNK)[rows[members] - start]
        return frames

    def column(self, name: str) -> np.ndarray:
        """A whole numeric column (`features`, `state`, `success`, `actions`, ...), all episodes end to end."""
        if name not in NUMBERS:
            raise ValueError(f"no column {name!r}; there are {', '.join(NUMBERS)}")
        return self._rows(name, 0, None)

    def texts(self, name: str) -> list[str]:
        """A whole text column: `captions`, `questions`, `answers`, `action_texts`, `policy` or `variation` (JSON)."""
        if name not in TEXTS:
            raise ValueError(f"no text column {name!r}; there are {', '.join(TEXTS)}")
        return self._texts(name, 0, len(self._column(f"{name}/end")))

    def split(self, seed: int, validation: float = 0.1) -> tuple[list[int], list[int]]:
        """Episodes for training and for validation, disjoint, the same for the same seed.

        Args:
            seed: of the shuffle.
            validation: share of the episodes kept for validation; at least one is, and one is left for training.
        """
        if len(self) < 2:
            raise UserError(f"{self.path} has {len(self)} episode; two are needed to keep one for validation")
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        held = min(max(1, round(validation * len(self))), len(self) - 1)
        return sorted(order[held:]), sorted(order[:held])

    def close(self) -> None:
        """Closes the file; a store kept in memory stays readable."""
        if self._pid == os.getpid():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type, tuple[Path, bool]]:
        return EpisodeStore, (self.path, self.in_memory)

    def _first_row(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"episode {i} asked of {self.path}, which has {len(self)}")
        return int(self._offsets[i])

    def _frame_row(self, i: int, t: int) -> int:
        first = self._first_row(i)
        if not 0 <= t <= self.lengths[i]:
            raise IndexError(
                f"frame {t} asked of episode {i} of {self.path}, which has {self.lengths[i] + 1}"
            )
        return first + t

    def _column(self, name: str) -> Any:
        if name in self._memory:
            return self._memory[name]
        if self._pid != os.getpid():  # forked: HDF5 handles of the parent must not be shared
            self._file, self._pid, self._columns = open_file(self.path), os.getpid(), {}
        if name not in self._columns:
            self._columns[name] = self._file[name]
        return self._columns[name]

    def _rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        column = self._column(name)
        if name in self._memory:
            return column[start:stop].copy()
        try:
            return column[start:stop]
        except OSError as error:
            raise UserError(
                f"{self.path} is damaged (column {name} cannot be read); collect it again"
            ) from error

    def _texts(self, name: str, start: int, stop: int) -> list[str]:
        ends = self._rows(f"{name}/end", max(start - 1, 0), stop).tolist()
        bounds = ends if start > 0 else [0, *ends]
        data = self._rows(f"{name}/bytes", bounds[0], bounds[-1]).tobytes()
        return [
            data[a - bounds[0] : b - bounds[0]].decode() for a, b in zip(bounds, bounds[1:], strict=False)
        ]
