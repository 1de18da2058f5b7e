"""Acting as the model proposes: the mean of its action distribution is executed, without any search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.actor import Actor
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.simulator import Codec, History
from worldmodel.codec.frames import encode_frames
from worldmodel.errors import UserError

LEAST_BLOCKS = 2
"""Model steps that are always left: whoever is asked to arrive at once overshoots, and problems go on after the goal was met."""


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of acting without search."""

    replan_every: int = 1
    """Model steps of a proposal that are executed before the model gets the next frame."""

    def __post_init__(self) -> None:
        if self.replan_every < 1:
            raise UserError(f"policy.replan_every is {self.replan_every}, must be at least 1")


class Proposals:
    """What an actor proposes for each of b problems, with a count of the env steps left.

    Args:
        actor: the model.
        codec: the codec that it was trained with.
        bounds: of the actions; proposals are moved into them.
        context: newest frames that the actor sees, with the actions that were carried out between them.
        goal_steps: env steps in which the goals can be reached, where that is known; else what the actor says of each problem at
            its first frame.
        device: where codec and actor lie.
        horizon: model steps that are wanted of each proposal, at most the actor's; None: all.
        spread: what the actor's standard deviations are multiplied by.

    Attributes:
        horizon: model steps of a proposal.
    """

    def __init__(
        self,
        actor: Actor,
        codec: Codec,
        bounds: ActionBounds,
        context: int,
        goal_steps: int | None = None,
        device: torch.device | str = "cpu",
        horizon: int | None = None,
        spread: float = 1.0,
    ) -> None:
        self.horizon, self.spread = min(horizon or actor.horizon, actor.horizon), spread
        self.actor, self.codec, self.bounds, self.context, self.device = actor, codec, bounds, context, device
        self.goal_steps = goal_steps
        self._goals: Tensor | None = None
        self._first: Tensor | None = None  # (b,) env steps to go from each start

    def reset(self, goals: np.ndarray) -> None:
        """Begin b problems with goal frames uint8 (b, height, width, 3)."""
        self._goals, self._first = encode_frames(self.codec, goals, self.device), None
        if self.goal_steps is not None:
            self._first = torch.full((len(goals),), float(self.goal_steps))

    @torch.inference_mode()
    def __call__(self, history: History, part: np.ndarray | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (b', h, a) on the CPU of the actions of some problems, within the bounds.

        Args:
            history: of all problems, since their starts.
            part: which of them.
        """
        assert self._goals is not None, "reset the proposals before they are asked for"
        if self._first is None:
            starts = encode_frames(self.codec, history.frames[:, 0], self.device)
            self._first = self.actor.steps_to_go(starts, self._goals).float().cpu()
        done = (history.frames.shape[1] - 1) * self.bounds.block
        steps = (self._first[part] - done).clamp_min(LEAST_BLOCKS * self.bounds.block)
        seen = history.select(part, self.context)
        mean, std = self.actor.propose(
            encode_frames(self.codec, seen.frames, self.device),
            torch.from_numpy(seen.actions).float().to(self.device),
            self._goals[part],
            steps.to(self.device),
        )
        mean, std = (each[:, : self.horizon, : self.bounds.dim] for each in (mean, std))  # a model of several tasks says more numbers
        return self.bounds.clamp(mean.float().cpu()), self.spread * std.float().cpu()

    @torch.inference_mode()
    def steps_to_go(self, history: History, part: np.ndarray | slice = slice(None)) -> Tensor:
        """Return the env steps (b',), on the CPU, that the actor expects from the newest frames of some problems to their goals."""
        assert self._goals is not None, "reset the proposals before they are asked for"
        frames = encode_frames(self.codec, history.frames[part, -1], self.device)
        return self.actor.steps_to_go(frames, self._goals[part]).float().cpu()


class PolicyController:
    """Executes the mean of the proposals."""

    def __init__(self, proposals: Proposals, config: PolicyConfig, problems_at_once: int = 64) -> None:
        if config.replan_every > proposals.horizon:
            raise UserError(f"policy.replan_every is {config.replan_every}, above the {proposals.horizon} steps of a proposal")
        self.proposals, self.config, self.problems_at_once = proposals, config, problems_at_once

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        self.proposals.reset(goals)

    def act(self, history: History) -> np.ndarray:
        starts = range(0, len(history), self.problems_at_once)
        means = [self.proposals(history, slice(start, start + self.problems_at_once))[0] for start in starts]
        return torch.cat(means)[:, : self.config.replan_every].numpy()
