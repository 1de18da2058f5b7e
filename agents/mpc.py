"""Receding-horizon control: plan, execute the first steps, observe, plan again.

A controller is what an evaluation runs: `reset` with the goals of b problems, then `act` on their histories until the budget is spent.
`MPCController` plans with any simulator; `RandomController` is the control that must stand beside it; `PolicyController` (`policy.py`)
does not plan at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.objective import Objective
from worldmodel.agents.planner import ActionBounds, Planner, shift
from worldmodel.agents.policy import Proposals
from worldmodel.agents.simulator import History, Simulator
from worldmodel.errors import UserError


@dataclass(frozen=True)
class MPCConfig:
    """Settings of receding-horizon control."""

    replan_every: int = 1
    """Model steps of a plan that are carried out before the next plan. The next one starts from the rest of the last, so looking often
    is worth more than searching long."""
    context: int = 2
    """Newest frames that simulator and actor see, with the actions carried out between them."""
    warm_start: bool = True
    """Start each search from the rest of the last plan."""
    problems_at_once: int = 64
    """Problems planned in one batch; less needs less memory."""

    def __post_init__(self) -> None:
        for name in ("replan_every", "context", "problems_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")


class Controller(Protocol):
    """Chooses actions for many problems at once."""

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        """Begin b problems with goal frames uint8 (b, height, width, 3) and one seed each."""

    def act(self, history: History) -> np.ndarray:
        """Choose actions float32 (b, r, a) of the next r model steps; r is the controller's own and always the same.

        `history` is all that the b problems of `reset` have seen and done since their starts.
        """


class RandomController:
    """Actions drawn at random, whatever the frames show.

    Args:
        bounds: of the actions.
        replan_every: model steps drawn at once.
        action_repeat: False draws every env action uniformly from the bounds; True draws one for the whole segment.
    """

    def __init__(self, bounds: ActionBounds, replan_every: int, action_repeat: bool = False) -> None:
        self.bounds, self.replan_every, self.action_repeat = bounds, replan_every, action_repeat
        self._rngs: list[np.random.Generator] = []

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, history: History) -> np.ndarray:
        steps = self.replan_every * self.bounds.block
        drawn = []
        for rng in self._rngs:
            size = (1 if self.action_repeat else steps, len(self.bounds.low))
            actions = rng.uniform(self.bounds.low, self.bounds.high, size)
            drawn.append(np.broadcast_to(actions, (steps, size[1])).reshape(self.replan_every, -1))
        return np.stack(drawn).astype(np.float32)


class CountingSimulator:
    """A simulator that reports how many futures it is asked for, so that a progress bar moves during a long search."""

    def __init__(self, simulator: Simulator, on_futures: Callable[[int], object]) -> None:
        self.simulator, self.on_futures = simulator, on_futures

    def encode(self, history: History) -> Any:
        return self.simulator.encode(history)

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return self.simulator.encode_goal(frames)

    def rollout(self, state: Any, candidates: Tensor) -> Tensor:
        futures = self.simulator.rollout(state, candidates)
        self.on_futures(candidates.shape[0] * candidates.shape[1])
        return futures

    def decode(self, latents: Tensor) -> np.ndarray:
        return self.simulator.decode(latents)


class MPCController:
    """Plans in a simulator toward a goal frame.

    Args:
        simulator: predicts.
        planner: searches.
        objective: cost of what is predicted.
        config: how much of a plan is carried out.
        proposals: where each search starts and how wide, instead of the rest of the last plan.
        near: env steps to the goal, as the proposals' actor tells them, up to which a proposal is carried out without a search.
    """

    def __init__(
        self,
        simulator: Simulator,
        planner: Planner,
        objective: Objective,
        config: MPCConfig,
        proposals: Proposals | None = None,
        near: float = 0.0,
    ) -> None:
        self.simulator, self.planner, self.objective, self.config = simulator, planner, objective, config
        self.proposals, self.near = proposals, near
        self.on_futures: Callable[[int], object] | None = None  # called with the number of futures evaluated since
        self._goals: Tensor | None = None
        self._generators: list[torch.Generator] = []
        self._rest: Tensor | None = None  # (b, h, a) what the last plans have left

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        self._goals = self.simulator.encode_goal(goals)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._rest = None
        if self.proposals is not None:
            self.proposals.reset(goals)

    def act(self, history: History) -> np.ndarray:
        size, every, rows = self.config.problems_at_once, self.config.replan_every, np.arange(len(history))
        plans = torch.cat([self._plan(history, rows[start : start + size]) for start in range(0, len(rows), size)])
        if plans.shape[1] < every:
            raise UserError(f"replan_every is {every}, above the plan's {plans.shape[1]} steps")
        self._rest = shift(plans, every)
        return plans[:, :every].numpy()

    def _plan(self, history: History, rows: np.ndarray) -> Tensor:
        """Make plans (b', h, a) for some of the problems: searched for, but near the goal as they are proposed."""
        if self.proposals is None:
            return self._search(history, rows, self._rest[rows] if self.config.warm_start and self._rest is not None else None, None)
        proposed, spread = self.proposals(history, rows)
        far = np.ones(len(rows), bool)
        if self.near:
            far = (self.proposals.steps_to_go(history, rows) > self.near).numpy()
        plans = proposed.clone()
        if far.any():
            plans[far] = self._search(history, rows[far], proposed[far], spread[far])
        return plans

    def _search(self, history: History, rows: np.ndarray, start: Tensor | None, spread: Tensor | None) -> Tensor:
        """Search for plans (b', h, a) of some of the problems."""
        assert self._goals is not None, "reset the controller before it acts"
        return self.planner.plan(
            self.simulator if self.on_futures is None else CountingSimulator(self.simulator, self.on_futures),
            self.simulator.encode(history.select(rows, self.config.context)),
            self.objective,
            self._goals[rows],
            [self._generators[row] for row in rows],
            start,
            spread,
        ).actions
