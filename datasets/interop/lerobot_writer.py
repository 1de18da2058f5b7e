"""Writing LeRobotDataset v3: a folder of Parquet tables, mp4 videos and JSON.

Row t holds frame t and the action that leaves it, so an episode of T actions becomes T + 1 rows. The last row has a frame and
no action of its own: it repeats the action before it, which keeps the bounds and nearly the statistics of the column.
`lerobot.py` leaves that row's action out again.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop import lerobot_layout as layout
from worldmodel.datasets.interop.foreign import episodes_of, new_path
from worldmodel.datasets.records import import_parquet
from worldmodel.datasets.video import GOOD, VideoWriter, encode_png, fps_of

FILES_PER_CHUNK = 1000
DATA_MB, VIDEO_MB = 100, 200
"""A file that has grown beyond is followed by the next one."""
FACTS_PER_WRITE = 64
KEYFRAME_EVERY = 2
"""LeRobot reads single frames at random places: short ways from key frames matter more to it than small files."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FRAMES_PER_EPISODE = 32
"""As many frames of an episode, evenly spaced, are looked at."""
Statistics = dict[str, dict[str, np.ndarray]]
"""Statistics normalize a policy's inputs."""

_INDEX = "__index_level_0__"
_PANDAS = {
    "index_columns": [_INDEX],
    "column_indexes": [],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": None, "field_name": _INDEX, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.0.0",
}
"""Note that makes the texts of tasks the index of the table when pandas reads it, where LeRobot looks for them."""


def write(store: EpisodeStore, path: Path, fps: float | None = None, pictures: Literal["video", "image"] = "video") -> None:
    """Write an episode file as a LeRobotDataset of version 3.

    Args:
        store: the episodes.
        path: folder to make.
        fps: recorded steps per second; by default the file's own, else 10.
        pictures: as H.264 video (small, nearly the same) or as PNG images within the tables (exactly the same).

    Raises:
        UserError: pyarrow is missing; the folder exists or cannot be written.
    """
    import_parquet(path)
    rate = fps or fps_of(store)
    with new_path(path, folder=True) as folder:
        writer = _Writer(folder, store, rate, pictures)
        with contextlib.closing(writer):
            for episode in episodes_of(store, "lerobot"):
                writer.add(episode)
            writer.finish()


