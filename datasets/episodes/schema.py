"""The layout of an episode file, and the checks it passes when it is opened.

HDF5, flat columns. Frame columns (`frames`, `proprio`, `state`, `features`, `success`, three texts, and
`views/<camera>` for each additional camera) have sum(T_i + 1) rows, action columns (`actions`, `reward`, `terminated`,
`truncated` and three texts) sum(T_i), episode columns one per episode. A row of `actions` is a block of
`meta["action_block"]` actions.
`ep_len[i]` is T_i, `ep_offset[i]` the first frame row of episode i; its first action row is ep_offset[i] - i.
A text column is a group of `bytes` (UTF-8, end to end) and `end` (where each text stops). Rows may be of no width.

How pictures are kept (`storage`, an attribute of the file), and why:

    lossless   zstd over chunks of 16 frames, fewer where that is more than 1 MiB (6 of 224 px). Measured, flat and
               shaded scenes, random clips of 4 frames: at 64 px 16 frames take 20 % less room than 8 and are decoded
               0.75 times as fast; at 224 px 16 take 14 to 18 % less than 6 and are decoded 0.6 to 0.7 times as fast
    raw        uncompressed, chunks of about 1 MiB: most clips are one read straight to where they are wanted
    jpeg       a JPEG per frame, laid out as a text column; lossy. Quality 95 with 4:2:0 color

Chunks are written once, in the order of the episodes, and what finds them lies in front of them: a file of which the
end is missing still has its first episodes (columns of episodes are not compressed, so that they can grow in place).
Compressed chunks end with a checksum of their bytes that every read verifies (zstd's own, of what is decoded, takes as
long as decoding flat scenes does; this one is in a frame that zstd skips, see `column_writer.py`). Of the others it is
verified where whole columns are read, and by `worldmodel datasets check`: a clip of raw or JPEG frames is not worth
reading the whole chunk for.
The attribute `meta` is the JSON the file began with; the data set `meta`, unless it is empty, the one it ended with.

Files of schema version 3 are read too. They lack `reward`, `terminated` and `truncated`, which then read as not recorded: NaN,
False and False (`episode.NOT_RECORDED`). What is written, or appended to, is of version 4.
"""

import os
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import hdf5plugin  # noqa: F401  (importing it registers the zstd filter, for reading too)
import numpy as np

from worldmodel.datasets.episodes.episode import ACTION_TEXTS, OUTCOMES
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

SCHEMA_VERSION = 4
WITHOUT_OUTCOMES = 3
"""The schema version before `reward`, `terminated` and `truncated`."""
READABLE = (WITHOUT_OUTCOMES, SCHEMA_VERSION)
FORMAT = "worldmodel-episodes"
Storage = Literal["lossless", "raw", "jpeg"]
STORAGES: tuple[str, ...] = get_args(Storage)
JPEG_QUALITY = 95
JPEG_COLOUR = "420"
"""Chroma at half the resolution."""

FRAME_COLUMNS = ("frames", "proprio", "state", "features", "success")
ACTION_COLUMNS = ("actions", *OUTCOMES)
FRAME_TEXTS = ("captions", "questions", "answers")
EPISODE_COLUMNS = ("ep_len", "ep_offset", "seed", "goal_state")
EPISODE_TEXTS = ("policy", "variation", "goal_text")
TEXTS = (*FRAME_TEXTS, *ACTION_TEXTS, *EPISODE_TEXTS)
VIEWS = "views"
"""Group of the additional cameras' frames."""
NUMBERS = (*FRAME_COLUMNS, *ACTION_COLUMNS, *EPISODE_COLUMNS)


def damaged(path: Path, what: str) -> UserError:
    """Make the error of a file of which something cannot be read."""
    return UserError(f"{path} is damaged ({what}); {_saves(path)}")


class DamagedColumn(UserError):
    """Part of a column of a file cannot be read."""

    def __init__(self, path: Path, column: str) -> None:
        super().__init__(str(damaged(path, f"column {column} cannot be read")))
        self.column = column


def _saves(path: Path) -> str:
    return f"`worldmodel datasets check {shlex.quote(str(path))} --repair` saves the whole episodes"


def open_file(path: Path) -> h5py.File:
    """Open an episode file for reading; UserError where it is missing, damaged, foreign, not whole or of another schema version."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name an episode file in it, or make one of it with `worldmodel datasets convert`")
    if not path.is_file():
        raise UserError(f"{path}: no such file; `worldmodel collect --out {shlex.quote(str(path))}` makes one")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions")
    try:
        # An episode file never changes once it has its name: no lock is needed (some file systems have none).
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path} is truncated, damaged or not HDF5; {_saves(path)}") from error
    try:
        _check(path, file)
    except UserError:
        file.close()
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        file.close()
        raise damaged(path, "what describes its columns cannot be read") from error
    return file


def read_meta(file: h5py.File) -> dict[str, Any]:
    """Read what the file says of itself; OSError, KeyError or ValueError where it cannot be read."""
    last = file["meta"][:].tobytes() if "meta" in file else b""
    return dict(parse_json(last or file.attrs["meta"]))


def _check(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT:
        raise UserError(
            f"{path} is HDF5 of another program; `worldmodel datasets convert {shlex.quote(str(path))} NEW.h5` makes an episode file "
            "of the kinds it knows, `worldmodel collect` records one"
        )
    version = file.attrs.get("schema_version")
    if version not in READABLE:
        raise UserError(
            f"{path} has episode schema version {version}, this version reads {' and '.join(map(str, READABLE))}; collect it "
            "again or use the package version that wrote it"
        )
    lengths, offsets = file["ep_len"][:], file["ep_offset"][:]
    for name, rows in expected_rows(lengths, sorted(file.get(VIEWS, ())), file.attrs.get("storage")).items():
        if name in OUTCOMES and version == WITHOUT_OUTCOMES:
            continue
        found = file[name].shape[0] if name in file else "no"
        if found != rows:
            raise UserError(f"{path} is not a whole episode file: {name} has {found} rows, expected {rows}; {_saves(path)}")
    if not np.array_equal(offsets, np.cumsum(lengths + 1) - lengths - 1):
        raise UserError(f"{path} is not a whole episode file: ep_offset does not follow from ep_len; {_saves(path)}")


def expected_rows(lengths: np.ndarray, cameras: list[str], storage: str) -> dict[str, int]:
    """Return the number of rows of each column of a file whose episodes have these numbers of actions."""
    actions, episodes = int(lengths.sum()), len(lengths)
    frames = actions + episodes
    rows = dict.fromkeys(FRAME_COLUMNS, frames) | dict.fromkeys(EPISODE_COLUMNS, episodes) | dict.fromkeys(ACTION_COLUMNS, actions)
    rows |= {f"{VIEWS}/{camera}": frames for camera in cameras}
    if storage == "jpeg":
        rows = {f"{name}/end" if is_picture(name) else name: count for name, count in rows.items()}
    rows |= {f"{name}/end": frames for name in FRAME_TEXTS} | {f"{name}/end": actions for name in ACTION_TEXTS}
    return rows | {f"{name}/end": episodes for name in EPISODE_TEXTS}


def is_picture(name: str) -> bool:
    """Test whether a column holds frames, of the main camera or another one."""
    return name == "frames" or name.startswith(f"{VIEWS}/")
