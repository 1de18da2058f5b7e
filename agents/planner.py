"""What the planners share: action bounds, correlated noise, scoring of candidates, the record of a plan.

All planners work on b problems at once and on candidates (b, s, h, a), always clamped to the action bounds.
Noise is drawn on the CPU from generators that are passed in, so a plan is the same on every device; with one
generator per problem it does not depend on which other problems are planned beside it.

Independent noise per env step cancels out over a horizon and explores nothing. Noise here is an AR(1) process
over the env steps of the whole horizon, blocks included: `correlation` 0 is white, 1 holds one action
throughout. (iCEM, Pinneri et al. 2020, arXiv 2008.06389, uses power-law noise for the same reason; AR(1) has
unit variance at every step, and its one number reads as "how much of the previous action is kept".)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange, repeat
from gymnasium import spaces
from torch import Tensor

from worldmodel.agents.objective import Objective
from worldmodel.agents.simulator import Simulator
from worldmodel.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for all problems, or one for each."""


@dataclass(frozen=True)
class ActionBounds:
    """The action of one model step: `block` env actions laid end to end, each within the same bounds."""

    low: tuple[float, ...]
    """Smallest env action, one number per dimension."""
    high: tuple[float, ...]
    """Largest env action."""
    block: int = 1
    """Env steps per model step."""

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(f"low {self.low} and high {self.high} must have the same, non-zero length")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must be below high {self.high} in every dimension")
        if not np.isfinite([*self.low, *self.high]).all():
            raise ValueError(f"action bounds must be finite, got low {self.low}, high {self.high}")
        if self.block < 1:
            raise ValueError(f"block is {self.block}, must be at least 1")

    @staticmethod
    def of_box(space: spaces.Box, block: int = 1) -> "ActionBounds":
        """Take the bounds of an env's action space."""
        return ActionBounds(tuple(space.low.tolist()), tuple(space.high.tolist()), block)

    @property
    def dim(self) -> int:
        """Length a of a model step's action."""
        return len(self.low) * self.block

    @property
    def center(self) -> Tensor:
        """Middle of the range, (a,)."""
        return (torch.tensor(self.high) + torch.tensor(self.low)).div(2).repeat(self.block)

    @property
    def scale(self) -> Tensor:
        """Half of the range, (a,); noise of standard deviation 1 is multiplied by it."""
        return (torch.tensor(self.high) - torch.tensor(self.low)).div(2).repeat(self.block)

    def clamp(self, actions: Tensor) -> Tensor:
        """Clamp actions (..., a) to the bounds."""
        low, high = torch.tensor(self.low).repeat(self.block), torch.tensor(self.high).repeat(self.block)
        return torch.minimum(torch.maximum(actions, low), high)


@dataclass(frozen=True)
class Plan:
    """The answer of a planner for b problems."""

    actions: Tensor
    """(b, h, a) within the bounds."""
    costs: Tensor
    """(b,) cost that the simulator and the objective gave to `actions`."""
    first_costs: Tensor
    """(b,) mean cost of the first samples: how much the search has gained."""
    seconds: float
    """Wall time of the whole call."""
    candidates: int
    """Number of candidates that were rolled out for each problem."""


class Planner(Protocol):
    """A search over action sequences; see `random_shooting.py`, `cem.py`, `mppi.py`."""

    bounds: ActionBounds

    def plan(
        self,
        simulator: Simulator,
        state: Any,
        objective: Objective,
        goal: Tensor,
        generator: Generators,
        warm_start: Tensor | None = None,
        start_std: Tensor | None = None,
    ) -> Plan:
        """Return a plan for each problem of `state` (from `simulator.encode`).

        Args:
            simulator: predicts the candidates' futures.
            state: of b problems.
            objective: cost of futures; lower is better.
            goal: latents (b, n, c).
            generator: of the search noise, on the CPU.
            warm_start: (b, h, a) where to start the search; the middle of the bounds if None.
            start_std: (b, h, a) standard deviations of the first samples, in action units; the planner's own if None. With it the
                warm start is a proposal: it is a candidate, and it wins where no other is better.
        """


