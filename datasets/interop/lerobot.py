"""LeRobotDataset v3, both ways: a folder of Parquet tables, mp4 videos and JSON.

A row of LeRobot holds what is seen at step t and the action taken there, so an episode of N rows has N frames and N actions. The
action of row t < N - 1 leads from frame t to frame t + 1, as in an episode file; that of the last row leads to a frame that nobody
recorded and is left out: N frames, N - 1 actions. An episode of one row has no transition and is left out.
`next.success` of row t is about what the action led to, so it becomes `success` of frame t + 1. `next.reward` and `next.truncated`
of row t are those of action t; those of the last row are left out with its action. `next.done` does not say in which of two ways
an episode ended: it becomes `terminated` only where `next.truncated` tells them apart.
"""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.datasets.episodes.episode import ACTION_TEXTS, ARRAYS, Episode
from worldmodel.datasets.interop.foreign import as_field, explained, explaining, foreign_episode, foreign_meta, one_hot
from worldmodel.datasets.interop.lerobot_layout import (
    COUNTERS,
    DONE,
    EPISODE_FACTS,
    KEPT_META,
    NUMBERS,
    OUTCOMES,
    OWN_NUMBERS,
    OWN_TEXTS,
    PICTURES,
    VERSION,
)
from worldmodel.datasets.interop.lerobot_writer import write as write
from worldmodel.datasets.pictures.images import open_picture
from worldmodel.datasets.records import import_parquet, parse_json
from worldmodel.datasets.video import DamagedVideo, VideoFit, decode, fit_image
from worldmodel.errors import UserError

ROWS_PER_READ = 256
CAMERAS = ("video", "image")

logger = logging.getLogger(__name__)


def read(
    path: Path, size: int | None = None, fit: VideoFit = "crop", camera: str | None = None
) -> tuple[Iterator[Episode], dict[str, Any]]:
    """Read episodes of a LeRobotDataset folder, in its order; one episode at a time is kept in memory.

    Features without a home (cameras of other sizes, ...) are named in `meta["dropped"]`; episodes that cannot be used in
    `meta["skipped"]`, which grows while the episodes are read.

    Args:
        path: the folder, with `meta`, `data` and perhaps `videos` in it.
        size: bring frames to this height and width in pixels.
        fit: what to do with frames that are not square when `size` is given.
        camera: the feature that becomes `frames`, the first one by default; the others become views.

    Raises:
        UserError: pyarrow is missing; the folder is no dataset of version 3, or has no such camera; and, from the iterator,
            tables or videos that are damaged.
    """
    import_parquet(path)
    dataset = _Dataset(Path(path), size, fit, camera)
    return explained(dataset.path, dataset.episodes()), dataset.meta


