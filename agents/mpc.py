"""Receding-horizon control: plan, carry out the first steps, look again, plan again.

A controller is what an evaluation runs: `reset` with the goals of b problems, then `act` on the histories of
those that are still running. `MPCController` plans with any simulator; `RandomController` is the control that
must stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.objective import Objective
from worldmodel.agents.planner import ActionBounds, Planner, shift
from worldmodel.agents.simulator import History, Simulator
from worldmodel.errors import UserError


@dataclass(frozen=True)
class MPCConfig:
    """Settings of receding-horizon control."""

    replan_every: int = 4
    """Model steps of a plan that are carried out before the next plan."""
    context: int = 2
    """Newest frames that the simulator sees."""
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

    def act(self, history: History, rows: np.ndarray) -> np.ndarray:
        """Actions float32 (len(rows), r, a) of the next r model steps for the problems numbered `rows`.

        `history` has one entry for each of `rows`. r is the controller's own and always the same.
        """


class RandomController:
    """Actions drawn without looking.

    Args:
        bounds: of the actions.
        replan_every: model steps drawn at once.
        held: False draws every env action uniformly from the bounds; True draws one for the whole segment.
    """

    def __init__(self, bounds: ActionBounds, replan_every: int, held: bool = False) -> None:
        self.bounds, self.replan_every, self.held = bounds, replan_every, held
        self._rngs: list[np.random.Generator] = []

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, history: History, rows: np.ndarray) -> np.ndarray:
        steps = self.replan_every * self.bounds.block
        drawn = []
        for row in rows:
            size = (1 if self.held else steps, len(self.bounds.low))
            actions = self._rngs[row].uniform(self.bounds.low, self.bounds.high, size)
            drawn.append(np.broadcast_to(actions, (steps, size[1])).reshape(self.replan_every, -1))
        return np.stack(drawn).astype(np.float32)


class MPCController:
    """Plans in a simulator towards a goal frame."""

    def __init__(self, simulator: Simulator, planner: Planner, objective: Objective, config: MPCConfig) -> None:
        self.simulator, self.planner, self.objective, self.config = simulator, planner, objective, config
        self._goals: Tensor | None = None
        self._generators: list[torch.Generator] = []
        self._plans: dict[int, Tensor] = {}

    def reset(self, goals: np.ndarray, seeds: Sequence[int]) -> None:
        self._goals = self.simulator.encode_goal(goals)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._plans = {}

    def act(self, history: History, rows: np.ndarray) -> np.ndarray:
        size = self.config.problems_at_once
        parts = [
            self._act(history.select(slice(start, start + size), self.config.context), rows[start : start + size])
            for start in range(0, len(rows), size)
        ]
        return np.concatenate(parts)

    def _act(self, history: History, rows: np.ndarray) -> np.ndarray:
        assert self._goals is not None, "reset the controller before it acts"
        warm = [self._plans[row] for row in rows if row in self._plans]
        plan = self.planner.plan(
            self.simulator,
            self.simulator.encode(history),
            self.objective,
            self._goals[rows],
            [self._generators[row] for row in rows],
            torch.stack(warm) if self.config.warm_start and len(warm) == len(rows) else None,
        )
        if plan.actions.shape[1] < self.config.replan_every:
            raise UserError(f"replan_every is {self.config.replan_every}, above the plan's {plan.actions.shape[1]} steps")
        rest = shift(plan.actions, self.config.replan_every)
        self._plans.update(zip(rows.tolist(), rest, strict=True))
        return plan.actions[:, : self.config.replan_every].numpy()
