"""Driving: a task that is driven action by action from outside, and the file that grows by what was driven.

`TeleopSession` turns actions that come from anywhere (a keyboard, a gamepad, a program) into episodes. `TeleopFile`
keeps them: each one is on the disk as soon as it is handed over, as a shard next to the file, and `merge` writes
the file again with all shards in it. A shard is numbered as the episode will be in the file, so a merge that was
killed between renaming the file and deleting the shards adds nothing twice.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from worldmodel import __version__
from worldmodel.datasets.atomic import locked_folder, sync_and_rename, write_atomic
from worldmodel.datasets.collection.coverage import CountingWriter
from worldmodel.datasets.collection.episode_shards import PATTERN, load_shard, save_shard, shard_path
from worldmodel.datasets.collection.recording import MAX_SEED, Recorder, reset_options
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

POLICY = "human"
"""Name of the policy of driven episodes."""


class TeleopSession:
    """Drives a task and remembers what happened, until `begin` starts the next episode.

    Args:
        task: the task; nobody else may step it.
        seed: start, goal, variation and questions of episode i depend on (seed, i) alone.
        variation: factors of variation to sample in each episode, or ("all",).
        number: i of the first episode.
        policy: who drives.

    Raises:
        UserError: an unknown factor.
    """

    def __init__(self, task: "Task", seed: int = 0, variation: Sequence[str] = (), number: int = 0, policy: str = POLICY) -> None:
        self.task = task
        self.recording = True
        self._seed, self._options, self._policy = seed, reset_options(tuple(variation)), policy
        self._number = number - 1
        self.begin()

    def begin(self) -> None:
        """Start the next episode; what was driven so far is forgotten."""
        self._number += 1
        self._rng = np.random.default_rng([self._seed, self._number])
        self._reset_seed = int(self._rng.integers(MAX_SEED))
        self.obs, self.info = self.task.reset(seed=self._reset_seed, options=self._options)
        self.steps = 0
        """Actions since the episode began, recorded or not."""
        self.reached: int | None = None
        """Step at which the goal was reached first."""
        goals = self.task.language.goals()
        self.goal_text = goals[int(self._rng.integers(len(goals)))]
        self.forget()

    def step(self, action: np.ndarray) -> None:
        """Apply an action (a,) in [-1, 1]; UserError when it is none."""
        self.obs, reward, terminated, truncated, self.info = self.task.step(action)
        self.steps += 1
        if self.reached is None and self.info["success"]:
            self.reached = self.steps
        if self.recording:
            self._recorder.add(np.asarray(action)[None], [(reward, terminated, truncated)], self.obs, self.info)

    def forget(self) -> None:
        """Throw the recorded steps away; the recording goes on from the present state."""
        self._recorder = Recorder(self.task, self.obs, self.info)

    def record(self, on: bool) -> None:
        """Turn the recording on, from the present state, or off; what was recorded is forgotten."""
        self.recording = on
        self.forget()

    @property
    def finished(self) -> bool:
        """Whether the environment cannot go on; never so in a task of our own."""
        return bool(getattr(self.task, "finished", False))

    @property
    def recorded(self) -> int:
        """Number of recorded actions."""
        return len(self._recorder)

    def episode(self) -> Episode | None:
        """Return what was recorded; None before the first action."""
        if not self.recorded:
            return None
        episode = self._recorder.episode(self._rng, self._reset_seed, self._policy)
        return replace(episode, goal_text=self.goal_text)  # the instruction that the driver was given


class TeleopFile:
    """An episode file that grows; use as a context manager, which merges at the end.

    The file may exist if it was driven before with the same task and frame size; `facts` about the task are those of
    `recording.warm_up`.

    Raises:
        UserError: the file, or the shards next to it, hold something else; another process adds to it.
    """

    def __init__(self, path: Path, env_id: str, facts: dict[str, Any]) -> None:
        self.path, self.shards = Path(path), Path(path).with_name(Path(path).name + ".parts")
        self.meta = facts | {"env_id": env_id, "package_version": __version__, "driven": True}
        self._count()  # a file of something else is refused before anything is written next to it
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_folder(self.shards, link=False))
            self._check_or_write_config()
            self._lock = stack.pop_all()

    def _check_or_write_config(self) -> None:
        about = self.shards / "config.json"
        try:
            if self._numbers():
                self._refuse_other(parse_json(about.read_text()), self.shards)
            else:
                write_atomic(about, json.dumps(self.meta).encode())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot use {self.shards}: {error}") from error
        self.saved = self._count()
        """Episodes in the file."""
        for number in self._numbers():
            if number < self.saved:  # merged, but the merge was killed before it could delete them
                shard_path(self.shards, number).unlink()

    def _refuse_other(self, found: Any, path: Path) -> None:
        if not isinstance(found, dict) or not found.get("driven"):
            raise UserError(f"{path} was not made by `worldmodel play`; choose another --out")
        for name in ("env_id", "image_size"):
            if found.get(name) != self.meta[name]:
                raise UserError(f"{path} holds episodes of {name}={found.get(name)}, not {self.meta[name]}; choose another --out")

    def _count(self) -> int:
        if not self.path.exists():
            return 0
        with EpisodeStore(self.path) as store:
            self._refuse_other(store.meta, self.path)
            return len(store)

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("episode_")) for path in self.shards.glob(PATTERN))

    def __len__(self) -> int:
        """Return the number of episodes in the file and in shards."""
        return max([self.saved, *(number + 1 for number in self._numbers())])

    def keep(self, episode: Episode) -> None:
        """Add an episode; it is on the disk when this returns. UserError when the disk is full."""
        try:
            save_shard(shard_path(self.shards, len(self)), episode)
        except OSError as error:
            raise UserError(f"cannot write to {self.shards}: {error.strerror}; make room and try again") from error

    def undo(self) -> bool:
        """Remove the last episode that was added, unless it is in the file already; return whether one was."""
        numbers = self._numbers()
        if numbers:
            shard_path(self.shards, numbers[-1]).unlink()
        return bool(numbers)

    def merge(self) -> int:
        """Move all shards into the file, which is there whole, old or new, at any moment; return their number."""
        numbers = self._numbers()
        if numbers:
            merged = self.shards / "merged.h5"
            merged.unlink(missing_ok=True)
            with CountingWriter(merged, dict(self.meta)) as writer:
                for episode in self._all(numbers):
                    writer.append(episode)
            sync_and_rename(merged, self.path)
            self.saved = self._count()
            for number in numbers:
                shard_path(self.shards, number).unlink()
        return len(numbers)

    def _all(self, numbers: list[int]) -> Iterator[Episode]:
        if self.path.exists():
            with EpisodeStore(self.path) as store:
                yield from (store.episode(i) for i in range(len(store)))
        for number in numbers:
            path = shard_path(self.shards, number)
            try:
                yield load_shard(path)
            except (OSError, ValueError) as error:
                raise UserError(f"{path} is damaged; remove it and start again to keep the others") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self.merge()
            shutil.rmtree(self.shards)
