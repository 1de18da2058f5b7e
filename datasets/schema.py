"""The layout of an episode file, and the checks it passes when it is opened.

HDF5, flat columns. Frame columns (`frames`, `proprio`, `state`, `features`, `success`, three texts, and
`views/<camera>` for each additional camera) have sum(T_i + 1) rows, action columns (`actions` and three texts)
sum(T_i), episode columns one per episode. A row of `actions` is a block of `meta["action_block"]` actions.
`ep_len[i]` is T_i, `ep_offset[i]` the first frame row of episode i; its first action row is ep_offset[i] - i.
A text column is a group of `bytes` (UTF-8, end to end) and `end` (where each text stops).

Columns are zstd-compressed with a checksum. Frames lie in chunks of 16: of the lossless codings that were
measured (64 and 224 px, flat and shaded scenes) the smallest by far, and short clips still read fast.
"""

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (importing it registers the zstd filter, for reading too)
import numpy as np

from worldmodel.datasets.episode import ACTION_TEXTS
from worldmodel.errors import UserError

SCHEMA_VERSION = 2
FORMAT = "worldmodel-episodes"
FRAMES_PER_CHUNK = 16
CHUNK_CACHE_BYTES = 32 * 2**20

FRAME_COLUMNS = ("frames", "proprio", "state", "features", "success")
FRAME_TEXTS = ("captions", "questions", "answers")
EPISODE_COLUMNS = ("ep_len", "ep_offset", "seed", "goal_state")
EPISODE_TEXTS = ("policy", "variation", "goal_text")
TEXTS = (*FRAME_TEXTS, *ACTION_TEXTS, *EPISODE_TEXTS)
VIEWS = "views"
"""Group of the additional cameras' frames."""
NUMBERS = (*FRAME_COLUMNS, "actions", *EPISODE_COLUMNS)


def open_file(path: Path) -> h5py.File:
    """Opens an episode file for reading.

    Raises:
        UserError: the file is missing, truncated, damaged, foreign, of another schema version or not whole.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `worldmodel collect --out {path}` makes one")
    try:
        # An episode file never changes once it has its name: no lock is needed (some file systems have none).
        file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
    except OSError as error:
        raise UserError(f"{path} is truncated, damaged or not HDF5; collect it again or give another file") from error
    try:
        _check(path, file)
    except UserError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        file.close()
        raise UserError(f"{path} is damaged; collect it again or give another file") from error
    return file


def _check(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise UserError(f"{path} is HDF5 of another program; give an episode file (`worldmodel collect` makes them)")
    version = file.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has episode schema version {version}, this version reads {SCHEMA_VERSION}; collect it "
            "again or use the package version that wrote it"
        )
    lengths, offsets = file["ep_len"][:], file["ep_offset"][:]
    expected = _expected_rows(lengths)
    expected |= {f"{VIEWS}/{camera}": len(lengths) + int(lengths.sum()) for camera in file.get(VIEWS, ())}
    for name, rows in expected.items():
        found = file[name].shape[0] if name in file else "no"
        if found != rows:
            raise UserError(f"{path} is not a whole episode file: {name} has {found} rows, expected {rows}")
    if not np.array_equal(offsets, np.cumsum(lengths + 1) - lengths - 1):
        raise UserError(f"{path} is not a whole episode file: ep_offset does not follow from ep_len")


def _expected_rows(lengths: np.ndarray) -> dict[str, int]:
    """Number of rows of each column of a file whose episodes have these numbers of actions."""
    actions, episodes = int(lengths.sum()), len(lengths)
    frames = actions + episodes
    rows = dict.fromkeys(FRAME_COLUMNS, frames) | dict.fromkeys(EPISODE_COLUMNS, episodes) | {"actions": actions}
    rows |= {f"{name}/end": frames for name in FRAME_TEXTS} | {f"{name}/end": actions for name in ACTION_TEXTS}
    return rows | {f"{name}/end": episodes for name in EPISODE_TEXTS}
