"""Parts: a scratch file per finished episode, so that a killed collection loses only the episodes in flight.

Everything but the frames and the numbers of each frame is one JSON text here (Python writes floats so that
they read back the same): HDF5 takes a quarter of a millisecond to create a column, and a part is written
once, read once and deleted.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.episode import ACTION_TEXTS, Episode

STEP_FIELDS = ("proprio", "state", "features", "success")
JSON_FIELDS = ("captions", "questions", "answers", *ACTION_TEXTS, "seed", "policy", "variation", "goal_text")

PART_LEVEL = 1
"""Of the compression: fast, as the frames are compressed again for good when the parts are merged."""


def part_path(folder: Path, index: int) -> Path:
    """Where episode `index` of a collection lies until all are there."""
    return folder / f"episode_{index:06d}.h5"


def save_part(path: Path, episode: Episode, durable: bool = True) -> None:
    """Writes one episode, whole or not at all; OSError when the disk is full. `durable` as in `write_atomic`."""
    write_atomic(path, part_bytes(episode), durable)


def part_bytes(episode: Episode) -> bytes:
    """The content of the part of one episode."""
    with h5py.File("part", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        compression = dict(
            chunks=(min(16, len(episode.frames)), *episode.frames.shape[1:]),
            fletcher32=True,
            **hdf5plugin.Zstd(clevel=PART_LEVEL),
        )
        file.create_dataset("frames", data=episode.frames, **compression)
        for camera, view in episode.views.items():
            file.create_dataset(f"views/{camera}", data=view, **compression)
        steps = _table(episode)
        file.create_dataset("steps", data=steps)
        record = {name: getattr(episode, name) for name in JSON_FIELDS}
        record["checksum"] = zlib.crc32(steps.tobytes())
        record |= {"cameras": list(episode.views), "actions": episode.actions.tolist(), "goal_state": episode.goal_state.tolist()}
        file.create_dataset("record", data=np.frombuffer(json.dumps(record).encode(), np.uint8))
        file.flush()
        return bytes(file.id.get_file_image())


def load_part(path: Path) -> Episode:
    """Reads one episode; OSError, KeyError or ValueError when the file is not a whole part."""
    with h5py.File(path, "r", locking=False) as file:
        steps = file["steps"][:]
        columns: dict[str, Any] = {name: np.ascontiguousarray(steps[name]) for name in STEP_FIELDS}
        columns |= json.loads(file["record"][:].tobytes())
        if columns.pop("checksum") != zlib.crc32(steps.tobytes()):
            raise ValueError(f"{path} is damaged")
        columns["frames"] = file["frames"][:]
        columns["views"] = {camera: file[f"views/{camera}"][:] for camera in columns.pop("cameras")}
        columns["actions"] = np.array(columns["actions"], np.float32)
        columns["goal_state"] = np.array(columns["goal_state"], np.float64)
        return Episode(**columns)


def _table(episode: Episode) -> np.ndarray:
    columns = {name: getattr(episode, name) for name in STEP_FIELDS}
    table = np.empty(len(episode) + 1, [(name, rows.dtype, rows.shape[1:]) for name, rows in columns.items()])
    for name, rows in columns.items():
        table[name] = rows
    return table
