"""Minari data sets (as version 0.5.4 writes and reads them).

A data set is a folder `<name>/data` with `metadata.json` and, per episode, T + 1 observations and T actions: the convention
of this package. HDF5 is read and written directly, `main_data.hdf5` with a group `episode_i` each; the other storages are
read through the package `minari`, which needs pyarrow for them.

Pictures may be an observation or an info, whole or under a name, raw or JPEG (Minari's default for pictures of 32 pixels
and more). Only `write` of this module is lossless, it stores them raw.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from worldmodel.datasets.episodes.episode import ACTION_TEXTS, Episode
from worldmodel.datasets.episodes.schema import FRAME_TEXTS
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop.foreign import (
    as_field,
    as_frames,
    as_rows,
    episodes_of,
    explained,
    explaining,
    foreign_episode,
    foreign_meta,
    is_picture,
    new_hdf5,
    new_path,
    no_pictures,
    one_hot,
)
from worldmodel.datasets.pictures.images import open_picture
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

FORMAT = "minari"
VERSION = "0.5.4"
DATA, METADATA = "main_data.hdf5", "metadata.json"
NAMES = ("pixels", "image", "rgb", "observation", "observations")
"""Names that the main picture is looked for under, in this order; then any."""
CAMERA = "pixels."
"""`write` gives pictures of an additional camera a name that begins so."""
JPEG = b"\xff\xd8\xff"
META = "worldmodel_meta"
"""Key of metadata.json with the meta data of an episode file."""
ARRAYS = ("state", "proprio", "features")
OUTCOMES = {"rewards": "reward", "terminations": "terminated", "truncations": "truncated"}
"""Columns with a row for each action -> fields of an episode."""
CUT = "cut"
"""Key of what `write` notes of an episode: whether the recording stopped although the environment had not ended the episode."""
Choices = dict[str, list[tuple[int, int]]]
"""Path of a part of an action -> how many actions there are to choose from and the first of them, for each of its numbers."""
Tree = dict[str, Any]
"""Path inside an episode ("observations/pixels") -> array, or list of texts."""


def read(path: Path) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Read a data set, one episode in memory at a time.

    Args:
        path: the data set's folder, or the `data` folder in it.

    Returns:
        The episodes (those without an action are left out), and the meta data.

    Raises:
        UserError: the folder is no data set, it is damaged, or there are no pictures in it (while reading, too).
    """
    path = Path(path)
    folder = _folder(path)
    try:
        about = parse_json((folder / METADATA).read_bytes())
        total = int(about["total_episodes"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{folder / METADATA} is damaged; fetch the data set again") from error
    first = next(_trees(folder, about, range(min(total, 1))), None)
    if first is None:
        raise UserError(f"{path} has no episodes")
    with explaining(path, 0):
        choices = _choices(parse_json(about.get("action_space") or "{}"))
        pictures = _pictures(first)
        if not pictures:
            raise no_pictures(path, "Minari", first)
        known, used = _fields(first, choices, pictures)
    dropped = {name for name in first if name not in used}
    origin = str(about.get("dataset_id", folder.parent.name))
    meta = foreign_meta(FORMAT, origin, known["actions"].shape[1], dropped, {"env_id": _env_id(about) or origin}, about.get(META))
    return explained(path, _episodes(folder, about, total, choices, pictures)), meta


def _folder(path: Path) -> Path:
    for folder in (path / "data", path):
        if (folder / METADATA).is_file():
            return folder
    raise UserError(f"{path} is no Minari data set: there is no data/{METADATA} in it")


def _env_id(about: dict[str, Any]) -> str | None:
    try:
        return str(parse_json(about["env_spec"])["id"])
    except (KeyError, ValueError, TypeError):
        return None


def _choices(space: dict[str, Any], path: str = "actions") -> Choices:
    """List the discrete parts of a space of actions, however nested; those that are something else are left out."""
    match space.get("type"):
        case "Dict":
            inner = list(space["subspaces"].items())
        case "Tuple":
            inner = [(f"_index_{i}", each) for i, each in enumerate(space["subspaces"])]
        case "Discrete":
            return {path: [(int(space["n"]), int(space.get("start", 0)))]}
        case "MultiDiscrete":
            counts, starts = np.ravel(space["nvec"]), np.ravel(space.get("start", 0))
            return {path: [(int(n), int(start)) for n, start in np.broadcast(counts, starts)]}
        case _:
            return {}
    return {name: found for key, each in inner for name, found in _choices(each, f"{path}/{key}").items()}


def _vectors(values: np.ndarray, choices: list[tuple[int, int]]) -> np.ndarray:
    """Convert a part of an action to float32 (T, a): a one-hot vector for each of its choices, or its numbers."""
    if not choices:
        return as_rows(values, np.float32)
    columns = as_rows(values, np.int64).T
    return np.concatenate([one_hot(column - start, n) for column, (n, start) in zip(columns, choices, strict=True)], axis=1)


def _trees(folder: Path, about: dict[str, Any], numbers: range) -> Iterator[Tree]:
    """Yield the stored arrays of some episodes."""
    if about.get("data_format", "hdf5") != "hdf5":
        yield from _library_trees(folder, about["data_format"], numbers)
        return
    path = folder / DATA
    try:
        with h5py.File(path, "r", locking=False) as file:
            for number in numbers:
                group = file[f"episode_{number}"]
                columns: list[str] = []
                group.visititems(lambda name, item, found=columns: found.append(name) if isinstance(item, h5py.Dataset) else None)
                yield {"seed": group.attrs.get("seed")} | {name: _array(group[name]) for name in columns}
    except (OSError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is truncated, damaged or not HDF5; fetch the data set again") from error


def _library_trees(folder: Path, layout: str, numbers: range) -> Iterator[Tree]:
    try:
        from minari import MinariDataset
    except ImportError as error:
        raise UserError(f"{folder} is stored as {layout}; pip install 'minari[arrow,hdf5]=={VERSION}' to read it") from error
    try:
        data = MinariDataset(folder)
        for number, about in zip(numbers, data.storage.get_episode_metadata(numbers), strict=True):
            episode = data[number]
            tree: Tree = {"seed": about.get("seed")}
            for name in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
                _flatten(name, getattr(episode, name), tree)
            yield tree
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"Minari cannot read {folder} ({error}); fetch the data set again, or store it as hdf5") from error


def _flatten(name: str, value: Any, tree: Tree) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(f"{name}/{key}", inner, tree)
    elif isinstance(value, tuple):
        for i, inner in enumerate(value):
            _flatten(f"{name}/_index_{i}", inner, tree)
    elif value is not None:
        array = np.asarray(value)
        tree[name] = array.tolist() if array.dtype.kind in "OSU" else array


def _array(column: h5py.Dataset) -> Any:
    """Read a stored column: an array, decoded where it is JPEG, or texts."""
    if h5py.check_string_dtype(column.dtype):
        return [text.decode() for text in column[:]] if column.ndim else column[()].decode()
    ragged = h5py.check_vlen_dtype(column.dtype) == np.uint8
    if not len(column.shape) or len(column) == 0 or not (ragged or (column.dtype == np.uint8 and column.ndim == 2)):
        return column[()]
    if column[0][:3].tobytes() != JPEG:
        return column[()]
    return np.stack([np.asarray(open_picture(io.BytesIO(row.tobytes()), ("JPEG",))) for row in column[:]])


def _pictures(tree: Tree) -> list[str]:
    """List the paths of all pictures, one a frame; the main one first."""
    rows = _num_steps(tree) + 1
    found = [name for name, value in tree.items() if isinstance(value, np.ndarray) and is_picture(value.shape[1:], value.dtype)]
    found = [name for name in found if name.startswith(("observations", "infos")) and len(tree[name]) == rows]
    rank = {name: i for i, name in enumerate(NAMES)}
    return sorted(found, key=lambda name: (name.startswith("infos"), rank.get(name.split("/")[-1], len(NAMES)), name))


def _action_parts(tree: Tree) -> list[str]:
    """List the paths of the parts of an action, which lie side by side."""
    parts = sorted(name for name in tree if name.split("/")[0] == "actions")
    if not parts:
        raise LookupError("it has no actions")
    return parts


def _num_steps(tree: Tree) -> int:
    return len(tree[_action_parts(tree)[0]])


def _episodes(folder: Path, about: dict[str, Any], total: int, choices: Choices, pictures: list[str]) -> Iterator[Episode | None]:
    for tree in tqdm(_trees(folder, about, range(total)), total=total, desc=folder.parent.name, disable=None):
        yield foreign_episode(**_fields(tree, choices, pictures)[0]) if _num_steps(tree) else None


def _fields(tree: Tree, choices: Choices, pictures: list[str]) -> tuple[dict[str, Any], set[str]]:
    """Collect what is known of an episode, and the paths it was made of."""
    parts, steps = _action_parts(tree), _num_steps(tree)
    rows = steps + 1
    actions = np.concatenate([_vectors(tree[name], choices.get(name, [])) for name in parts], axis=1)
    frames = as_frames(tree[pictures[0]])
    used = {*parts, pictures[0], "seed"}
    known: dict[str, Any] = {}
    if tree.get("seed") is not None:
        known["seed"] = int(tree["seed"])
    views = {_camera(name): as_frames(tree[name]) for name in pictures[1:] if tree[name].shape == tree[pictures[0]].shape}
    used |= {name for name in pictures[1:] if _camera(name) in views}
    for field in ARRAYS:
        name = _numbers(tree, field, rows) or (field == "state" and _numbers(tree, "observation", rows)) or None
        if name:
            known[field] = as_field(field, tree[name])
            used.add(name)
    for field in ("success", "is_success"):
        name = _numbers(tree, field, rows) or _numbers(tree, field, steps)
        if name and "success" not in known:  # where the reset has no info, the first frame is no success
            known["success"] = np.pad(as_field("success", tree[name]), (rows - len(tree[name]), 0))
            used.add(name)
    for name, field in OUTCOMES.items():
        if name in tree and np.shape(tree[name]) in ((steps,), (steps, 1)):
            known[field] = as_field(field, tree[name])
            used.add(name)
    own = _own(tree, rows, used)
    if own.pop(CUT, False):
        known["truncated"][-1] = False
    return {"frames": frames, "actions": actions, "views": views} | known | own, used


def _camera(name: str) -> str:
    """Name an additional camera, from the path of its pictures."""
    return name.split("/")[-1].removeprefix(CAMERA)


def _numbers(tree: Tree, field: str, rows: int) -> str | None:
    """Find the path of a numeric column of this name with a row per frame, among observations and infos."""
    for name in (f"observations/{field}", f"infos/{field}"):
        value = tree.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and len(value.shape) in (1, 2) and len(value) == rows:
            return name
    return None


def _own(tree: Tree, rows: int, used: set[str]) -> dict[str, Any]:
    """Read the fields that only `write` stores: texts, factors, the goal."""
    known: dict[str, Any] = {}
    for field in (*FRAME_TEXTS, *ACTION_TEXTS):
        texts = tree.get(f"infos/{field}")
        if isinstance(texts, list) and len(texts) == rows:
            known[field] = texts[1:] if field in ACTION_TEXTS else texts
            used.add(f"infos/{field}")
    own = tree.get("infos/worldmodel")
    if isinstance(own, list) and own:
        facts = parse_json(own[0])
        known |= facts | {"goal_state": np.asarray(facts["goal_state"], np.float64)}
        used.add("infos/worldmodel")
    return known


def write(store: EpisodeStore, path: Path) -> None:
    """Write an episode file as a data set that Minari reads, an episode in memory at a time.

    Observations are a dict of `pixels`, `state`, `proprio`, `features` and `pixels.<camera>`; `success` and texts are infos
    (texts of an action in the row of the frame it arrives at). The reward is NaN where none was recorded. An episode whose last action
    did not end it is truncated there, as Minari's own collector has it; reading it here takes that back.

    Args:
        store: what to write.
        path: the folder to make. `minari.load_dataset` finds it when it lies in MINARI_DATASETS_PATH and its name
            ends in a version, as in `maze-v0`; `minari.MinariDataset(path / "data")` reads it anywhere.

    Raises:
        UserError: the folder exists, there are no actions, or it cannot be written.
    """
    if not store.has_actions:
        raise UserError(f"{store.path} has no actions; Minari's layout has no place for video alone")
    with new_path(path, folder=True) as folder:
        (folder / "data").mkdir()
        with new_hdf5(folder / "data" / DATA, track_order=True) as file:
            for i, episode in enumerate(episodes_of(store, "minari")):
                _write_episode(file.create_group(f"episode_{i}"), i, episode)
        size = (folder / "data" / DATA).stat().st_size / 1e6
        (folder / "data" / METADATA).write_text(json.dumps(_about(store, Path(path).name) | {"dataset_size": round(size, 1)}))


def _observations(episode: Episode) -> dict[str, np.ndarray]:
    found = {"pixels": episode.frames} | {CAMERA + camera: view for camera, view in sorted(episode.views.items())}
    return found | {name: getattr(episode, name) for name in ARRAYS if getattr(episode, name).shape[1]}


def _write_episode(group: h5py.Group, number: int, episode: Episode) -> None:
    rows, steps = len(episode.frames), len(episode)
    cut = not (episode.terminated[-1] or episode.truncated[-1])
    group.attrs.update({"id": number, "total_steps": steps})
    if episode.seed >= 0:
        group.attrs["seed"] = episode.seed
    for name, values in _observations(episode).items():
        group[f"observations/{name}"] = values
    group["actions"] = episode.actions
    group["rewards"] = episode.reward
    group["terminations"] = episode.terminated
    group["truncations"] = episode.truncated | (cut & (np.arange(1, rows) == steps))
    group["infos/success"] = episode.success
    text = h5py.string_dtype()
    for name in (*FRAME_TEXTS, *ACTION_TEXTS):
        texts = ([""] if name in ACTION_TEXTS else []) + getattr(episode, name)
        group.create_dataset(f"infos/{name}", data=texts, dtype=text)
    facts = {name: getattr(episode, name) for name in ("seed", "policy", "variation", "goal_text")}
    own = json.dumps(facts | {"goal_state": episode.goal_state.tolist(), CUT: bool(cut)}, sort_keys=True)
    group.create_dataset("infos/worldmodel", data=[own] * rows, dtype=text)


def _about(store: EpisodeStore, name: str) -> dict[str, Any]:
    """Make the content of metadata.json."""
    actions = store.column("actions")
    within = bool(np.abs(actions).max(initial=0) <= 1)
    spaces = {name: _box(values) for name, values in _observations(store.episode(0)).items()}
    clean = re.sub(r"[^-\w]+", "-", name).strip("-") or "dataset"
    return {
        "total_episodes": len(store),
        "total_steps": int(store.lengths.sum()),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(_box(actions, 1.0 if within else np.inf)),
        "dataset_id": clean if re.search(r"-v\d+$", clean) else f"{clean}-v0",
        "minari_version": VERSION,
        META: store.meta,
    }


def _box(values: np.ndarray, bound: float = np.inf) -> dict[str, Any]:
    """Describe the space of the rows of an array, as Minari writes it."""
    low, high = (0, 255) if values.dtype == np.uint8 else (-bound, bound)
    shape = values.shape[1:]
    box: dict[str, Any] = {"type": "Box", "dtype": str(values.dtype), "shape": list(shape)}
    return box | {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