class _Dataset:
    """A dataset that is read, and the meta data of the episode file to make; arguments as `read`."""

    def __init__(self, path: Path, size: int | None, fit: VideoFit, camera: str | None) -> None:
        self.path, self.size, self.fit = path, size, fit
        self.info = _read_info(path)
        features: dict[str, dict[str, Any]] = self.info["features"]
        action: dict[str, Any] = features.get("action", {})
        self.cameras = _cameras(path, features, size, camera)
        self.used = features.keys() & {*NUMBERS, *OWN_NUMBERS, *OWN_TEXTS, "next.success"}
        outcomes = {name for name in (*OUTCOMES, DONE) if features.get(name, {}).get("shape") == [1]}
        self.used |= outcomes if "next.truncated" in outcomes else outcomes - {DONE}
        self.choices = _choices(path, action)
        """Discrete actions to choose from; 0: an action is a vector, or there is none."""
        dropped = features.keys() - self.used - {*self.cameras, *COUNTERS}
        action_size = self.choices or (int(np.prod(action["shape"])) if action else 0)
        facts: dict[str, Any] = {"licence": _licence(path), "skipped": {}}
        names = action.get("names")
        if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}, as most robots' data have it
            names = next(iter(names.values()))
        if isinstance(names, list) and len(names) == action_size:
            facts["action_names"] = names
        kept = self.info.get(KEPT_META)
        self.meta = foreign_meta("lerobot", path.name, action_size, dropped, facts, kept) | {"fps": self.info["fps"]}

    def episodes(self) -> Iterator[Episode | None]:
        """Yield the episodes, None for one that is left out."""
        tasks = _read_tasks(self.path)
        pictures = [name for name in self.cameras if self.info["features"][name]["dtype"] == "image"]
        rows = _Rows(self.path, [*self.used, *pictures, "task_index", "episode_index"])
        videos = {name: _Frames(self, name) for name in self.cameras if name not in pictures}
        given = 0
        try:
            for facts in tqdm(_read_facts(self.path), desc=self.path.name, total=self.info.get("total_episodes"), disable=None):
                number, length = int(facts["episode_index"]), int(facts["length"])
                table = rows.take(length, number)
                if length < 2:
                    logger.warning("episode %d of %s is left out: it has %d row", number, self.path, length)
                    self.meta["skipped"][f"episode {number}"] = f"it has {length} row, no action leads from frame to frame"
                    yield None
                    continue
                views = {name: self._decode_images(table[name]) for name in pictures}
                views |= {name: frames.take(facts, length) for name, frames in videos.items()}
                yield self._episode(table, views, tasks, facts)
                given += 1
        finally:
            for frames in videos.values():
                frames.close()
        if not given:
            raise UserError(f"{self.path} has no episode of two rows or more; nothing can be learned from it")

    def _decode_images(self, images: list[dict[str, Any]]) -> np.ndarray:
        """Decode encoded pictures, as Hugging Face `datasets` keeps them in a column."""
        try:
            return np.stack([fit_image(open_picture(io.BytesIO(image["bytes"])), self.size, self.fit) for image in images])
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            raise UserError("a picture within the tables of the dataset cannot be decoded; fetch it again") from error

    def _episode(
        self, table: dict[str, list[Any]], views: dict[str, np.ndarray], tasks: dict[int, str], facts: dict[str, Any]
    ) -> Episode:
        length = len(table["episode_index"])
        known: dict[str, Any] = {}
        for name, rows in table.items():
            field = NUMBERS.get(name, name)
            if field in ARRAYS:
                known[field] = as_field(field, np.asarray(rows, ARRAYS[field][0]))
            elif field in OWN_TEXTS:
                known[field] = [str(text) for text in rows][: length - (field in ACTION_TEXTS)]
        if "success" not in known and "next.success" in table:
            after = np.asarray(table["next.success"], np.bool_).reshape(-1)
            known["success"] = np.concatenate([[False], after[:-1]])
        known |= _outcomes(table)
        actions = known.pop("actions", np.zeros((length, 0), np.float32))[:-1]
        known |= {name: _fact(name, facts[f"{KEPT_META}/{name}"]) for name in EPISODE_FACTS if f"{KEPT_META}/{name}" in facts}
        known.setdefault("seed", int(facts["episode_index"]))
        main, *others = self.cameras
        for name in others:
            if views[name].shape != views[main].shape:
                raise UserError(f"camera {name} has pictures of another size than {main}; give --size")
        return foreign_episode(
            views[main],
            one_hot(actions, self.choices) if self.choices else actions,
            goal_text="; ".join(dict.fromkeys(tasks[int(number)] for number in table["task_index"])),
            views={name.removeprefix(PICTURES): views[name] for name in others},
            **known,
        )


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = parse_json((path / "meta" / "info.json").read_bytes())
        version, _ = str(info["codebase_version"]), (info["features"], info["fps"], info["data_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no LeRobotDataset: meta/info.json is missing or damaged") from error
    if not version.startswith("v3."):
        raise UserError(
            f"{path} is a LeRobotDataset of version {version}, {VERSION} is read; convert it with "
            "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30`"
        )
    return dict(info)


def _cameras(path: Path, features: dict[str, dict[str, Any]], size: int | None, wanted: str | None) -> list[str]:
    """List the features that are pictures, the main one first; without `size` only those as large as it."""
    names = [name for name, feature in features.items() if feature["dtype"] in CAMERAS]
    names = [name for name in names if not features[name].get("info", {}).get("video.is_depth_map")]
    if not names:
        raise UserError(f"{path} has no pictures; a world model needs a camera")
    if wanted is not None and wanted not in names:
        raise UserError(f"{path} has no camera {wanted!r}; it has {', '.join(names)}")
    main = wanted or names[0]
    others = [name for name in names if name != main]
    if not size:
        others = [name for name in others if sorted(features[name]["shape"]) == sorted(features[main]["shape"])]
    return [main, *others]


def _choices(path: Path, action: dict[str, Any]) -> int:
    """Count the discrete actions, whole numbers, of which an action is one; 0: it is a vector, or there is none."""
    if not str(action.get("dtype")).startswith(("int", "uint")) or int(np.prod(action["shape"])) != 1:
        return 0
    _, parquet = import_parquet(path)
    with explaining(path, 0):
        columns = [parquet.read_table(file, columns=["action"])["action"].to_pylist() for file in _tables(path, "data")]
        return 1 + max((int(np.max(column)) for column in columns if column), default=-1)


def _licence(path: Path) -> str:
    """Read the license from the card of the dataset."""
    card = path / "README.md"
    said = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", said, re.MULTILINE)
    return found[1] if found else "unknown"


def _outcomes(table: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Read what the actions returned; the last row's action is left out."""
    flags = [name for name in ("terminated", "next.truncated", DONE) if name in table]
    ended = {name: np.asarray(table[name], np.bool_)[:-1] for name in flags}
    found: dict[str, np.ndarray] = {OUTCOMES[name]: values for name, values in ended.items() if name != DONE}
    if "next.reward" in table:
        found["reward"] = np.asarray(table["next.reward"], np.float64)[:-1]
    if DONE in ended and "terminated" not in found:
        found["terminated"] = ended[DONE] & ~ended["next.truncated"]
    return found


def _fact(name: str, value: Any) -> Any:
    if name == "variation":
        return parse_json(value)
    return np.asarray(value, np.float64) if name == "goal_state" else value


def _tables(path: Path, part: str) -> list[Path]:
    found = sorted((path / part).glob("chunk-*/file-*.parquet"))
    if not found:
        raise UserError(f"{path} has no tables in {part}; the dataset is not whole")
    return found


def _read_facts(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a dictionary per episode, in order; statistics are left out."""
    _, parquet = import_parquet(path)
    for file in _tables(path, "meta/episodes"):
        with parquet.ParquetFile(file) as table:
            columns = [name for name in table.schema_arrow.names if not name.startswith("stats/")]
            for batch in table.iter_batches(ROWS_PER_READ, columns=columns):
                yield from batch.to_pylist()


def _read_tasks(path: Path) -> dict[int, str]:
    """Read the instruction of each task number; the text is the index of a pandas table, whose column has no fixed name."""
    _, parquet = import_parquet(path)
    try:
        table = parquet.read_table(path / "meta" / "tasks.parquet").to_pydict()
        numbers = table.pop("task_index")
        return dict(zip(numbers, next(iter(table.values())), strict=True))
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise UserError(f"{path} is not whole: meta/tasks.parquet is missing or damaged; fetch it again") from error


class _Rows:
    """The rows of all data tables, in order."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path, self.columns = path, columns
        self._batches = self._read()
        self._rest: dict[str, list[Any]] = {name: [] for name in columns}

    def _read(self) -> Iterator[dict[str, list[Any]]]:
        _, parquet = import_parquet(self.path)
        for file in _tables(self.path, "data"):
            with parquet.ParquetFile(file) as table:
                for batch in table.iter_batches(ROWS_PER_READ, columns=self.columns):
                    yield batch.to_pydict()

    def take(self, length: int, episode: int) -> dict[str, list[Any]]:
        """Take the next `length` rows, all of this episode."""
        while len(self._rest["episode_index"]) < length:
            batch = next(self._batches, None)
            if batch is None:
                raise UserError(f"{self.path} is not whole: the rows of episode {episode} are missing in data")
            for name, values in self._rest.items():
                values.extend(batch[name])
        taken = {name: values[:length] for name, values in self._rest.items()}
        self._rest = {name: values[length:] for name, values in self._rest.items()}
        if set(taken["episode_index"]) != {episode}:
            raise UserError(f"{self.path} is damaged: the rows in data do not follow the episodes at episode {episode}")
        return taken


class _Frames:
    """The frames of one camera, whose mp4 files hold many episodes each, decoded once from front to back."""

    def __init__(self, dataset: _Dataset, name: str) -> None:
        self.dataset, self.name = dataset, name
        self._file: Path | None = None
        self._frames: Iterator[np.ndarray] = iter(())
        self._place = 0

    def take(self, facts: dict[str, Any], length: int) -> np.ndarray:
        """Read the frames of an episode, uint8 (length, H, W, 3)."""
        fact = {key: facts[f"videos/{self.name}/{key}"] for key in ("chunk_index", "file_index", "from_timestamp")}
        numbers = {"chunk_index": int(fact["chunk_index"]), "file_index": int(fact["file_index"])}
        name = self.dataset.info["video_path"].format(video_key=self.name, **numbers)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{self.dataset.path}: meta/info.json names a video outside of the dataset ({name}); correct its video_path"
            )
        file = self.dataset.path / name
        start = round(fact["from_timestamp"] * self.dataset.info["fps"])
        if file != self._file or start < self._place:
            self.close()
            self._file, self._frames, self._place = file, decode(file, self.dataset.size, self.dataset.fit), 0
        taken: list[np.ndarray] = []
        try:
            while len(taken) < length:
                frame = next(self._frames)
                if self._place >= start:
                    taken.append(frame)
                self._place += 1
        except StopIteration as error:
            raise UserError(f"{file} ends at frame {self._place}, episode {facts['episode_index']} goes on") from error
        except (DamagedVideo, OSError) as error:
            raise UserError(f"{file} is missing or damaged ({error}); fetch it again") from error
        return np.stack(taken)

    def close(self) -> None:
        """Stop the decoder."""
        if hasattr(self._frames, "close"):
            self._frames.close()
