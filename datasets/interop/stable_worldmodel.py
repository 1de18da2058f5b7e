"""stable-worldmodel's HDF5 files (as `World.collect(path, format="hdf5")` of version 0.1.1 writes and `load_dataset` reads).

One flat column per name with a row per frame, `ep_len[i]` rows from `ep_offset[i]` on for episode i. Row t holds frame t
and the action that leaves it; an action is known for every row, but that of the last row leads nowhere:

    pixels      f0  f1  ...  fT
    action      a0  a1  ...  x       x: NaN, or (version 0.1.1, which turns its list of actions around by one) the
                                     action of the reset that was not recorded, before f0; it is left out

`reward`, `terminated` and `truncated` of a row are of the action that arrived at it, so those of action t stand in row t + 1.
Files whose first action is NaN hold the action that arrived at each row, and are read so. The first frame after a
reset is in no file of 0.1.1. Pixels are stored uncompressed, a chunk per frame.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (files of other versions may be compressed)
import numpy as np
from tqdm import tqdm

from worldmodel.datasets.episodes.episode import ACTION_TEXTS, NOT_RECORDED, OUTCOMES, Episode
from worldmodel.datasets.episodes.schema import FRAME_TEXTS
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop.foreign import (
    as_field,
    as_frames,
    as_rows,
    episodes_of,
    explained,
    foreign_episode,
    foreign_meta,
    is_choice,
    is_picture,
    new_hdf5,
    new_path,
    no_pictures,
    one_hot,
)
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

FORMAT = "stable-worldmodel"
VARIATION, CAMERA = "variation.", "pixels."
"""Columns of a factor of variation, and of an additional camera, begin so."""
META = "worldmodel_meta"
"""File attribute with the meta data of an episode file, so that the way back loses nothing."""
JSON = "json"
"""Column attribute: its texts are JSON."""
TEXTS = (*FRAME_TEXTS, *ACTION_TEXTS, "policy", "goal_text")
INDEX = ("ep_len", "ep_offset")
COUNTS = ("id", "episode_idx", "step_idx")
"""Columns that only count."""
ROWS_PER_CHUNK = 256
ROWS_PER_SCAN = 65536


@dataclass(frozen=True)
class _Layout:
    """Where the fields of an episode are in a file."""

    pixels: str
    cameras: list[str]
    state: str | None
    success: str | None
    choices: int
    """Discrete actions to choose from; 0: actions are vectors, or there are none."""
    action_size: int
    outcomes: list[str]
    texts: list[str]
    variation: list[str]
    dropped: list[str]


def read(path: Path) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Read a file, one episode in memory at a time.

    Args:
        path: the file, or a folder with one `.h5` file in it.

    Returns:
        The episodes (those of a single row have no action and are left out), and the meta data.

    Raises:
        UserError: the file is missing, damaged or of another kind (while reading, too).
    """
    path = _find(Path(path))
    with _open(path) as file:
        lengths, offsets = _index(path, file)
        layout = _layout(path, file, lengths)
        kept = parse_json(file.attrs[META]) if META in file.attrs else {}
    facts: dict[str, Any] = {"factors": [name.removeprefix(VARIATION) for name in layout.variation]}
    if (lengths < 2).any():
        facts["skipped_episodes"] = int((lengths < 2).sum())
    meta = foreign_meta(FORMAT, path.stem, layout.action_size, layout.dropped, facts, kept)
    spans = [(int(start), int(start + rows)) for start, rows in zip(offsets, lengths, strict=True)]
    if not (lengths >= 2).any():
        raise UserError(f"{path} has no episode of at least two frames; nothing in it can be used")
    return explained(path, _episodes(path, layout, spans)), meta


def _find(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_dir():
        return path
    files = sorted([*path.glob("*.h5"), *path.glob("*.hdf5")])
    if len(files) == 1:
        return files[0]
    if path.suffix == ".lance" or any(path.glob("*.lance")):
        recipe = f"stable_worldmodel.data.convert({str(path)!r}, 'data.h5', dest_format='hdf5')"
        raise UserError(f"{path} is a Lance table; write it as HDF5 first: {recipe}")
    raise UserError(f"{path} has {len(files)} .h5 files in it; name the one to read")


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path} is truncated, damaged or not HDF5; fetch or collect it again") from error