def correlated_noise(
    generator: Generators, problems: int, samples: int, horizon: int, bounds: ActionBounds, correlation: float
) -> Tensor:
    """Sample normal noise (b, s, h, a) of unit variance, an AR(1) process over the env steps of the horizon."""
    shape = (samples, horizon * bounds.block, len(bounds.low))
    if isinstance(generator, torch.Generator):
        white = torch.randn((problems, *shape), generator=generator)
    else:
        white = torch.stack([torch.randn(shape, generator=each) for each in generator])
    steps = [white[:, :, 0]]
    for i in range(1, shape[1]):
        steps.append(correlation * steps[-1] + (1 - correlation**2) ** 0.5 * white[:, :, i])
    return rearrange(torch.stack(steps, dim=2), "b s (h k) a -> b s h (k a)", h=horizon)


def start_of(
    bounds: ActionBounds, problems: int, horizon: int, std: float, warm_start: Tensor | None, start_std: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (b, h, a) of a search's first samples; `std` is in half ranges of the action."""
    for name, given in (("warm_start", warm_start), ("start_std", start_std)):
        if given is not None and given.shape != (problems, horizon, bounds.dim):
            raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {(problems, horizon, bounds.dim)}")
    center = repeat(bounds.center, "a -> b h a", b=problems, h=horizon).clone()
    mean = center if warm_start is None else bounds.clamp(warm_start)
    return mean, std * bounds.scale.expand_as(mean) if start_std is None else start_std


def place_of_start(start_std: Tensor | None) -> int:
    """Return the index of the warm start among the first candidates: of equal costs the first wins, so a proposal comes first."""
    return -1 if start_std is None else 0


def shift(plan: Tensor, steps: int) -> Tensor:
    """Return the rest of a plan (b, h, a) after `steps` model steps, its last action repeated to the old length."""
    steps = min(steps, plan.shape[1])
    return torch.cat([plan[:, steps:], plan[:, -1:].expand(-1, steps, -1)], dim=1)


class Search:
    """Scores candidates for one `plan` call and keeps the best of each problem and the count."""

    def __init__(self, simulator: Simulator, state: Any, objective: Objective, goal: Tensor) -> None:
        self.simulator, self.state, self.objective, self.goal = simulator, state, objective, goal
        self.started = time.perf_counter()
        self.candidates = 0
        self.best: tuple[Tensor, ...] | None = None  # (b, h, a) actions, (b,) their costs, (b,) by which they rank
        self.first_costs: Tensor | None = None

    def costs(self, candidates: Tensor, favor: float = 0.0) -> Tensor:
        """Compute the costs (b, s) on the CPU by which candidates (b, s, h, a) are ranked; `favor` is taken off that of the first."""
        costs = self.objective(self.simulator.rollout(self.state, candidates), self.goal).float().cpu()
        if costs.shape != candidates.shape[:2]:
            raise ValueError(f"the objective returned shape {tuple(costs.shape)}, expected {tuple(candidates.shape[:2])}")
        if not torch.isfinite(costs).all():
            raise UserError("a candidate's cost is not finite, the simulator predicts NaN or infinity: use another checkpoint")
        self.candidates += candidates.shape[1]
        ranked = torch.cat([costs[:, :1] - favor, costs[:, 1:]], dim=1)
        self._keep_best(candidates, costs, ranked)
        return ranked

    def _keep_best(self, candidates: Tensor, costs: Tensor, ranked: Tensor) -> None:
        rows = torch.arange(len(costs))
        index = ranked.argmin(dim=1)
        found = candidates[rows, index], costs[rows, index], ranked[rows, index]
        if self.best is None:
            self.best, self.first_costs = found, costs.mean(dim=1)
            return
        better = found[2] < self.best[2]
        actions, *numbers = zip(found, self.best, strict=True)
        self.best = (torch.where(better[:, None, None], *actions), *(torch.where(better, *pair) for pair in numbers))

    def result(self) -> Plan:
        """Return the best candidate so far for each problem."""
        assert self.best is not None and self.first_costs is not None
        return Plan(
            actions=self.best[0],
            costs=self.best[1],
            first_costs=self.first_costs,
            seconds=time.perf_counter() - self.started,
            candidates=self.candidates,
        )


def check_positive(config: object, *names: str) -> None:
    """Refuse a planner configuration in which one of the named numbers is not positive."""
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise UserError(f"{type(config).__name__}.{name} is {value}, must be positive")


def check_correlation(value: float) -> None:
    """Refuse a noise correlation outside [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"noise_correlation is {value}, must be between 0 (white) and 1 (one held action)")
