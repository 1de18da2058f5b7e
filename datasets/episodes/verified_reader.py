"""Episode files read with every checksum verified, damaged ones too, and episodes copied as they are coded.

`EpisodeStore` verifies what it decodes; a clip of raw or JPEG frames is not worth reading whole chunks for. Where
episodes are judged or copied it is: a `VerifiedStore` gives an episode as it was written, or an error.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.datasets.episodes.chunks import UNREADABLE, ColumnReader
from worldmodel.datasets.episodes.schema import FORMAT, READABLE, VIEWS, DamagedColumn, read_meta
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import EpisodeWriter
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_ADDRESS = slice(28, 36)
"""Where a file of our kind says how long it is."""


class VerifiedStore(EpisodeStore):
    """An episode file of which `episode(i)` is what was written, or raises ValueError (most often its UserError)."""

    def _open(self, verify: bool = True) -> tuple[ColumnReader, dict[str, Any]]:
        return super()._open(verify)

    def coded_frames(self, i: int) -> dict[str, list[bytes]]:
        """Read the JPEGs of episode i: column -> one for each frame; nothing where the pictures are no JPEGs."""
        if self.storage != "jpeg":
            return {}
        first = self._first_row(i)
        names = ["frames", *(f"{VIEWS}/{camera}" for camera in self.cameras)]
        return {name: self._reader.coded(name, first, first + int(self.lengths[i]) + 1) for name in names}

    def text_is_closed(self, name: str) -> bool:
        """Test whether the last text of a column ends where the column does."""
        rows = self._reader.num_rows(f"{name}/end")
        return bool(self._reader.rows(f"{name}/end", rows - 1, rows)[0] == self._reader.num_rows(f"{name}/bytes"))


class SalvagedStore(VerifiedStore):
    """What is left of a damaged file: as many episodes as its list of lengths still names; each may be damaged or not.

    Raises:
        UserError: what describes the columns is gone, so that nothing of it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.in_memory = Path(path), False
        file = _open_damaged(self.path)
        try:
            self.meta = _meta_left(self.path, file)
            self._reader = ColumnReader(self.path, file, verify=True)
            self.cameras = self._reader.cameras
            self.lengths = self._known_lengths()
        except UserError:
            file.close()
            raise
        except UNREADABLE as error:
            file.close()
            raise _hopeless(self.path, "what describes its columns is damaged") from error
        self.offsets = np.cumsum(self.lengths + 1) - self.lengths - 1

    def _known_lengths(self) -> np.ndarray:
        """Read the lengths of the first episodes, up to the first chunk of them that is damaged."""
        if "ep_len" not in self._reader.columns:
            raise _hopeless(self.path, "the lengths of its episodes are lost")
        column, found = self._reader.columns["ep_len"], [np.zeros(0, np.int64)]
        with contextlib.suppress(DamagedColumn):
            for start in range(0, column.num_rows, column.rows_per_chunk):
                found.append(self._reader.rows("ep_len", start, min(start + column.rows_per_chunk, column.num_rows)))
        lengths = np.concatenate(found)
        return lengths[: int(np.argmin(np.append(lengths >= 1, False)))]


class CopyingWriter(EpisodeWriter):
    """Writes episodes of other files; JPEGs are copied and not coded a second time. Arguments as its parent."""

    _coded: dict[str, list[bytes]] = {}

    def copy(self, store: VerifiedStore, i: int) -> None:
        """Add episode i of another file; ValueError where it is damaged: nothing was added."""
        episode = store.episode(i)
        self._coded = store.coded_frames(i) if self.storage == "jpeg" else {}
        self.append(episode)
        self._coded = {}

    def _add_jpegs(self, name: str, frames: np.ndarray) -> None:
        if name not in self._coded:
            super()._add_jpegs(name, frames)
            return
        self._file.attrs.setdefault("picture_shape", frames.shape[1:])
        self._add_texts(name, self._coded[name])


class _PaddedFile(io.RawIOBase):
    """A file for reading that seems to be as long as it says it was; zeros stand for what is missing."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        head = self._file.read(END_ADDRESS.stop)
        self._size = max(int.from_bytes(head[END_ADDRESS], "little"), path.stat().st_size)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._place)
        data = self._file.read(len(view))
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        self._place += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_damaged(path: Path) -> h5py.File:
    """Open what there is of an episode file."""
    if not path.is_file():
        raise UserError(f"{path} is a folder: name an episode file in it" if path.is_dir() else f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise _hopeless(path, "it does not begin as HDF5 does")
    try:
        opened = h5py.File(_PaddedFile(path), "r")
        form, version = opened.attrs.get("format"), opened.attrs.get("schema_version")
    except UNREADABLE as error:
        raise _hopeless(path, "its beginning is damaged or missing") from error
    if form != FORMAT or version not in READABLE:
        opened.close()
        raise _hopeless(path, f"it is no episode file of schema version {' or '.join(map(str, READABLE))}")
    return opened


def _hopeless(path: Path, why: str) -> UserError:
    return UserError(f"no episode of {path} can be saved: {why}; collect it again or take a copy")


def _meta_left(path: Path, file: h5py.File) -> dict[str, Any]:
    """Read the meta data the file ended with, else those it began with."""
    try:
        return read_meta(file)
    except UNREADABLE:
        try:
            return dict(parse_json(file.attrs["meta"]))
        except UNREADABLE as error:
            raise _hopeless(path, "its meta data are lost") from error
