"""Writing episode files: episode by episode under a temporary name, renamed when whole; see `schema.py`."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np

from worldmodel.datasets.atomic import BlackHoleFile, sync_and_rename
from worldmodel.datasets.episode import ACTION_TEXTS, Episode
from worldmodel.datasets.schema import (
    CHUNK_CACHE_BYTES,
    FORMAT,
    FRAME_COLUMNS,
    FRAME_TEXTS,
    FRAMES_PER_CHUNK,
    SCHEMA_VERSION,
    TEXTS,
    VIEWS,
)
from worldmodel.errors import UserError

ROWS_PER_CHUNK = 1024
BYTES_PER_CHUNK = 2**16
ROWS_PER_WRITE = 2048
BYTES_PER_WRITE = 32 * 2**20
"""Whichever is reached first is written at once: a write of HDF5 costs as much as a hundred rows."""


class EpisodeWriter:
    """Appends episodes to a new file that appears under its name only when the `with` block ends well.

    Args:
        path: the file to make; it must not exist.
        meta: JSON values kept with the file (`env_id`, `seed`, `feature_names`, ...); what is in it when the block
            ends is written.

    Raises:
        UserError: the file exists, no episode was appended, or the disk is full.
        ValueError: an episode whose arrays do not have the shapes of the first one.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = Path(path)
        self.meta = meta
        if self.path.exists():
            raise UserError(f"{self.path} exists already; remove it or choose another name")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        self._disk = BlackHoleFile(self._temporary)
        # The metadata of this library version carries checksums too, so that a damaged file is noticed.
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"), rdcc_nbytes=CHUNK_CACHE_BYTES)
        self._file.attrs.update(format=FORMAT, schema_version=SCHEMA_VERSION)
        self._columns: dict[str, h5py.Dataset] = {}  # open handles: a column keeps its last chunk cached while one is open
        self._pending: dict[str, list[np.ndarray]] = {}
        self._cameras: list[str] = []
        self._num_bytes = dict.fromkeys(TEXTS, 0)
        self._num_rows = 0
        self._num_episodes = 0
        self._pending_rows, self._pending_bytes = 0, 0

    def append(self, episode: Episode) -> None:
        """Adds one episode at the end."""
        for name in (*FRAME_COLUMNS, "actions"):
            self._add(name, getattr(episode, name))
        for camera in self._cameras_of(episode):
            self._add(f"{VIEWS}/{camera}", episode.views[camera])
        for name in (*FRAME_TEXTS, *ACTION_TEXTS):
            self._add_texts(name, getattr(episode, name))
        self._add("ep_len", np.array([len(episode)], np.int64))
        self._add("ep_offset", np.array([self._num_rows], np.int64))
        self._add("seed", np.array([episode.seed], np.int64))
        self._add("goal_state", episode.goal_state[None])
        for name in ("policy", "goal_text"):
            self._add_texts(name, [getattr(episode, name)])
        self._add_texts("variation", [json.dumps(episode.variation, sort_keys=True)])
        self._num_rows += len(episode) + 1
        self._num_episodes += 1
        self._pending_rows += len(episode) + 1
        self._pending_bytes += (1 + len(episode.views)) * episode.frames.nbytes
        if self._pending_rows >= ROWS_PER_WRITE or self._pending_bytes >= BYTES_PER_WRITE:
            self._write_pending()

    def _cameras_of(self, episode: Episode) -> list[str]:
        """The additional cameras in alphabetical order, as they are read back; the same in every episode."""
        cameras = sorted(episode.views)
        if self._num_episodes == 0:
            self._cameras = cameras
        if cameras != self._cameras:
            raise ValueError(f"episode {self._num_episodes}: views of {cameras}, those before {self._cameras}")
        return cameras

    def _add(self, name: str, rows: np.ndarray) -> None:
        pending = self._pending.setdefault(name, [])
        before = pending[0].shape[1:] if pending else self._columns[name].shape[1:] if name in self._columns else rows.shape[1:]
        if rows.shape[1:] != before:
            number = self._num_episodes
            raise ValueError(f"episode {number}: {name} rows have shape {rows.shape[1:]}, those before {before}")
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
        self._pending_rows, self._pending_bytes = 0, 0

    def _create(self, name: str, rows: np.ndarray) -> h5py.Dataset:
        pictures = name == "frames" or name.startswith(VIEWS)
        per_chunk = FRAMES_PER_CHUNK if pictures else BYTES_PER_CHUNK if name.endswith("/bytes") else ROWS_PER_CHUNK
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
        self._file.attrs["meta"] = json.dumps(self.meta, sort_keys=True)
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
