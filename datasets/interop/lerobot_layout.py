"""What is in a LeRobotDataset v3: names of files and features, their types, and which fields of an episode they are."""

import json
from typing import Any

import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

NUMBERS = {"observation.state": "proprio", "observation.environment_state": "state", "action": "actions"}
"""Features of LeRobot that are columns of an episode file."""
OUTCOMES = {"next.reward": "reward", "next.truncated": "truncated", "terminated": "terminated"}
"""Likewise, of the action in the row; written where any was recorded. `terminated` is a name of ours: LeRobot has `DONE` alone."""
DONE = "next.done"
"""Feature of LeRobot: whether the action in the row ended the episode in either way, or the row is its last one."""
OWN_NUMBERS = ("features", "success")
OWN_TEXTS = ("captions", "questions", "answers", "action_texts", "action_words", "changes")
"""Columns of an episode file that LeRobot has no name for; they are kept under their own names."""
EPISODE_FACTS = ("seed", "policy", "variation", "goal_state")
"""Facts about an episode, kept as columns `worldmodel/<name>` in the table of episodes."""
PICTURES = "observation.images."
"""What names of cameras begin with."""
MAIN_CAMERA = "main"
"""The camera of `Episode.frames` where the file has no name for it."""
KEPT_META = "worldmodel"
"""Key of info.json under which our meta data is kept."""
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def features(store: EpisodeStore, fps: float, pictures: str) -> dict[str, dict[str, Any]]:
    """Describe what is in a row, as LeRobot does; columns of width 0 and empty texts are left out."""
    first = store.episode(0)
    height, width = first.frames.shape[1:3]
    camera: dict[str, Any] = {"dtype": pictures, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    if pictures == "video":
        camera["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        }
    main = str(store.meta.get("camera", MAIN_CAMERA))
    main = f"{main}_" if main in first.views else main
    found: dict[str, dict[str, Any]] = {f"{PICTURES}{_safe(name)}": camera for name in (main, *sorted(first.views))}
    for name, column in (NUMBERS | {name: name for name in OWN_NUMBERS}).items():
        rows = getattr(first, column)
        size = 1 if rows.ndim == 1 else rows.shape[1]
        if size:
            found[name] = {"dtype": str(rows.dtype), "shape": [size], "names": _names(store, column, size)}
    if store.has_outcomes:
        types = {name: str(getattr(first, column).dtype) for name, column in OUTCOMES.items()} | {DONE: "bool"}
        found |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in types.items()}
    for name in OWN_TEXTS:
        if any(store.texts(name)):
            found[name] = {"dtype": "string", "shape": [1], "names": None}
    return found | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in COUNTERS.items()}


def _names(store: EpisodeStore, column: str, size: int) -> list[str] | None:
    """Return names of the numbers in a column, when the file has as many as there are."""
    names = store.meta.get({"features": "feature_names", "actions": "action_names"}.get(column, ""), [])
    return list(names) if len(names) == size else None


def columns(episode: Episode, features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of an episode, T + 1 of each column; what an action column lacks is filled in.

    The row after the last action repeats the action, with reward 0, and is `DONE`.
    """
    columns: dict[str, Any] = {}
    for name in OUTCOMES.keys() & features.keys():
        columns[name] = np.pad(getattr(episode, OUTCOMES[name]), (0, 1))
    if DONE in features:
        columns[DONE] = np.append(episode.terminated | episode.truncated, True)
    for name in features:
        field = NUMBERS.get(name, name)
        if field in (*NUMBERS.values(), *OWN_NUMBERS, *OWN_TEXTS):
            columns[name] = getattr(episode, field)
            if len(columns[name]) == len(episode):
                last = columns[name][-1:] if name == "action" else [""]
                columns[name] = [*columns[name], *last] if name in OWN_TEXTS else np.concatenate([columns[name], last])
    return columns


def plain(column: Any) -> Any:
    """Convert a column to what pyarrow takes: lists of rows, single numbers where a row has one."""
    if not isinstance(column, np.ndarray):
        return column
    return column.reshape(-1) if column.ndim == 1 or column.shape[1] == 1 else list(column)


def arrow_type(arrow: Any, feature: dict[str, Any]) -> Any:
    """Return the type of a feature's column; `arrow` is the module pyarrow."""
    if feature["dtype"] == "image":
        return arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    plain = arrow.type_for_alias(feature["dtype"])
    size = feature["shape"][0]
    return plain if size == 1 else arrow.list_(plain, size)


def hub_type(feature: dict[str, Any]) -> dict[str, Any]:
    """Return the type of a feature for Hugging Face `datasets`, which reads it from the note in a Parquet file."""
    if feature["dtype"] == "image":
        return {"_type": "Image"}
    plain = {"dtype": feature["dtype"], "_type": "Value"}
    size = feature["shape"][0]
    return plain if size == 1 else {"feature": plain, "length": size, "_type": "List"}


def fact(value: Any) -> Any:
    """Convert a fact about an episode to what a table takes."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _safe(name: str) -> str:
    """Return a camera's name without the sign that LeRobot's names must not have."""
    return name.replace("/", "_")
