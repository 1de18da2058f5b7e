"""Writing one column of an episode file: whole chunks, each once, so that what is in the file never moves."""

import zlib

import h5py
import hdf5plugin
import numpy as np
import zstandard

from worldmodel.datasets.episodes.schema import EPISODE_COLUMNS, EPISODE_TEXTS, is_picture

BYTES_PER_CHUNK = 2**20
"""Of frames before they are compressed, and of JPEGs."""
FRAMES_PER_CHUNK = 16
"""At most, where they are compressed."""
ROWS_PER_CHUNK = 256
"""Of all other columns; of texts about as many, so that a file cut off loses about as much of each column."""
TEXT_BYTES_PER_CHUNK = (2**11, 2**14)
"""Least and most."""
ZSTD_LEVEL = 3

CHECKSUM_FRAME = b"\x50\x2a\x4d\x18\x04\x00\x00\x00"
"""Head of a zstd frame that decoders skip (RFC 8878, 3.1.2), of 4 bytes: the CRC-32 of all bytes of the chunk before them."""

_COMPRESS = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False, write_content_size=True)


class ColumnWriter:
    """A column that grows at its end.

    Compressed columns are coded here and not by HDF5, whose filter writes no checksum. It is of the compressed bytes: zstd's own, of
    what is decoded, takes as long as decoding flat scenes does. Columns of episodes are written as they come, into chunks that have
    their place from their first row on; the others when a chunk is full, and at the end.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._is_zstd = dataset.id.get_create_plist().get_nfilters() > 0 and not dataset.fletcher32
        self._in_place = _is_of_episodes(dataset.name.lstrip("/"))
        self._per_chunk = int(dataset.chunks[0])
        self._pending: list[np.ndarray] = []
        self._written = len(dataset)
        if not self._in_place:  # a last chunk that is not full is written again
            self._written -= self._written % self._per_chunk
            if self._written < len(dataset):
                self._pending = [dataset[self._written :]]
        self.num_rows = len(dataset)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return tuple(self._dataset.shape[1:])

    def add(self, rows: np.ndarray) -> None:
        """Add rows, still in memory."""
        if len(rows):
            self._pending.append(rows)
            self.num_rows += len(rows)

    def write(self, all_rows: bool = False) -> None:
        """Write the chunks that are full, or all that was added."""
        pending = self.num_rows - self._written
        full = pending if all_rows or self._in_place else pending - pending % self._per_chunk
        if full == 0:
            return
        rows = np.concatenate(self._pending)
        self._dataset.resize(self._written + full, axis=0)
        if rows.size:
            self._write(rows[:full])
        self._pending = [rows[full:]] if full < pending else []
        self._written += full

    def _write(self, rows: np.ndarray) -> None:
        if not self._is_zstd:
            self._dataset[self._written :] = rows
            return
        for start in range(0, len(rows), self._per_chunk):
            chunk = np.ascontiguousarray(rows[start : start + self._per_chunk])
            content = chunk.tobytes().ljust(self._per_chunk * chunk[0].nbytes, b"\0")
            place = (self._written + start, *(0 for _ in self.row_shape))
            data = _COMPRESS.compress(content) + CHECKSUM_FRAME
            self._dataset.id.write_direct_chunk(place, data + zlib.crc32(data).to_bytes(4, "little"))


def create_column(file: h5py.File, name: str, rows: np.ndarray, storage: str, texts: int = 1) -> ColumnWriter:
    """Create a new, empty column for such rows as the first ones are; of a text column these are the bytes of so many texts."""
    row_shape = rows.shape[1:]
    compressed = not _is_of_episodes(name) and (storage == "lossless" or not is_picture(name))
    if storage == "raw" and "/" not in name:  # numbers too: a read of them is a copy
        compressed = False
    dataset = file.create_dataset(
        name,
        shape=(0, *row_shape),
        maxshape=(None, *(size or None for size in row_shape)),  # HDF5 has no chunks of no width: such a row could grow, and does not
        chunks=(_rows_per_chunk(name, rows, storage, texts), *(size or 1 for size in row_shape)),
        dtype=rows.dtype,
        **(hdf5plugin.Zstd(clevel=ZSTD_LEVEL) if compressed else {"fletcher32": True}),
    )
    return ColumnWriter(dataset)


def _is_of_episodes(name: str) -> bool:
    return name.split("/")[0] in (*EPISODE_COLUMNS, *EPISODE_TEXTS, "meta")


def _rows_per_chunk(name: str, rows: np.ndarray, storage: str, texts: int) -> int:
    if is_picture(name) and not name.endswith("/end"):
        fitting = max(1, BYTES_PER_CHUNK // max(1, int(np.prod(rows.shape[1:], dtype=np.int64))))
        return min(FRAMES_PER_CHUNK, fitting) if storage == "lossless" else fitting
    if not name.endswith("/bytes"):
        return ROWS_PER_CHUNK
    least, most = TEXT_BYTES_PER_CHUNK
    expected = len(rows) * ROWS_PER_CHUNK // texts
    return min(max(1 << expected.bit_length(), least), most)
