"""Writing episode files: episode by episode under a temporary name, renamed when whole; see `schema.py`."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import simplejpeg

from worldmodel.datasets.atomic import DeferredErrorFile, Temporary
from worldmodel.datasets.episodes.chunks import datasets_of
from worldmodel.datasets.episodes.column_writer import ColumnWriter, create_column
from worldmodel.datasets.episodes.episode import ACTION_TEXTS, Episode, not_recorded
from worldmodel.datasets.episodes.schema import (
    ACTION_COLUMNS,
    FORMAT,
    FRAME_COLUMNS,
    FRAME_TEXTS,
    JPEG_COLOUR,
    JPEG_QUALITY,
    SCHEMA_VERSION,
    STORAGES,
    VIEWS,
    Storage,
    is_picture,
    open_file,
)
from worldmodel.errors import UserError

ROWS_PER_WRITE = 512
BYTES_PER_WRITE = 16 * 2**20
"""Whichever is reached first is written at once: a write of HDF5 costs as much as a hundred rows."""
METADATA_BYTES = 2**16
"""What finds the chunks is gathered in blocks of this size, each in front of the chunks it finds."""


class EpisodeWriter:
    """Appends episodes to a file that appears under its name, or in its new length, only when the `with` block ends well.

    Args:
        path: the file to make; it must not exist, unless `append`.
        meta: JSON values kept with the file (`env_id`, `seed`, `feature_names`, ...); what is in it when the block
            ends is written. With `append` it is that of the existing file.
        storage: how pictures are kept. With `append` it is that of the existing file.
        append: the file exists, and the episodes are added at its end; needs as much room as the whole file. A file of an earlier
            schema becomes one of this schema.

    Raises:
        UserError: the file exists, or with `append` cannot be read; no episode was appended; the disk is full; with `append`,
            an episode whose arrays do not have the shapes of those in the file.
        ValueError: an episode whose arrays do not have the shapes of the first one.
    """

    def __init__(self, path: Path, meta: dict[str, Any], storage: Storage = "lossless", append: bool = False) -> None:
        self.path = Path(path)
        self.meta = meta
        self.storage: str = storage
        if storage not in STORAGES:
            raise UserError(f"no storage {storage!r}; there are {', '.join(STORAGES)}")
        if append:
            open_file(self.path).close()  # refuses what is no episode file
        elif self.path.exists():
            raise UserError(f"{self.path} exists already; remove it or choose another name")
        self._append = append
        self._columns: dict[str, ColumnWriter] = {}
        self._cameras: list[str] | None = None
        self._num_rows = 0
        self._num_episodes, self._num_before = 0, 0
        self._pending_rows, self._pending_bytes = 0, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Temporary(self.path)
        try:
            self._disk = DeferredErrorFile(self._temporary.path)
            try:
                self._open()
            except BaseException:
                self._disk.close()
                raise
        except BaseException:
            self._temporary.discard()
            raise

    def _open(self) -> None:
        if self._append:
            with self.path.open("rb") as old:
                shutil.copyfileobj(old, self._disk, BYTES_PER_WRITE)
            self._check_disk()
        # The metadata of this library version carries checksums, so that a damaged file is noticed. Chunks are written
        # whole, or grow in place: a cache would only change their order.
        settings: dict[str, Any] = {"libver": ("v110", "v110"), "rdcc_nbytes": 0, "meta_block_size": METADATA_BYTES}
        self._file = h5py.File(self._disk, "r+" if self._append else "w", **settings)
        if not self._append:
            self._file.attrs.update(format=FORMAT, schema_version=SCHEMA_VERSION, storage=self.storage)
            return
        self.storage = str(self._file.attrs["storage"])
        self._cameras = sorted(self._file.get(VIEWS, ()))
        self._columns = {name: ColumnWriter(dataset) for name, dataset in datasets_of(self._file) if name != "meta"}
        self._num_episodes = self._num_before = self._columns["ep_len"].num_rows
        self._num_rows = self._columns["success"].num_rows
        if self._file.attrs["schema_version"] != SCHEMA_VERSION:
            self._add_missing_columns()

    def _add_missing_columns(self) -> None:
        """Make a file of an earlier schema one of this schema: of the episodes in it nobody recorded what it lacks."""
        for name, rows in not_recorded(self._columns["actions"].num_rows).items():
            self._add(name, rows)
        self._file.attrs["schema_version"] = SCHEMA_VERSION

    def append(self, episode: Episode) -> None:
        """Add one episode at the end."""
        if self._num_episodes == 0:
            self._set_meta()
        for name in (*FRAME_COLUMNS, *ACTION_COLUMNS):
            self._add(name, getattr(episode, name))
        for camera in self._cameras_of(episode):
            self._add(f"{VIEWS}/{camera}", episode.views[camera])
        for name in (*FRAME_TEXTS, *ACTION_TEXTS):
            self._add_texts(name, [text.encode() for text in getattr(episode, name)])
        self._add("ep_len", np.array([len(episode)], np.int64))
        self._add("ep_offset", np.array([self._num_rows], np.int64))
        self._add("seed", np.array([episode.seed], np.int64))
        self._add("goal_state", episode.goal_state[None])
        for name in ("policy", "goal_text"):
            self._add_texts(name, [getattr(episode, name).encode()])
        self._add_texts("variation", [json.dumps(episode.variation, sort_keys=True).encode()])
        if self._num_episodes == 0:
            self._file.flush()  # gives the names of the columns their place, in front of all that follows
        self._num_rows += len(episode) + 1
        self._num_episodes += 1
        self._pending_rows += len(episode) + 1
        self._pending_bytes += (1 + len(episode.views)) * episode.frames.nbytes
        if self._pending_rows >= ROWS_PER_WRITE or self._pending_bytes >= BYTES_PER_WRITE:
            self._write_pending()

    def _set_meta(self) -> None:
        """Write what is known at the start to the start of the file, where a file cut off keeps it."""
        self._first_meta = json.dumps(self.meta, sort_keys=True)
        self._file.attrs["meta"] = np.bytes_(self._first_meta)
        self._last_meta = create_column(self._file, "meta", np.zeros(0, np.uint8), self.storage)

    def _cameras_of(self, episode: Episode) -> list[str]:
        """Return the additional cameras in alphabetical order, as they are read back; the same in every episode."""
        cameras = sorted(episode.views)
        if self._cameras is None:
            self._cameras = cameras
        if cameras != self._cameras:
            raise self._misfit(f"views of {cameras}, those before {self._cameras}")
        return cameras

    def _add(self, name: str, rows: np.ndarray) -> None:
        if is_picture(name) and self.storage == "jpeg":
            self._add_jpegs(name, rows)
            return
        self._check_shape(name, rows)
        self._column(name, rows).add(rows)

    def _check_shape(self, name: str, rows: np.ndarray) -> None:
        before = self._columns[name].row_shape if name in self._columns else rows.shape[1:]
        if rows.shape[1:] != before:
            raise self._misfit(f"{name} rows have shape {rows.shape[1:]}, those before {before}")

    def _add_jpegs(self, name: str, frames: np.ndarray) -> None:
        shape = self._file.attrs.setdefault("picture_shape", frames.shape[1:])
        if frames.shape[1:] != tuple(shape):
            raise self._misfit(f"{name} rows have shape {frames.shape[1:]}, those before {tuple(int(size) for size in shape)}")
        settings = {"quality": JPEG_QUALITY, "colorsubsampling": JPEG_COLOUR}
        self._add_texts(name, [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), **settings) for frame in frames])

    def _add_texts(self, name: str, encoded: list[bytes]) -> None:
        data = np.frombuffer(b"".join(encoded), np.uint8)
        column = self._column(f"{name}/bytes", data, len(encoded))
        ends = column.num_rows + np.cumsum([len(text) for text in encoded], dtype=np.int64)
        column.add(data)
        self._column(f"{name}/end", ends).add(ends)

    def _column(self, name: str, rows: np.ndarray, texts: int = 1) -> ColumnWriter:
        if name not in self._columns:
            self._columns[name] = create_column(self._file, name, rows, self.storage, texts)
        return self._columns[name]

    def _misfit(self, what: str) -> Exception:
        if self._num_before:
            return UserError(f"episode {self._num_episodes} does not fit {self.path}: {what}; append episodes of the same kind")
        return ValueError(f"episode {self._num_episodes}: {what}")

    def _write_pending(self, all_rows: bool = False) -> None:
        try:
            # Pictures last: a file that is cut off within them still has all else of these episodes.
            for name in sorted(self._columns, key=_holds_pictures):
                self._columns[name].write(all_rows)
            self._pending_rows, self._pending_bytes = 0, 0
        finally:  # whatever HDF5 makes of a full disk, the full disk is what the user hears of
            self._check_disk()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close()
            self._disk.close()
            self._temporary.discard()  # of what was not finished

    def _finish(self) -> None:
        if self._num_episodes == self._num_before:
            raise UserError(f"no episode was written to {self.path}; an episode file needs at least one")
        self._write_pending(all_rows=True)
        meta = json.dumps(self.meta, sort_keys=True)
        if not self._append and meta != self._first_meta:
            self._last_meta.add(np.frombuffer(meta.encode(), np.uint8))
            self._last_meta.write(all_rows=True)
        self._close()
        self._check_disk()
        if not self._append and self.path.exists():
            raise UserError(f"{self.path} was written by another process meanwhile, and is left as it is")
        self._temporary.rename()

    def _close(self) -> None:
        self._columns = {}
        self._file.close()

    def _check_disk(self) -> None:
        error = self._disk.error
        if error is not None:
            raise UserError(f"cannot write {self.path}: {error.strerror}; make room and try again") from error


def _holds_pictures(name: str) -> bool:
    return is_picture(name.removesuffix("/bytes")) and not name.endswith("/end")


def write_episodes(path: Path, episodes: Iterable[Episode], meta: dict[str, Any], storage: Storage = "lossless") -> None:
    """Write an episode file whole or not at all; see `EpisodeWriter`."""
    with EpisodeWriter(path, meta, storage) as writer:
        for episode in episodes:
            writer.append(episode)