def _index(path: Path, file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    """Read the rows of each episode, and its first row."""
    columns = {name for name in file if isinstance(file.get(name), h5py.Dataset)}
    if not columns >= set(INDEX):
        raise UserError(f"{path} is no stable-worldmodel file: it has no columns ep_len and ep_offset")
    try:
        lengths, offsets = file["ep_len"][:].astype(np.int64), file["ep_offset"][:].astype(np.int64)
    except (OSError, RuntimeError) as error:
        raise _damaged(path) from error
    ends = offsets + lengths
    short = [name for name in sorted(columns - set(INDEX)) if len(ends) and file[name].shape[0] < ends.max()]
    if len(lengths) != len(offsets) or (lengths < 0).any() or (offsets < 0).any() or short:
        raise UserError(f"{path} is not whole: {', '.join(short) or 'ep_offset'} does not fit ep_len; fetch or collect it again")
    return lengths, offsets


def _layout(path: Path, file: h5py.File, lengths: np.ndarray) -> _Layout:
    columns = {name: file[name] for name in sorted(file) if name not in INDEX}
    pictures = [name for name, column in columns.items() if is_picture(column.shape[1:], column.dtype) and "goal" not in name]
    pictures = [name for name in pictures if name.startswith("pixels")] or pictures
    if not pictures:
        raise no_pictures(path, FORMAT, columns)
    main = "pixels" if "pixels" in pictures else pictures[0]
    cameras = [name for name in pictures if name.startswith(CAMERA) and name != main and columns[name].shape == columns[main].shape]
    state = next((name for name in ("state", "observation") if name in columns and name != main), None)
    if state and columns[state].dtype.kind not in "fiub":
        state = None
    action = columns.get("action")
    discrete = action is not None and is_choice(action.shape, action.dtype)
    choices = _choices(path, action) if discrete else 0
    size = choices or (0 if action is None else int(np.prod(action.shape[1:])))
    texts = [name for name in TEXTS if name in columns]
    variation = [name for name in columns if name.startswith(VARIATION)]
    # Its own evaluation counts an episode that terminates as a success.
    success = next((name for name in ("success", "terminated") if name in columns), None)
    outcomes = [name for name in OUTCOMES if name in columns and columns[name].shape[1:] in ((), (1,))]
    used = {main, *cameras, state, success, *outcomes, *texts, *variation, *COUNTS}
    used |= {"action", "proprio", "features", "seed", "goal_state"}
    if "goal_state" in columns and (state is None or columns["goal_state"].shape != columns[state].shape):
        used.discard("goal_state")
    return _Layout(main, cameras, state, success, choices, size, outcomes, texts, variation, sorted(set(columns) - used))


def _choices(path: Path, action: h5py.Dataset) -> int:
    try:
        return 1 + max((int(action[row : row + ROWS_PER_SCAN].max()) for row in range(0, len(action), ROWS_PER_SCAN)), default=0)
    except (OSError, RuntimeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; fetch or collect it again")


def _episodes(path: Path, layout: _Layout, spans: list[tuple[int, int]]) -> Iterator[Episode | None]:
    with _open(path) as file:
        for start, stop in tqdm(spans, desc=path.name, disable=None):
            yield _episode(file, layout, slice(start, stop)) if stop - start > 1 else None


def _episode(file: h5py.File, layout: _Layout, span: slice) -> Episode:
    steps = span.stop - span.start - 1
    known: dict[str, Any] = {}
    for name in layout.texts:
        texts = _texts(file, name, span)
        known[name] = texts[0] if name in ("policy", "goal_text") else texts[:steps] if name in ACTION_TEXTS else texts
    if layout.state:
        known["state"] = as_field("state", file[layout.state][span])
    if "goal_state" in file and "goal_state" not in layout.dropped:
        known["goal_state"] = as_rows(file["goal_state"][span.start : span.start + 1], np.float64)[0]
    known |= {name: as_field(name, file[name][span]) for name in ("proprio", "features") if name in file}
    if layout.success:
        known["success"] = as_field("success", file[layout.success][span])
    known |= {name: as_field(name, file[name][span])[1:] for name in layout.outcomes}
    if "seed" in file:
        known["seed"] = int(file["seed"][span.start])
    known["variation"] = {name.removeprefix(VARIATION): _factor(file[name], span.start) for name in layout.variation}
    known["views"] = {name.removeprefix(CAMERA): as_frames(file[name][span]) for name in layout.cameras}
    return foreign_episode(as_frames(file[layout.pixels][span]), _actions(file, layout, span), **known)


def _actions(file: h5py.File, layout: _Layout, span: slice) -> np.ndarray:
    """Read the T actions between T + 1 rows; see the head of this file."""
    rows = span.stop - span.start
    if "action" not in file:
        return np.zeros((rows - 1, 0), np.float32)
    if layout.choices:
        return one_hot(file["action"][span][:-1], layout.choices)
    actions = as_rows(file["action"][span], np.float32)
    return actions[1:] if rows and np.isnan(actions[0]).any() and not np.isnan(actions[-1]).any() else actions[:-1]


def _texts(file: h5py.File, name: str, span: slice) -> list[str]:
    return [bytes(text).decode() if isinstance(text, bytes) else str(text) for text in file[name][span]]


def _factor(column: h5py.Dataset, row: int) -> Any:
    value = column[row]
    if isinstance(value, bytes):
        return parse_json(value) if column.attrs.get(JSON) else value.decode()
    return value.tolist()


def write(store: EpisodeStore, path: Path) -> None:
    """Write an episode file in this layout, an episode in memory at a time.

    Frames become `pixels`, additional cameras `pixels.<camera>`, factors `variation.<factor>`; state, proprio, features,
    success, seed, goal_state and texts keep their names, and so do reward, terminated and truncated where any was recorded. The last
    action of an episode is NaN, its first reward too.

    Args:
        store: what to write. Blocks of actions stay side by side in a row; read them with frameskip 1.
        path: the file to make; it must not exist.

    Raises:
        UserError: the file exists, or the disk is full.
    """
    with new_path(path) as temporary:
        # their reader opens it as SWMR, which old layouts refuse
        with new_hdf5(temporary, libver=("v110", "v110")) as file:
            _write_columns(store, file)


def _write_columns(store: EpisodeStore, file: h5py.File) -> None:
    file.attrs[META] = json.dumps(store.meta, sort_keys=True)
    file["ep_len"] = (store.lengths + 1).astype(np.int32)
    file["ep_offset"] = (np.cumsum(store.lengths + 1) - store.lengths - 1).astype(np.int64)
    variations = [parse_json(text) for text in store.texts("variation")]
    factors = {name: [variation.get(name) for variation in variations] for name in sorted({key for row in variations for key in row})}
    numeric = {name: column for name, values in factors.items() if (column := _numbers(values)) is not None}
    words = {name for name, values in factors.items() if all(isinstance(value, str) for value in values)}
    texts = [name for name in TEXTS if store.has_text(name)]
    outcomes = OUTCOMES if store.has_outcomes else ()
    start = 0
    for i, episode in enumerate(episodes_of(store, FORMAT)):
        rows = len(episode.frames)
        columns = _columns(episode, texts)
        columns |= {name: np.concatenate([[NOT_RECORDED[name]], getattr(episode, name)]) for name in outcomes}
        for name, values in factors.items():
            one = numeric[name][i] if name in numeric else values[i] if name in words else json.dumps(values[i])
            columns[VARIATION + name] = np.full((rows, *np.shape(one)), one) if name in numeric else [one] * rows
        columns |= {"id": np.full(rows, i), "step_idx": np.arange(rows)}
        for name, values in columns.items():
            if name not in file:
                _create(file, name, values, store.num_frames)
                file[name].attrs[JSON] = name.removeprefix(VARIATION) in factors.keys() - numeric.keys() - words
            file[name][start : start + rows] = values
        start += rows


def _numbers(values: list[Any]) -> np.ndarray | None:
    """Convert a factor's values to numbers with the episode as first axis; None where they are something else."""
    try:
        numbers = np.array(values)
    except ValueError:
        return None
    return numbers if numbers.dtype.kind in "biuf" else None


def _columns(episode: Episode, texts: list[str]) -> dict[str, Any]:
    """Make columns with a row per frame: arrays, or lists of texts."""
    rows = len(episode.frames)
    unknown = np.full((1, episode.actions.shape[1]), np.nan, np.float32)
    columns: dict[str, Any] = {"pixels": episode.frames, "action": np.concatenate([episode.actions, unknown])}
    columns |= {CAMERA + camera: view for camera, view in sorted(episode.views.items())}
    columns |= {name: getattr(episode, name) for name in ("state", "proprio", "features")}
    columns["goal_state"] = np.repeat(episode.goal_state[None], rows, axis=0)
    columns = {name: values for name, values in columns.items() if values.shape[1] > 0}
    columns |= {"success": episode.success, "seed": np.full(rows, episode.seed)}
    for name in texts:
        text = getattr(episode, name)
        columns[name] = [text] * rows if isinstance(text, str) else [*text, ""][:rows]
    return columns


def _create(file: h5py.File, name: str, values: Any, rows: int) -> None:
    text = isinstance(values, list)
    shape: tuple[int, ...] = () if text else values.shape[1:]
    per_chunk = 1 if name.startswith("pixels") else min(ROWS_PER_CHUNK, rows)
    dtype = h5py.string_dtype() if text else values.dtype
    file.create_dataset(name, shape=(rows, *shape), maxshape=(None, *shape), chunks=(per_chunk, *shape), dtype=dtype)
