"""Episode files read with every checksum verified, damaged ones too, and episodes copied as they are coded.

`EpisodeStore` verifies what it decodes; a clip of raw or JPEG frames is not worth reading whole chunks for. Where
episodes are judged or copied it is: a `VerifiedStore` gives an episode as it was written, or an error.
"""

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.datasets.episodes.chunks import Column, ColumnReader, locate_column, missing_columns
from worldmodel.datasets.episodes.schema import FORMAT, READABLE, VIEWS, damaged, read_meta
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import EpisodeWriter
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

UNREADABLE = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises on damaged files."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
END_ADDRESS = slice(28, 36)
"""Where a file of our kind says how long it is."""


class DamagedColumn(UserError):
    """Part of a column cannot be read.

    Args:
        path: the file.
        column: the column.
    """

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(str(damaged(path, f"column {column} cannot be read")))
        self.column = column


class VerifiedReader(ColumnReader):
    """Reads as its parent does, but nothing from a chunk whose checksum is wrong. Arguments as there."""

    def __init__(self, path: Path, columns: dict[str, Column], storage: str, picture_shape: tuple[int, ...]) -> None:
        super().__init__(path, columns, storage, picture_shape)
        for name, column in columns.items():
            if column.is_zstd:  # verified whenever one is decoded
                continue
            for chunk in range(len(column.offsets)):
                try:
                    self._chunk(name, chunk)
                except UserError:
                    column.offsets[chunk] = -1  # counts as missing from now on

    def kept(self, name: str) -> np.ndarray | None:
        """Return a column that is not in the file, else None: one damaged chunk would take the whole column with it."""
        return self._memory.get(name)

    def coded(self, name: str, start: int, stop: int) -> list[bytes]:
        """Read the JPEGs of a column's pictures start <= row < stop, as they are in the file."""
        bounds = self._bounds(name, start, stop)
        data = self.rows(f"{name}/bytes", bounds[0], bounds[-1]).tobytes()
        return [data[a - bounds[0] : b - bounds[0]] for a, b in zip(bounds, bounds[1:], strict=False)]

    def _damaged(self, name: str) -> DamagedColumn:
        return DamagedColumn(self.path, name)


class VerifiedStore(EpisodeStore):
    """An episode file of which `episode(i)` is what was written, or raises ValueError (most often its UserError).

    Raises:
        UserError: as `EpisodeStore`.
    """

    _reader: VerifiedReader

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = self._reader
        found.close()
        self._reader = VerifiedReader(self.path, found.columns, found.storage, found.picture_shape)

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
        with _open_damaged(self.path) as file:
            self.meta = _meta_left(self.path, file)
            try:
                storage = str(file.attrs["storage"])
                shape = file.attrs["picture_shape"] if storage == "jpeg" else file["frames"].shape[1:]
                columns = _locate_what_is_left(file)
                self._reader = VerifiedReader(self.path, columns, storage, tuple(int(size) for size in shape))
            except UNREADABLE as error:
                raise _hopeless(self.path, "what describes its columns is damaged") from error
        self.cameras = self._reader.cameras
        self.lengths = self._known_lengths()
        self.offsets = np.cumsum(self.lengths + 1) - self.lengths - 1

    def _known_lengths(self) -> np.ndarray:
        """Read the lengths of the first episodes, up to the first chunk of them that is damaged."""
        if "ep_len" not in self._reader.columns:
            raise _hopeless(self.path, "the lengths of its episodes are lost")
        column = self._reader.columns["ep_len"]
        good = np.append(column.offsets >= 0, False)
        stop = min(int(np.argmin(good)) * column.rows_per_chunk, column.num_rows)
        lengths = self._reader.rows("ep_len", 0, stop)
        return lengths[: int(np.argmin(np.append(lengths >= 1, False)))]


class CopyingWriter(EpisodeWriter):
    """Writes episodes of other files; JPEGs are copied and not coded a second time. Arguments as its parent."""

    _coded: dict[str, list[bytes]] = {}

    def copy(self, store: VerifiedStore, i: int) -> None:
        """Add episode i of another file.

        Raises:
            ValueError: the episode is damaged; nothing was added.
        """
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


def _locate_what_is_left(file: h5py.File) -> dict[str, Column]:
    """Locate the chunks of all columns; a chunk of which the place is lost counts as missing."""
    columns: dict[str, Column] = {}
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    while groups:  # HDF5's own visit would want the indices of all chunks
        prefix, group = groups.pop()
        for name in group:
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((f"{prefix}{name}/", item))
            else:
                columns[f"{prefix}{name}"] = _locate_left(item)
    return columns | missing_columns(file)


def _locate_left(dataset: h5py.Dataset) -> Column:
    try:
        return locate_column(dataset)
    except UNREADABLE:  # the index is cut off; ask it for one chunk after the other
        places = [_locate_chunk(dataset, chunk) for chunk in range(-(-len(dataset) // dataset.chunks[0]) if dataset.size else 0)]
        offsets, sizes = (np.array([place[k] for place in places], np.int64) for k in range(2))
        return Column(
            dtype=dataset.dtype,
            row_shape=dataset.shape[1:],
            num_rows=len(dataset),
            rows_per_chunk=dataset.chunks[0],
            offsets=offsets,
            sizes=sizes,
            is_zstd=not dataset.fletcher32,
            has_checksum=dataset.fletcher32,
            row_bytes=int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize,
        )


def _locate_chunk(dataset: h5py.Dataset, chunk: int) -> tuple[int, int]:
    """Find place and bytes of a chunk, (-1, 0) when they are lost."""
    first = (chunk * dataset.chunks[0], *(0 for _ in dataset.shape[1:]))
    try:
        found = dataset.id.get_chunk_info_by_coord(first)
    except UNREADABLE:
        return -1, 0
    return (found.byte_offset, found.size) if found.byte_offset is not None and found.filter_mask == 0 else (-1, 0)
