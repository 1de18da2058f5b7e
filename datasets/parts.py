"""Parts: one scratch file per finished episode, so that a killed collection loses only the episodes in flight.

The same columns as in an episode file, but the small ones packed into two tables and one JSON text: HDF5 takes a quarter of a
millisecond to create a column, and a part is written once, read once and deleted.
"""

import json
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.episode import Episode

STEP_FIELDS = ("proprio", "state", "features", "success")
TEXT_FIELDS = ("captions", "questions", "answers", "action_texts", "seed", "policy", "variation")


def part_path(folder: Path, index: int) -> Path:
    """Where episode `index` of a collection lies until all are there."""
    return folder / f"episode_{index:06d}.h5"


def save_part(path: Path, episode: Episode) -> None:
    """Writes one episode, whole or not at all; OSError when the disk is full."""
    with h5py.File.in_memory(libver=("v110", "v110")) as file:
        compression = dict(
            chunks=(16, *episode.frames.shape[1:]), fletcher32=True, **hdf5plugin.Zstd(clevel=3)
        )
        file.create_dataset("frames", data=episode.frames, **compression)
        file.create_dataset("steps", data=_table(episode))
        file.create_dataset("actions", data=episode.actions)
        file.create_dataset("goal_state", data=episode.goal_state)
        texts = {name: getattr(episode, name) for name in TEXT_FIELDS}
        file.create_dataset("texts", data=np.frombuffer(json.dumps(texts).encode(), np.uint8))
        file.flush()
        image = file.id.get_file_image()
    write_atomic(path, image)


def load_part(path: Path) -> Episode:
    """Reads one episode; OSError, KeyError or ValueError when the file is not a whole part."""
    with h5py.File(path, "r", locking=False) as file:
        steps = file["steps"][:]
        return Episode(
            frames=file["frames"][:],
            actions=file["actions"][:],
            goal_state=file["goal_state"][:],
            **{name: np.ascontiguousarray(steps[name]) for name in STEP_FIELDS},
            **json.loads(file["texts"][:].tobytes()),
        )


def _table(episode: Episode) -> np.ndarray:
    columns = {name: getattr(episode, name) for name in STEP_FIELDS}
    table = np.empty(len(episode) + 1, [(name, rows.dtype, rows.shape[1:]) for name, rows in columns.items()])
    for name, rows in columns.items():
        table[name] = rows
    return table
