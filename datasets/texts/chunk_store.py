"""Chunks of text on the disk: their UTF-8 bytes end to end in one file; where each begins, with its checksum, in another."""

import contextlib
import os
import struct
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import overload

from worldmodel.errors import UserError

_ENTRY = struct.Struct("<qI")  # where a chunk begins, checksum
_ENTRY_AND_END = struct.Struct("<qIq")
_BUFFER = 1 << 18


@dataclass(frozen=True)
class Size:
    """How much text there is."""

    documents: int = 0
    pieces: int = 0
    num_bytes: int = 0


class Chunks(Sequence[str]):
    """Reads the chunks in the files of a name, in any order, in O(1) and without keeping them.

    So it does in processes it is forked or pickled to. UserError where the files have gone or are damaged.
    """

    def __init__(self, folder: Path, name: str, size: Size) -> None:
        self.folder, self.name, self.size = folder, name, size
        self._open()

    def __len__(self) -> int:
        return self.size.pieces

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Read one chunk, or a list of those in a slice; IndexError where there is none."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        return self._read(place).decode("utf-8")

    def _read(self, place: int) -> bytes:
        text, index = self._descriptors
        entry = os.pread(index, _ENTRY_AND_END.size, place * _ENTRY.size)  # pread: processes share no position
        if len(entry) == _ENTRY_AND_END.size:
            start, checksum, end = _ENTRY_AND_END.unpack(entry)
            if 0 <= start < end <= self.size.num_bytes:
                data = os.pread(text, end - start, start)
                if zlib.crc32(data) == checksum:
                    return data
        with contextlib.suppress(OSError):
            _paths(self.folder, self.name)[1].unlink()  # without it the files are not whole, and are made anew
        raise UserError(f"the text cache {self.folder} is damaged and was discarded; run the command again, it is made anew")

    def _open(self) -> None:
        self._descriptors: list[int] = []
        weakref.finalize(self, _close, self._descriptors)
        try:
            for path in _paths(self.folder, self.name):
                self._descriptors.append(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise UserError(
                f"the text cache {self.folder} has gone ({error.strerror}); run the command again, it is made anew"
            ) from error

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptors"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


class ChunkWriter:
    """Writes chunks one after another to the files of a name, without ending, in a folder; a context manager."""

    def __init__(self, folder: Path, name: str) -> None:
        text, index = _paths(folder, name)
        self.size = Size()
        self._text, self._index = text.open("wb", buffering=_BUFFER), index.open("wb", buffering=_BUFFER)

    def __enter__(self) -> "ChunkWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._text, self._index:
            self._index.write(_ENTRY.pack(self.size.num_bytes, 0))

    def add(self, chunks: Sequence[str]) -> None:
        """Add the chunks of one document; none of them is empty."""
        start = self.size.num_bytes
        for chunk in chunks:
            data = chunk.encode("utf-8")
            self._text.write(data)
            self._index.write(_ENTRY.pack(start, zlib.crc32(data)))
            start += len(data)
        self.size = Size(self.size.documents + 1, self.size.pieces + len(chunks), start)


def is_whole(folder: Path, name: str, size: Size) -> bool:
    """Test whether files of the right sizes are there; what is wrong inside of them is noticed when it is read."""
    expected = (size.num_bytes, (size.pieces + 1) * _ENTRY.size)
    try:
        return tuple(path.stat().st_size for path in _paths(folder, name)) == expected
    except OSError:
        return False


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.txt", folder / f"{name}.index"
