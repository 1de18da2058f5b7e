"""Attempts: an episode whose environment or policy fails is left out, and the collection goes on without it.

What failed is recorded next to the parts, so that a collection that goes on does not try it again.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldmodel.datasets.collection.episode_shards import shard_bytes, shard_path
from worldmodel.datasets.collection.recording import CollectConfig, open_task, record_episode, reset_seed, warm_up
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

PATTERN = "episode_*.left_out"
MAX_ERROR = 300
"""Characters of an error that are kept."""
WARM_UP_TRIES = 10
"""Resets that are tried before a task counts as one that never works."""


@dataclass(frozen=True)
class LeftOut:
    """An episode that could not be recorded."""

    episode: int
    """Its number in the collection."""
    seed: int
    """What the task was reset with."""
    error: str
    """What went wrong, in one line."""

    def to_bytes(self) -> bytes:
        """Return the content of the episode's mark."""
        return json.dumps(asdict(self)).encode()


def left_out_path(folder: Path, episode: int) -> Path:
    """Return the path of the mark of an episode that is left out, in the folder with the parts of the others."""
    return folder / PATTERN.replace("*", f"{episode:06d}")


def load_left_out(folder: Path, episode: int) -> LeftOut | None:
    """Load the mark of an episode; None when it has none that can be read."""
    try:
        mark = LeftOut(**parse_json(left_out_path(folder, episode).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return None
    return mark if (mark.episode, type(mark.seed), type(mark.error)) == (episode, int, str) else None


def remove_left_out(folder: Path) -> None:
    """Remove all marks."""
    for mark in folder.glob(PATTERN):
        mark.unlink(missing_ok=True)


class Player:
    """Records episodes of a collection with a task of its own; UserError as `open_task`."""

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        self.task = open_task(config)

    def warm_up(self) -> dict[str, Any]:
        """Collect facts about the task from the first reset that works; UserError as `recording.warm_up`, or if none works."""
        said = ""
        for seed in range(WARM_UP_TRIES):
            try:
                return warm_up(self.task, self._config, seed)
            except (MemoryError, UserError):
                raise
            except Exception as error:
                said = _in_one_line(error)
            self._make_anew()
        raise UserError(f"{self._config.env} fails at every reset, tried {WARM_UP_TRIES} times, the last time with {said}")

    def record(self, index: int) -> Episode | LeftOut:
        """Record episode `index`, or return why there is none: then the task, which may be broken, is made anew."""
        try:
            return record_episode(self.task, self._config, index)
        except MemoryError:  # the machine's fault, not the episode's
            raise
        except Exception as error:
            left_out = LeftOut(index, reset_seed(self._config.seed, index), _in_one_line(error))
        self._make_anew()
        return left_out

    def part(self, index: int) -> tuple[str, bytes, int]:
        """Record episode `index`: name and content of its shard, and its number of frames; or of the mark that it failed, and 0."""
        episode = self.record(index)
        if isinstance(episode, LeftOut):
            return left_out_path(Path(), index).name, episode.to_bytes(), 0
        return shard_path(Path(), index).name, shard_bytes(episode), len(episode.frames)

    def _make_anew(self) -> None:
        with contextlib.suppress(Exception):
            self.task.close()
        self.task = open_task(self._config)

    def close(self) -> None:
        """Free the task."""
        self.task.close()


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"[:MAX_ERROR]
