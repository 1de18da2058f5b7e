"""Parts: a scratch file per finished episode, so that a killed collection loses only the episodes in flight.

A shard is written once, read once and deleted, so it is made for speed: one zstd frame with a checksum, which
holds a JSON text (its length comes first) and the arrays end to end.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from worldmodel.datasets.atomic import DISK_FULL, write_atomic
from worldmodel.datasets.episodes.episode import ACTION_TEXTS, ARRAYS, Episode
from worldmodel.errors import UserError

JSON_FIELDS = ("captions", "questions", "answers", *ACTION_TEXTS, "seed", "policy", "variation", "goal_text")
PATTERN = "episode_*.part"

_LENGTH = struct.Struct("<Q")
_FAST = zstandard.ZstdCompressionParameters.from_level(1, window_log=22, write_checksum=True)


def shard_path(folder: Path, index: int) -> Path:
    """Return where episode `index` of a collection lies until all are there."""
    return folder / PATTERN.replace("*", f"{index:06d}")


def save_shard(path: Path, episode: Episode) -> None:
    """Write one episode, whole or not at all; OSError when the disk is full."""
    write_atomic(path, shard_bytes(episode))


def write_part(folder: Path, name: str, content: bytes) -> None:
    """Write a shard, or the mark of an episode that failed, so far as needed to survive this process; UserError for a full disk."""
    try:
        write_atomic(folder / name, content, durable=False)  # a damaged one is noticed and recorded again
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        room = "finished episodes are kept, make room and run the same command"
        raise UserError(f"{folder}: {error.strerror}; {room}") from error


def shard_bytes(episode: Episode) -> bytes:
    """Return the content of the shard of one episode."""
    arrays = {name: np.ascontiguousarray(getattr(episode, name)) for name in ARRAYS}
    arrays |= {f"views/{camera}": np.ascontiguousarray(view) for camera, view in episode.views.items()}
    record: dict[str, Any] = {name: getattr(episode, name) for name in JSON_FIELDS}
    record["arrays"] = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = json.dumps(record).encode()
    content = b"".join([_LENGTH.pack(len(header)), header, *(array.data.cast("B") for array in arrays.values() if array.size)])
    return zstandard.ZstdCompressor(compression_params=_FAST).compress(content)


def load_shard(path: Path) -> Episode:
    """Read one episode; ValueError where the file is no whole shard of this version, OSError where it cannot be read."""
    data = path.read_bytes()
    try:
        return _parse(zstandard.ZstdDecompressor().decompress(data))
    except Exception as error:  # zstd, struct, json, numpy and `Episode` each raise types of their own for foreign bytes
        raise ValueError(f"{path} is damaged: {error}") from error


def _parse(content: bytes) -> Episode:
    place = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    columns: dict[str, Any] = json.loads(content[_LENGTH.size : place])
    views: dict[str, np.ndarray] = {}
    for name, dtype, shape in columns.pop("arrays"):
        size = int(np.prod(shape))
        array = (np.frombuffer(content, dtype, size, place) if size else np.empty(0, dtype)).reshape(shape)
        place += array.nbytes
        folder, _, camera = name.rpartition("/")
        (views if folder else columns)[camera] = array
    return Episode(**columns, views=views)
