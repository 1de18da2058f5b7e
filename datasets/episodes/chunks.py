"""Reading the columns of an episode file a chunk at a time, with the checksums that HDF5's filters do not know.

HDF5 is asked once where the chunks of a column lie; then `pread` brings their bytes, which are verified and decoded here, by
several threads at once, where its lock would stop them. Rows of uncompressed columns are read alone, without the rest of their
chunk. Where everything is verified, in damaged files too, chunks come through HDF5. Threads and forked processes read through one
reader. The memory held is what finds the chunks (16 bytes each) and small columns, once they were used.
"""

import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import simplejpeg
import zstandard

from worldmodel.datasets.episodes.episode import NOT_RECORDED
from worldmodel.datasets.episodes.schema import STORAGES, VIEWS, WITHOUT_OUTCOMES, DamagedColumn, Storage, is_picture

ZSTD_FILTER, FLETCHER32_FILTER = 32015, 3
"""Numbers of HDF5's filters."""
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises on damaged files."""
CHECKSUM_BYTES = 4
KEEP_BYTES = 16 * 2**20
"""A column of numbers no larger than this is kept in memory once it was used."""

_threads = threading.local()


@dataclass(frozen=True, eq=False)
class Column:
    """A column as the file describes it."""

    dataset: h5py.h5d.DatasetID
    dtype: np.dtype
    row_shape: tuple[int, ...]
    num_rows: int
    rows_per_chunk: int
    is_zstd: bool
    has_checksum: bool
    """Whether each chunk ends with a Fletcher-32 checksum."""
    row_bytes: int
    """Bytes of a decoded row."""

    def chunk(self, number: int) -> bytes:
        """Read a chunk as it is coded; raises one of `UNREADABLE` where it is missing."""
        mask, data = self.dataset.read_direct_chunk((number * self.rows_per_chunk, *(0 for _ in self.row_shape)))
        if mask:
            raise ValueError("a chunk that its filters left out")
        return bytes(data)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Find where the chunks lie in the file, -1 for one that is missing, and their bytes there: int64 (chunks,) each."""
        offsets = np.full(-(-self.num_rows // self.rows_per_chunk) if self.row_bytes else 0, -1, np.int64)
        sizes = np.zeros_like(offsets)

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            number = chunk.chunk_offset[0] // self.rows_per_chunk
            if number < len(offsets) and chunk.filter_mask == 0:
                offsets[number], sizes[number] = chunk.byte_offset, chunk.size

        if len(offsets):
            self.dataset.chunk_iter(note)
        return offsets, sizes


def datasets_of(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """List names and data sets in a file, also of one cut off (`visititems` would read the index of every column)."""
    for name in group:
        item = group[name]
        if isinstance(item, h5py.Dataset):
            yield item.name.lstrip("/"), item
        else:
            yield from datasets_of(item)


def _column(dataset: h5py.Dataset) -> Column:
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if dataset.chunks is None or filters not in ([], [ZSTD_FILTER], [FLETCHER32_FILTER]):
        raise ValueError(f"column {dataset.name} is coded as in no episode file")
    row_bytes = int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.dtype.itemsize
    zstd, checksum = filters == [ZSTD_FILTER], filters == [FLETCHER32_FILTER]
    return Column(dataset.id, dataset.dtype, dataset.shape[1:], len(dataset), dataset.chunks[0], zstd, checksum, row_bytes)


class ColumnReader:
    """Reads rows of the columns of one file.

    Args:
        path: the file.
        file: it, opened; closed by `close`.
        verify: read whole chunks and verify the checksum of each, where rows of uncompressed ones are read alone otherwise.

    Raises:
        OSError, RuntimeError, KeyError, ValueError: what describes the columns is damaged.
        UserError (all reads): what was asked for is damaged.
    """

    def __init__(self, path: Path, file: h5py.File, verify: bool = False) -> None:
        self.path, self.verify, self._file = path, verify, file
        self.columns = {name: _column(dataset) for name, dataset in datasets_of(file)}
        self.storage: Storage = file.attrs["storage"]
        assert self.storage in STORAGES
        shape = file.attrs["picture_shape"] if self.storage == "jpeg" else file["frames"].shape[1:]
        self.picture_shape = tuple(int(size) for size in shape)
        self._memory: dict[str, np.ndarray] = {}
        if file.attrs["schema_version"] == WITHOUT_OUTCOMES:
            self._memory |= {name: np.broadcast_to(value, len(file["actions"])) for name, value in NOT_RECORDED.items()}
        self.not_in_file = list(self._memory)
        """Columns that a file of an earlier schema lacks."""
        self._lies: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._closed = False
        self._fd = -1 if verify else file.id.get_vfd_handle()

    def close(self) -> None:
        """Close the file; what is in memory stays readable."""
        self._closed = True
        self._file.close()

    def num_rows(self, name: str) -> int:
        """Count the rows of a column; of a text column its texts."""
        if name in self._memory:
            return len(self._memory[name])
        return self.columns[name if name in self.columns else f"{name}/end"].num_rows

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a row of a column of numbers or pictures."""
        if name in self.not_in_file:
            return ()
        return self.columns[name].row_shape if name in self.columns else self.picture_shape

    def dtype(self, name: str) -> np.dtype:
        """Return the type of a column of numbers or pictures."""
        if name in self.not_in_file:
            return self._memory[name].dtype
        return self.columns[name].dtype if name in self.columns else np.dtype(np.uint8)

    @property
    def cameras(self) -> list[str]:
        """The additional cameras."""
        return sorted({name.split("/")[1] for name in self.columns if name.startswith(f"{VIEWS}/")})

    def load(self) -> None:
        """Decode all columns and keep them in memory, pictures too."""
        for name in self.columns.keys() - self._memory.keys():
            if not is_picture(name) or self.storage != "jpeg":
                self._memory[name] = self._whole(name)
            elif name.endswith("/end"):
                pictures = name.removesuffix("/end")
                self._memory[pictures] = self.rows(pictures, 0, self.num_rows(pictures))

    def rows(self, name: str, start: int, stop: int, step: int = 1, out: np.ndarray | None = None) -> np.ndarray:
        """Read every `step`-th row of start <= row < stop, into `out` (C-contiguous) where it is given."""
        if out is None:
            out = self._empty(name, len(range(start, stop, step)))
        kept = self.kept(name)
        if kept is not None:
            out[:] = kept[start:stop:step]
        elif out.size == 0:
            pass
        elif name not in self.columns:
            self._decode_jpegs(name, start, step, out)
        elif self.verify or self.columns[name].is_zstd:
            self._decode_chunks(name, start, step, out)
        else:
            self._copy(name, start, step, out)
        return out

    def windows(self, name: str, starts: np.ndarray, step: int, out: np.ndarray) -> None:
        """Read several windows: out[i] (count, ...) is every `step`-th row from starts[i] on. Read front to back.

        Windows that lie in one uncompressed chunk, most of them, are one system call each and nothing else.
        """
        kept, count = self.kept(name), out.shape[1]
        if kept is not None:
            out[:] = kept[starts[:, None] + np.arange(0, count * step, step)]
            return
        order = np.argsort(starts, kind="stable").tolist()
        column = self.columns.get(name)
        if column is None or column.is_zstd or self.verify or step > 1 or out[:1].nbytes == 0:
            for i in order:
                self.rows(name, int(starts[i]), int(starts[i]) + (count - 1) * step + 1, step, out[i])
            return
        chunk, inside = np.divmod(starts, column.rows_per_chunk)
        offsets = self._places(name)[0][chunk]
        places = (offsets + inside * column.row_bytes).tolist()
        is_whole = ((inside + count <= column.rows_per_chunk) & (offsets >= 0)).tolist()
        fd, size, target = self._open_fd(), out[0].nbytes, out.reshape(-1).view(np.uint8).data
        for i in order:
            if not is_whole[i]:
                self._copy(name, int(starts[i]), 1, out[i])
            elif os.preadv(fd, [target[i * size : (i + 1) * size]], places[i]) != size:
                raise self._damaged(name)

    def kept(self, name: str) -> np.ndarray | None:
        """Return a column that is in memory or small enough to be from now on; not to be written to.

        Where all is verified none is: one damaged chunk would take the whole column with it.
        """
        if name not in self._memory and not self.verify and (not is_picture(name) or name.endswith("/end")):
            column = self.columns[name]
            if column.num_rows * column.row_bytes <= KEEP_BYTES:
                self._memory[name] = self._whole(name)
        return self._memory.get(name)

    def _empty(self, name: str, num_rows: int) -> np.ndarray:
        return np.empty((num_rows, *self.row_shape(name)), self.dtype(name))

    def scattered(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read rows of any numbers, in the order asked."""
        kept = self.kept(name)
        if kept is not None:
            return kept[rows]
        found = self._empty(name, len(rows))
        if name not in self.columns or not self.columns[name].is_zstd:
            for place in np.argsort(rows, kind="stable").tolist():
                self.rows(name, int(rows[place]), int(rows[place]) + 1, out=found[place : place + 1])
            return found
        per_chunk = self.columns[name].rows_per_chunk
        chunks = rows // per_chunk
        for chunk in np.unique(chunks).tolist():  # each is decoded once
            members = np.flatnonzero(chunks == chunk)
            found[members] = self._chunk(name, chunk)[rows[members] - chunk * per_chunk]
        return found

    def texts(self, name: str, start: int, stop: int) -> list[str]:
        """Read texts start <= row < stop of a text column."""
        try:
            return [text.decode() for text in self.coded(name, start, stop)]
        except UnicodeDecodeError as error:
            raise self._damaged(name) from error

    def coded(self, name: str, start: int, stop: int) -> list[bytes]:
        """Read texts, or JPEGs of pictures, start <= row < stop, as they are in the file."""
        bounds = self._bounds(name, start, stop)
        data = self.rows(f"{name}/bytes", bounds[0], bounds[-1]).tobytes()
        return [data[a - bounds[0] : b - bounds[0]] for a, b in zip(bounds, bounds[1:], strict=False)]

    def _bounds(self, name: str, start: int, stop: int) -> list[int]:
        """Find where texts or JPEGs start, and where the last one stops."""
        ends: list[int] = self.rows(f"{name}/end", max(start - 1, 0), stop).tolist()
        bounds = ends if start > 0 else [0, *ends]
        if bounds[0] < 0 or bounds[-1] > self.num_rows(f"{name}/bytes") or bounds != sorted(bounds):
            raise self._damaged(name)
        return bounds

    def _decode_jpegs(self, name: str, start: int, step: int, out: np.ndarray) -> None:
        if step > 1:
            for i in range(len(out)):
                self._decode_jpegs(name, start + i * step, 1, out[i : i + 1])
            return
        bounds = self._bounds(name, start, start + len(out))
        data = self.rows(f"{name}/bytes", bounds[0], bounds[-1]).data
        try:
            for picture, a, b in zip(out, bounds, bounds[1:], strict=False):
                found = simplejpeg.decode_jpeg(data[a - bounds[0] : b - bounds[0]], buffer=picture)
                if found.shape != picture.shape:
                    raise ValueError(f"a JPEG of shape {found.shape}")
        except ValueError as error:
            raise self._damaged(name) from error

    def _decode_chunks(self, name: str, start: int, step: int, out: np.ndarray) -> None:
        per_chunk = self.columns[name].rows_per_chunk
        done = 0
        while done < len(out):
            chunk, inside = divmod(start + done * step, per_chunk)
            rows = self._chunk(name, chunk)[inside::step][: len(out) - done]
            out[done : done + len(rows)] = rows
            done += len(rows)

    def _copy(self, name: str, start: int, step: int, out: np.ndarray) -> None:
        column, (offsets, _) = self.columns[name], self._places(name)
        target, row_bytes = out.reshape(-1).view(np.uint8).data, column.row_bytes
        done = 0
        while done < len(out):
            chunk, inside = divmod(start + done * step, column.rows_per_chunk)
            rows = min(len(out) - done, column.rows_per_chunk - inside) if step == 1 else 1
            place = int(offsets[chunk])
            part = target[done * row_bytes : (done + rows) * row_bytes]
            if place < 0 or os.preadv(self._open_fd(), [part], place + inside * row_bytes) != len(part):
                raise self._damaged(name)
            done += rows

    def _whole(self, name: str) -> np.ndarray:
        """Read a whole column of numbers, its checksums verified."""
        column = self.columns[name]
        rows = np.empty((column.num_rows, *column.row_shape), column.dtype)
        for chunk in range(-(-len(rows) // column.rows_per_chunk) if rows.size else 0):
            part = rows[chunk * column.rows_per_chunk :][: column.rows_per_chunk]
            part[:] = self._chunk(name, chunk)[: len(part)]
        return rows

    def _chunk(self, name: str, chunk: int) -> np.ndarray:
        """Read the rows of a chunk, its checksum verified; the last chunk is filled up with anything."""
        column = self.columns[name]
        self._open_fd()
        content = column.rows_per_chunk * column.row_bytes
        try:
            if self.verify:
                data = column.chunk(chunk)
            else:
                place, size = (int(of_all[chunk]) for of_all in self._places(name))
                data = os.pread(self._fd, size, place) if place >= 0 else b""
            if column.is_zstd:
                if zlib.crc32(memoryview(data)[:-CHECKSUM_BYTES]) != int.from_bytes(data[-CHECKSUM_BYTES:], "little"):
                    raise ValueError("another checksum")
                if zstandard.frame_content_size(data) != content:
                    raise ValueError("a chunk of another size")
                data = _decompressor().decompress(data)
            elif column.has_checksum and fletcher32(data[:content]) != int.from_bytes(data[content:], "little"):
                raise ValueError("another checksum")
            return np.frombuffer(data, column.dtype, content // column.dtype.itemsize).reshape(-1, *column.row_shape)
        except (*UNREADABLE, zstandard.ZstdError) as error:
            raise self._damaged(name) from error

    def _places(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Find where the chunks of a column lie, once."""
        self._open_fd()
        if name not in self._lies:
            try:
                self._lies[name] = self.columns[name].places()
            except UNREADABLE as error:
                raise self._damaged(name) from error
        return self._lies[name]

    def _open_fd(self) -> int:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    def _damaged(self, name: str) -> "DamagedColumn":
        return DamagedColumn(self.path, name)


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's own decompressor: one must not be used by two at a time."""
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = zstandard.ZstdDecompressor()
    return _threads.decompressor


def fletcher32(data: bytes) -> int:
    """Compute the checksum HDF5's filter of this name appends to a chunk."""
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.uint64)
    first, second = int(words.sum()), int(np.dot(words, np.arange(len(words), 0, -1, dtype=np.uint64)))
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    """Reduce modulo 65535, as folding the carries back leaves it: 65535 stands for 0 unless all was 0."""
    return (total - 1) % 65535 + 1 if total else 0
