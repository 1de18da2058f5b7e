"""A task and a model's dream of it, driven by the same actions, one model step at a time.

The dream goes on from what it has dreamt. Of its history only the newest frames are kept, as many as the model was trained to look
back on, so that neither memory nor the time of a step grows.

Axes: t frames looked back on, l latent tokens, c channels, k environment actions of a model step, a numbers of each.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.actions import as_blocks
from worldmodel.agents.world import World, rollout_of, worded
from worldmodel.codec.frames import decode_video
from worldmodel.datasets.collection.recording import reset_options
from worldmodel.datasets.collection.teleop_session import TeleopSession
from worldmodel.errors import UserError
from worldmodel.generation import describe_frames
from worldmodel.rollout import RolloutConfig

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

FILM_STEPS = 600
"""Newest model steps that are kept for a film and for the curve of the distance."""
STARTS = 16
"""Starts of episodes whose mean distance is the unit of distances."""
CLIP_LENGTH = 3
"""Frames looked back on by a model that sees them one by one and whose card does not say how long its videos were."""


@dataclass(frozen=True)
class Recent:
    """The newest frames of a history and the actions between them."""

    latents: Tensor
    """(1, t, l, c)"""
    actions: Tensor
    """(1, t - 1, k * a)"""

    @classmethod
    def of(cls, frame: Tensor, numbers: int) -> "Recent":
        """Begin with one frame (l, c), before any action of so many numbers."""
        return cls(frame[None, None], torch.zeros(1, 0, numbers))

    @property
    def newest(self) -> Tensor:
        """Latents (l, c) of the newest frame."""
        return self.latents[0, -1]

    def then(self, block: Tensor, frame: Tensor, most: int) -> "Recent":
        """Go on with a block (k * a,) and the frame (l, c) after it; older frames than the newest `most` are dropped."""
        latents, actions = torch.cat([self.latents, frame[None, None]], 1), torch.cat([self.actions, block[None, None]], 1)
        first = max(0, latents.shape[1] - most)
        return Recent(latents[:, first:], actions[:, first:])


@dataclass(frozen=True)
class Moment:
    """What both sides show after a model step."""

    step: int
    """Model steps since the episode began."""
    dreamt: int
    """Model steps since the dream had a real frame."""
    truth: np.ndarray | None
    """uint8 (height, width, 3); None where the dream is driven alone."""
    dream: np.ndarray
    """uint8 (height, width, 3)."""
    distance: float | None
    """Of the dream's latents to the truth's, root mean square, in units of that of two starts; None without a truth or a dream."""
    still: float | None
    """The same of the frame that the dream began with: how far one is off who says that nothing moves."""


@dataclass(frozen=True)
class Goal:
    """Where one wants to get."""

    frame: np.ndarray
    """uint8 (height, width, 3)."""
    state: np.ndarray
    """float64 (state,)."""
    text: str
    """In words."""


class Dream:
    """A model's dream that goes on from itself.

    Args:
        world: the model.
        env_id: task whose actions these are.
        seed: of the noise.
        config: how it is sampled, one model step at a time.

    Attributes:
        recent: what is looked back on, since `begin`.
        steps: model steps since the newest real frame.
        lost: whether the model predicted NaN, so that there is no dream before the next `begin`.
    """

    def __init__(self, world: World, env_id: str, seed: int = 0, config: RolloutConfig | None = None) -> None:
        self.world, self.look_back, self._seed = world, frames_looked_back_on(world), seed
        self.rollout = rollout_of(world, env_id, world.actions(env_id).size, config or RolloutConfig())
        self.recent: Recent

    def begin(self, recent: Recent) -> None:
        """Start from real frames."""
        self.recent, self.steps, self.lost = recent, 0, False
        self._generator = torch.Generator().manual_seed(self._seed)

    @torch.no_grad()
    def step(self, block: Tensor) -> None:
        """Go on by one model step, with the actions (k * a,).

        Raises:
            UserError: the model predicts numbers that are not finite; the dream is lost and stays where it was.
        """
        state = self.rollout.encode(self.recent.latents, self.recent.actions)
        future = self.rollout.rollout(state, block[None, None, None], self._generator)[0, 0, 0].float()
        if not torch.isfinite(future).all():
            self.lost = True
            raise UserError(
                f"the model predicted numbers that are not finite, {self.steps + 1} steps after its last real frame: start again from "
                "the real frame, and if that does not help, use another checkpoint"
            )
        self.recent, self.steps = self.recent.then(block, future, self.look_back), self.steps + 1

    @torch.no_grad()
    def frame(self) -> np.ndarray:
        """Decode the newest frame: uint8 (height, width, 3)."""
        return decode_video(self.world.codec, self.recent.latents[:, -1:])[0, 0]


class DreamSession:
    """Drives a task and a model's dream of it with the same actions.

    Args:
        world: the model.
        task: that it was trained on, in the size of its frames; nobody else may step it.
        env_id: id of the task.
        seed: start, goal and variation of episode i depend on (seed, i) alone; the noise of the dream depends on it, too.
        variation: factors of variation to sample in each episode, or ("all",).
        alone: the dream alone is driven; the task shows its start and waits.
        config: how the dream is sampled.

    Attributes:
        dream: the model's side.
        seen: the simulator's newest frames.

    Raises:
        UserError: the model does not know the task, or the task draws frames of another size; an unknown factor.
    """

    def __init__(
        self,
        world: World,
        task: "Task",
        env_id: str,
        seed: int = 0,
        variation: Sequence[str] = (),
        alone: bool = False,
        config: RolloutConfig | None = None,
    ) -> None:
        self.world, self.task, self.seed, self.alone = world, task, seed, alone
        self.actions = world.actions(env_id)
        if task.image_size != world.image_size:
            raise UserError(f"the task draws {task.image_size} px, the model sees {world.image_size}")
        if self.actions.size != len(task.action_names):
            raise UserError(
                f"actions of {env_id} have {len(task.action_names)} numbers here, {self.actions.size} where the model was trained"
            )
        self.dream = Dream(world, env_id, seed, config)
        self._unit = self._distance_of_starts(seed, tuple(variation))
        self._real = TeleopSession(task, seed, variation)
        self._begin()

    def _distance_of_starts(self, seed: int, variation: tuple[str, ...]) -> float:
        """Measure how far apart the first frames of different episodes are."""
        rng, frames = np.random.default_rng([seed, STARTS]), []
        for _ in range(STARTS):
            self.task.reset(seed=int(rng.integers(2**31)), options=reset_options(variation))
            frames.append(self.task.render())
        latents = self.world.codec.encode_frames(np.stack(frames))
        return max(_root_mean_square(latents[1:] - latents[:-1]), 1e-6)

    # ---------------------------------------------------------------- Episodes

    def begin(self) -> None:
        """Start the next episode; the dream starts from its first frame."""
        self._real.begin()
        self._begin()

    def _begin(self) -> None:
        self._real.record(False)  # what is recorded would grow
        self.steps = 0
        """Model steps since the episode began."""
        self._frame = self.task.render()
        self.seen = Recent.of(self._encoded(), self.actions.size * self.actions.block)
        self.film: deque[Moment] = deque(maxlen=FILM_STEPS)
        """The newest moments."""
        self.own_goal()
        self.restart()

    def restart(self) -> None:
        """Let the dream start again from the real frame, with the real frames before it; alone: from the episode's first one."""
        self.dream.begin(self.seen)
        self._begun = self.seen.newest
        self._show()

    def own_goal(self) -> None:
        """Take the goal of the episode."""
        info = self._real.info
        self.aim(Goal(info["goal"], info["goal_state"], self._real.goal_text))

    def keep_goal(self) -> None:
        """Take what the simulator shows now as the goal."""
        self.aim(Goal(self._frame, self.task.get_state(), f"what the simulator showed at step {self.steps}"))

    def aim(self, goal: Goal) -> None:
        """Take a goal, and forget whether it was met before; one that is met now counts once it was left."""
        self.goal, self._left = goal, not self.task.is_success(self.task.get_state(), goal.state)
        self.met: int | None = None
        """Model step of the episode in which the simulator first met the goal; None before."""

    # ---------------------------------------------------------------- Driving

    def step(self, actions: np.ndarray) -> None:
        """Do one model step on both sides.

        Args:
            actions: (k, a) environment actions, or (1, k * a), the same as a block.

        Raises:
            UserError: they are no actions of one model step; the model predicts numbers that are not finite, after which the simulator
                alone goes on until `restart`.
        """
        blocks = as_blocks(actions, self.actions, "actions")
        if len(blocks) != 1:
            raise UserError(
                f"actions are those of {len(blocks)} model steps, must be of one: {self.actions.block} environment actions"
            )
        self.steps += 1
        block = torch.from_numpy(blocks[0])
        if not self.alone:
            self._drive(blocks[0].reshape(self.actions.block, -1))
            self._frame = self.task.render()
            self.seen = self.seen.then(block, self._encoded(), self.dream.look_back)
        try:
            if not self.dream.lost:
                self.dream.step(block)
        finally:
            self._show()

    def _drive(self, actions: np.ndarray) -> None:
        for action in actions:
            if self.finished:
                return
            self._real.step(action.clip(-1, 1))
            there = self.task.is_success(self._real.info["state"], self.goal.state)
            self._left = self._left or not there
            if self.met is None and there and self._left:
                self.met = self.steps

    @property
    def finished(self) -> bool:
        """Whether the environment cannot go on; never so in a task of our own."""
        return self._real.finished

    # ---------------------------------------------------------------- Looking

    def _encoded(self) -> Tensor:
        return self.world.codec.encode_frames(self._frame[None])[0]

    def _show(self) -> None:
        compared = not (self.dream.lost or self.alone)
        truth, dream = self.seen.newest, self.dream.recent.newest
        self.now = Moment(
            self.steps,
            self.dream.steps,
            None if self.alone else self._frame,
            self.dream.frame(),
            _root_mean_square(dream - truth) / self._unit if compared else None,
            None if self.alone else _root_mean_square(self._begun - truth) / self._unit,
        )
        """What both sides show."""
        self.film.append(self.now)

    def look(self) -> tuple[Tensor | None, Tensor]:
        """Return latents (l, c) of the newest frames of truth, None where the dream is driven alone, and dream."""
        return None if self.alone else self.seen.newest, self.dream.recent.newest

    def ask(self, question: str | None = None) -> tuple[str | None, str]:
        """Let the model caption the frames of truth, None where the dream is driven alone, and dream, or answer a question about each.

        Raises:
            UserError: the question is empty.
        """
        shown = [frame for frame in self.look() if frame is not None]
        asked = None if question is None else [worded(question, "question")] * len(shown)
        *truth, dream = describe_frames(self.world.model, self.world.tokenizer, torch.stack(shown), asked)
        return (truth[0] if truth else None), dream

    @property
    def caption(self) -> str:
        """What is true of the simulator's frame."""
        return str(self._real.info["caption"])


def frames_looked_back_on(world: World) -> int:
    """Return how many frames a model was trained to look back on."""
    length = world.card.get("mixture", {}).get("clip_length")
    return world.model.config.references or (length if type(length) is int and length > 0 else CLIP_LENGTH)


def _root_mean_square(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())
