"""Sources that ask a stretch of an episode in both directions: what comes of these actions, and which actions lead there.

A place is an episode and a time in it, in recorded steps. Goals are asked of one frame: recorded actions resemble each other from
step to step, so that what came before tells the next ones, too, and a model that has learned that may, when it acts itself, go on with
whatever it did (causal confusion, arXiv 1905.11979; what was measured: docs/ideas.md).

All frames of a goal document may be moved by the same few pixels at random (`shift`), so that a model that is trained for long does
not learn episodes by heart; actions are the same wherever the picture lies. What stands still then stands elsewhere in each document,
and must be distinguished from what moves: a short training does not get that far.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from worldmodel.datasets.episodes.action_units import ActionUnits, in_units
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.documents import Action, Document, NextActions, goal_document, transition_document
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.datasets.mixture.source import Entry, EpisodeSource, Opening, Source
from worldmodel.envs import make_task, task_ids
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

SHARE_OF_ONE = 0.4
"""Share of transitions of a single model step; the others are jumps, all lengths alike."""
SHARE_AS_DRAWN = 0.2
"""Share of goals that are taken whether they are met or not: a model must also know what having arrived looks like."""
SHARE_ALONE = 0.1
"""Share of documents without the frame before, as at the beginning of an episode."""


class StepSampler:
    """All places from which at least one model step of `action_block` environment actions is recorded.

    A document has at most `horizon` model steps; its frames are moved by at most `shift` pixels in each direction, and `units` are
    those of the actions' vectors. UserError where no episode is long enough, or the file was recorded in other blocks.
    """

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        action_block: int,
        horizon: int,
        shift: int = 0,
        units: ActionUnits | None = None,
    ) -> None:
        self._windows = ClipSampler(store, episodes, 1, action_block)
        self.store, self.horizon, self.shift, self._units = store, horizon, shift, units
        self.recorded = store.action_block  # env steps per recorded step
        self.block = action_block // self.recorded  # recorded steps per model step

    def __len__(self) -> int:
        return len(self._windows)

    def place(self, item: int) -> tuple[int, int, int]:
        """Return (episode, time, recorded steps left) of an item, 0 <= item < len."""
        episode, t = self._windows.place(item)
        return episode, t, int(self.store.lengths[episode]) - t

    def now(self, episode: int, t: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Read the frame one model step before, if there is one and it is not left out, and the frame at t."""
        times = [t - self.block, t] if t >= self.block and rng.random() >= SHARE_ALONE else [t]
        return [self.store.frame(episode, time) for time in times]

    def actions(self, episode: int, t: int, count: int) -> list[Action]:
        """Return the actions of `count` model steps from t on, given."""
        clip = self.store.clip(episode, t * self.recorded, count, self.block * self.recorded)
        words = clip.action_words or [""] * count
        vectors = in_units(clip.actions, self._units)
        return [Action(vector, text, said) for vector, text, said in zip(vectors, clip.action_texts, words, strict=True)]

    def answers(self, episode: int, t: int, known: int) -> NextActions:
        """Return the actions of `horizon` model steps from t on; only those of the first `known` recorded steps are learned."""
        first = int(self.store.offsets[episode]) - episode + t  # of the rows of actions
        known = min(known, self.horizon * self.block)
        rows = self.store.rows("actions", first, first + known)
        padded = np.zeros((self.horizon * self.block, rows.shape[1]), np.float32)
        padded[:known] = in_units(rows, self._units)
        return NextActions(padded.reshape(self.horizon, -1), rows.size)

    def moved(self, frames: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Move frames (H, W, 3), all by the same random pixels; what comes in at an edge repeats it (DrQ, arXiv 2004.13649)."""
        if not self.shift:
            return list(frames)
        down, right = rng.integers(-self.shift, self.shift + 1, 2)
        height, width = frames[0].shape[:2]
        rows, columns = (np.arange(height) + down).clip(0, height - 1), (np.arange(width) + right).clip(0, width - 1)
        return [frame[rows][:, columns] for frame in frames]


class TransitionSource(EpisodeSource):
    """What comes of actions: `transition_document` of one model step, or of several at once."""

    kind, actions = "transition", True
    options: ClassVar[dict[str, str]] = {"files": "", "horizon": "jump"}

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        action_block: int = 1,
        horizon: int = 8,
        name: str = "transition",
        units: ActionUnits | None = None,
    ) -> None:
        self.name = name
        self._sampler = StepSampler(store, episodes, action_block, horizon, units=units)

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        units = opening.units_of(store)
        return cls(store, episodes, opening.action_block, entry.horizon or 1, entry.name, units)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Frame, Action..., Frame] from a place on."""
        sampler = self._sampler
        episode, t, left = sampler.place(item)
        most = min(sampler.horizon, left // sampler.block)
        count = 1 if rng.random() < SHARE_OF_ONE else int(rng.integers(1, most + 1))
        after = sampler.store.frame(episode, t + count * sampler.block)
        return transition_document(sampler.now(episode, t, rng), sampler.actions(episode, t, count), after)


class GoalTest:
    """When an episode first meets the goal that a later frame of it is, as the file's task measures success.

    UserError where that task cannot be made here.
    """

    def __init__(self, store: EpisodeStore) -> None:
        self._store = store
        self._task = self._make()

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store}  # a process that feeds the training makes its own task

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._store = state["_store"]
        self._task = self._make()

    def _make(self) -> "Task":
        try:
            return make_task(self._store.meta["env_id"], image_size=self._store.image_size)
        except UserError as error:
            raise UserError(f"{error}; or set mixture goal_tries to 1: goals are then asked for whether they are met or not") from None

    @staticmethod
    def applies(store: EpisodeStore) -> bool:
        """Tell whether a file is of a task of this suite and holds its states."""
        return store.meta.get("env_id") in task_ids() and store.row_shape("state")[0] > 0

    def first_met(self, episode: int, now: int, goal: int) -> int:
        """Count the recorded steps from frame `now` of an episode to the first one that meets the goal that frame `goal` is."""
        first = int(self._store.offsets[episode])
        states = self._store.rows("state", first + now, first + goal + 1)
        return next(step for step, state in enumerate(states) if step == goal - now or self._task.is_success(state, states[-1]))


class GoalSource(EpisodeSource):
    """Which actions lead to what the episode came to later: `goal_document`.

    Args:
        store: the episode file.
        episodes: which of its episodes may be used.
        action_block: environment actions per model step.
        horizon: model steps whose actions are asked for.
        reach: the most environment steps from now to the goal.
        shift: see `StepSampler`.
        name: of the source.
        tries: the most pairs of now and goal that are drawn until one is not met from the start; the last one is taken as it is.
            Above 1 the steps to a goal (a spoken one: to its frame) are learned from when it is first met.
        units: of the actions' vectors.

    Raises:
        UserError: `tries` is above 1 and the task of the file cannot be made here.
    """

    kind, actions = "goal", True
    options: ClassVar[dict[str, str]] = {"files": "", "horizon": "horizon"}

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        action_block: int = 1,
        horizon: int = 8,
        reach: int = 40,
        shift: int = 0,
        name: str = "",
        tries: int = 1,
        units: ActionUnits | None = None,
    ) -> None:
        self.name = name or self.kind
        self._sampler = StepSampler(store, episodes, action_block, horizon, shift, units)
        self._reach = max(1, reach // self._sampler.recorded)  # in recorded steps
        self._test = GoalTest(store) if tries > 1 and GoalTest.applies(store) else None
        self._tries = tries if self._test else 1

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        block, horizon, units = opening.action_block, entry.horizon or 1, opening.units_of(store)
        return cls(store, episodes, block, horizon, shift=opening.shift, name=entry.name, tries=opening.goal_tries, units=units)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, goal, Steps, NextActions] of an item's episode; all distances of the goal within reach are equally likely."""
        sampler, store = self._sampler, self._sampler.store
        episode, _, _ = sampler.place(item)
        tries = 1 if self._tries > 1 and rng.random() < SHARE_AS_DRAWN else self._tries
        for _ in range(tries):
            t, steps = self._pair(int(store.lengths[episode]), rng)
            first = None if self._test is None else self._test.first_met(episode, t, t + steps)
            if first != 0:
                break
        now, asked = store.frame(episode, t), sampler.answers(episode, t, steps)
        met = None if first is None else first * sampler.recorded
        if caption := self._words(episode, t + steps):
            return goal_document(sampler.moved([now], rng)[0], caption, steps * sampler.recorded, asked, met)
        now, goal = sampler.moved([now, store.frame(episode, t + steps)], rng)
        return goal_document(now, goal, steps * sampler.recorded, asked, met)

    def _words(self, episode: int, t: int) -> str:
        """Return the words that stand for a goal; "" where its frame does."""
        return ""

    def _pair(self, length: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a time and how many recorded steps later its goal is, in an episode of so many recorded steps."""
        steps = int(rng.integers(1, min(self._reach, length) + 1))
        return int(rng.integers(0, length - steps + 1)), steps


class SpokenGoalSource(GoalSource):
    """The same where the goal is the caption of its frame instead of the frame."""

    kind, texts = "spoken goal", ("captions",)

    def _words(self, episode: int, t: int) -> str:
        return self._sampler.store.caption(episode, t)
