"""Parquet files with encoded pictures, read a row group at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.pictures.caches import LRUCache
from worldmodel.datasets.pictures.captions import CAPTION_KEYS, caption_of_record
from worldmodel.datasets.pictures.skipped_pairs import BadPairError, SkippedPairs
from worldmodel.datasets.records import import_parquet
from worldmodel.errors import UserError

PICTURE_KEYS = ("image", "jpg", "png", "webp", "picture", "img", "bytes", "image_bytes")
"""Columns that hold the pictures, the first that is there."""
KEPT_BYTES = 256 * 2**20
"""Row groups are kept up to so many bytes, and at least one."""


class PictureTables:
    """The rows of some Parquet files.

    A row group is the least that can be read, so random reads of a set that is larger than the rows kept cost a row group
    each: files with small row groups (about 100 rows) or tar shards suit training better.

    Args:
        paths: the files; all have the columns of the first.
        caption_key: column of the captions, by default the first of the usual names.

    Raises:
        UserError: a file cannot be read, or has no column of pictures or of captions.
    """

    licence = "unknown"

    def __init__(self, paths: Sequence[Path], caption_key: str | None = None) -> None:
        self.name = paths[0].stem if len(paths) == 1 else f"{paths[0].stem} and {len(paths) - 1} more"
        self.skipped = SkippedPairs()
        self._paths = list(paths)
        groups, largest = [], 1
        for which, path in enumerate(paths):
            file = _open(path)
            columns = _columns(file.schema_arrow, path, caption_key)
            if which == 0:
                self._picture_key, self._caption_key = columns
            elif columns != (self._picture_key, self._caption_key):
                raise UserError(f"{path}: its columns differ from those of {paths[0]}; open them one by one")
            for group in range(file.metadata.num_row_groups):
                groups.append((which, group, file.metadata.row_group(group).num_rows))
                largest = max(largest, file.metadata.row_group(group).total_byte_size)
            file.close()
        self._groups = np.array(groups, np.int64).reshape(-1, 3)
        self._stops = np.cumsum(self._groups[:, 2])
        self._recent: LRUCache[Any] = LRUCache(max(1, KEPT_BYTES // largest))

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def label(self, i: int) -> str:
        """Return file and row of pair i."""
        which, group, _ = self._groups[self._group(i)]
        first = int(self._groups[: self._group(i)][self._groups[: self._group(i), 0] == which, 2].sum())
        return f"{self._paths[which]}, row {first + self._row(i)}"

    def picture(self, i: int) -> bytes:
        """Read the encoded picture."""
        value = self._value(i, self._picture_key)
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise BadPairError("the row has no encoded picture")
        return value

    def caption(self, i: int) -> str:
        """Read the caption."""
        return caption_of_record({self._caption_key: self._value(i, self._caption_key)}, self._caption_key)

    def _value(self, i: int, column: str) -> Any:
        return self._rows(self._group(i))[column][self._row(i)].as_py()

    def _group(self, i: int) -> int:
        return int(np.searchsorted(self._stops, i, side="right"))

    def _row(self, i: int) -> int:
        group = self._group(i)
        return i - int(self._stops[group] - self._groups[group, 2])

    def _rows(self, group: int) -> Any:
        """Read the two columns of a row group."""
        rows = self._recent.get(group)
        if rows is None:
            which, inside, _ = self._groups[group].tolist()
            path = self._paths[which]
            try:
                file = _open(path)
                # threads of Arrow's own would not live in a forked worker
                rows = file.read_row_group(inside, columns=[self._picture_key, self._caption_key], use_threads=False)
                file.close()
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                raise BadPairError(f"row group {inside} cannot be read: {error}") from error
            self._recent.put(group, rows)
        return rows


def _open(path: Path) -> Any:
    """Open a Parquet file; UserError where it is none, or nothing that reads one is installed."""
    _, parquet = import_parquet(path)
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({error})") from error


def _columns(schema: Any, path: Path, caption_key: str | None) -> tuple[str, str]:
    """Find the names of the columns of pictures and captions."""
    import pyarrow.types as types

    def is_picture(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and is_picture(field.type) for field in kind.fields)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_caption(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind):
            return is_caption(kind.value_type)
        return types.is_string(kind) or types.is_large_string(kind)

    pictures = [field.name for field in schema if is_picture(field.type)]
    captions = [field.name for field in schema if is_caption(field.type)]
    picture = _choose(pictures, PICTURE_KEYS)
    caption = _choose(captions, CAPTION_KEYS if caption_key is None else (caption_key,), alone=caption_key is None)
    if picture is None or caption is None:
        missing = "encoded pictures" if picture is None else f"captions{f' called {caption_key}' if caption_key else ''}"
        raise UserError(f"{path} has no column of {missing}, or several; its columns are {', '.join(schema.names)}")
    return picture, caption


def _choose(names: list[str], usual: Sequence[str], alone: bool = True) -> str | None:
    """Choose the first usual name that is there, else the only name."""
    found = next((name for name in usual if name in names), None)
    return names[0] if found is None and alone and len(names) == 1 else found