class _Writer:
    """The files that are open while a dataset is written."""

    def __init__(self, folder: Path, store: EpisodeStore, fps: float, pictures: Literal["video", "image"]) -> None:
        self.folder, self.fps, self.pictures, self.meta = folder, fps, pictures, store.meta
        self.arrow, self.parquet = import_parquet(folder)
        self.features = layout.features(store, fps, pictures)
        self.cameras = [name for name, feature in self.features.items() if feature["dtype"] == pictures]
        self.tasks: dict[str, int] = {}
        self.num_rows = self.num_episodes = 0
        self.table: Any = None
        self.facts: list[dict[str, Any]] = []
        self.episodes: Any = None
        self.note: dict[str, str] = {}
        self.videos: dict[str, VideoWriter] = {}
        self.files = {"data": -1} | dict.fromkeys(self.cameras, -1)
        self.uncounted = {"next.reward"} if np.isnan(store.column("reward")).any() else set()
        """Features without statistics: NaN would spoil them."""
        self.statistics: dict[str, dict[str, np.ndarray]] = {}

    def add(self, episode: Episode) -> None:
        rows = len(episode) + 1
        task = self.tasks.setdefault(episode.goal_text, len(self.tasks))
        columns = layout.columns(episode, self.features)
        columns |= {
            "timestamp": np.arange(rows) / self.fps,
            "frame_index": np.arange(rows),
            "episode_index": np.full(rows, self.num_episodes),
            "index": np.arange(self.num_rows, self.num_rows + rows),
            "task_index": np.full(rows, task),
        }
        views = dict(zip(self.cameras, [episode.frames, *(episode.views[name] for name in sorted(episode.views))], strict=True))
        facts: dict[str, Any] = {"episode_index": self.num_episodes, "tasks": [episode.goal_text], "length": rows}
        for name, view in views.items():
            if self.pictures == "video":
                facts |= self._add_video(name, view)
            else:
                columns[name] = [{"bytes": encode_png(frame), "path": f"frame-{t:06d}.png"} for t, frame in enumerate(view)]
        facts |= self._add_rows(columns)
        facts |= {"dataset_from_index": self.num_rows, "dataset_to_index": self.num_rows + rows}
        facts |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        facts |= {f"{layout.KEPT_META}/{name}": layout.fact(getattr(episode, name)) for name in layout.EPISODE_FACTS}
        numbers = {
            name: columns[name]
            for name, feature in self.features.items()
            if feature["dtype"] not in ("string", "image", "video") and name not in self.uncounted
        }
        statistics = _describe(numbers, views)
        self.statistics = _aggregate(self.statistics, statistics)
        facts |= {f"stats/{name}/{kind}": value.tolist() for name, kinds in statistics.items() for kind, value in kinds.items()}
        self.facts.append(facts)
        if len(self.facts) >= FACTS_PER_WRITE:
            self._write_facts()
        self.num_rows += rows
        self.num_episodes += 1

    def _place(self, kind: str, pattern: str, next_file: bool) -> tuple[Path, dict[str, int]]:
        """Return the path of the current or the next file of a kind (its folder is made), and its two numbers."""
        self.files[kind] += next_file
        numbers = dict(zip(("chunk_index", "file_index"), divmod(self.files[kind], FILES_PER_CHUNK), strict=True))
        path = self.folder / pattern.format(video_key=kind, **numbers)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, numbers

    def _add_video(self, name: str, view: np.ndarray) -> dict[str, Any]:
        video = self.videos.get(name)
        if video is not None and video.path.exists() and video.path.stat().st_size >= VIDEO_MB * 2**20:
            video.close()
            video = None
        path, numbers = self._place(name, layout.VIDEO_PATH, next_file=video is None)
        if video is None:
            video = self.videos[name] = VideoWriter(path, self.fps, GOOD, KEYFRAME_EVERY)
        start = video.num_frames
        for frame in view:
            video.add(frame)
        facts: dict[str, Any] = {f"videos/{name}/{key}": value for key, value in numbers.items()}
        return facts | {
            f"videos/{name}/from_timestamp": start / self.fps,
            f"videos/{name}/to_timestamp": video.num_frames / self.fps,
        }

    def _add_rows(self, columns: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, feature in self.features.items() if feature["dtype"] != "video"]
        types = {name: layout.arrow_type(self.arrow, self.features[name]) for name in names}
        table = self.arrow.table({name: self.arrow.array(layout.plain(columns[name]), types[name]) for name in names})
        if self.table is not None and self.table[1].stat().st_size >= DATA_MB * 2**20:
            self.table[0].close()
            self.table = None
        path, numbers = self._place("data", layout.DATA_PATH, next_file=self.table is None)
        if self.table is None:
            note = {"info": {"features": {name: layout.hub_type(self.features[name]) for name in names}}}
            self.note = {"huggingface": json.dumps(note)}
            self.table = self.parquet.ParquetWriter(path, table.schema.with_metadata(self.note), compression="snappy"), path
        self.table[0].write_table(table.replace_schema_metadata(self.note))
        return {f"data/{key}": value for key, value in numbers.items()}

    def _write_facts(self) -> None:
        """Write the facts gathered about episodes."""
        if self.episodes is None:
            path = self.folder / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
            path.parent.mkdir(parents=True)
            schema = self.arrow.Table.from_pylist(self.facts[:1]).schema
            goal = f"{layout.KEPT_META}/goal_state"  # it may be empty, which does not show its type
            schema = schema.set(schema.get_field_index(goal), self.arrow.field(goal, self.arrow.list_(self.arrow.float64())))
            self.episodes = self.parquet.ParquetWriter(path, schema, compression="snappy")
        self.episodes.write_table(self.arrow.Table.from_pylist(self.facts, self.episodes.schema))
        self.facts = []

    def finish(self) -> None:
        """Close all files and write what is known only at the end."""
        for video in self.videos.values():
            video.close()
        self.table[0].close()
        if self.facts:
            self._write_facts()
        self.episodes.close()
        tasks = self.arrow.table({"task_index": list(self.tasks.values()), _INDEX: list(self.tasks)})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_PANDAS)})
        self.parquet.write_table(tasks, self.folder / "meta" / "tasks.parquet")
        statistics = {name: {kind: value.tolist() for kind, value in kinds.items()} for name, kinds in self.statistics.items()}
        (self.folder / "meta" / "stats.json").write_text(json.dumps(statistics, indent=1))
        (self.folder / "meta" / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": layout.VERSION,
            "robot_type": str(self.meta.get("env_id", "unknown")),
            "total_episodes": self.num_episodes,
            "total_frames": self.num_rows,
            "total_tasks": len(self.tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": {"train": f"0:{self.num_episodes}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self.pictures == "video" else None,
            "features": self.features,
            layout.KEPT_META: self.meta,
        }

    def close(self) -> None:
        """Let go of what is still open, after a failure."""
        for video in self.videos.values():
            video.abandon()
        if self.table is not None:
            self.table[0].close()
        if self.episodes is not None:
            self.episodes.close()


def _describe(numbers: dict[str, np.ndarray], views: dict[str, np.ndarray]) -> Statistics:
    """Compute the statistics of one episode.

    Numbers are (rows,) or (rows, n), views uint8 (rows, H, W, 3); their statistics are of each color, (3, 1, 1), in [0, 1].
    """
    found = {name: _of_rows(np.asarray(rows, np.float64).reshape(len(rows), -1)) for name, rows in numbers.items()}
    for name, view in views.items():
        picked = view[np.linspace(0, len(view) - 1, min(len(view), FRAMES_PER_EPISODE)).astype(int)]
        colours = _of_rows(picked.reshape(-1, 3) / 255)
        found[name] = {kind: value.reshape(3, 1, 1) for kind, value in colours.items() if kind != "count"}
        found[name]["count"] = np.array([len(picked)])
    return found


def _of_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0), "count": np.array([len(rows)])}
    return found | dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))


def _aggregate(before: Statistics, new: Statistics) -> Statistics:
    """Compute the statistics of everything before (empty at the start) and one more episode.

    The quantiles of the whole are the mean of the episodes' quantiles, as LeRobot computes them, not those of all rows.
    """
    return {name: _join(before[name], new[name]) for name in new} if before else new


def _join(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = a["count"] + b["count"]
    share = (b["count"] / count)[0]
    joined = {kind: a[kind] + share * (b[kind] - a[kind]) for kind in ("mean", *QUANTILES)}
    # Spread within both parts, and between their means.
    variance = (1 - share) * a["std"] ** 2 + share * b["std"] ** 2 + share * (1 - share) * (a["mean"] - b["mean"]) ** 2
    extremes = {"min": np.minimum(a["min"], b["min"]), "max": np.maximum(a["max"], b["max"])}
    return joined | extremes | {"std": np.sqrt(variance), "count": count}
