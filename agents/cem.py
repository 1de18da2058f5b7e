"""The cross-entropy method: sample around a mean, refit the mean to the best samples, repeat.

With what made it sample-efficient in iCEM (Pinneri et al. 2020, arXiv 2008.06389): correlated noise, elites
that stay in the race in later iterations, the mean itself tried at the end, the best candidate ever seen
executed, a shifted warm start.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldmodel.agents.objective import Objective
from worldmodel.agents.planner import (
    ActionBounds,
    Generators,
    Plan,
    Search,
    check_correlation,
    check_positive,
    correlated_noise,
    place_of_start,
    start_of,
)
from worldmodel.agents.simulator import Simulator
from worldmodel.errors import UserError


@dataclass(frozen=True)
class CEMConfig:
    """Settings of the cross-entropy method."""

    horizon: int = 6
    """Model steps looked ahead."""
    num_samples: int = 12
    """Candidates per iteration and problem."""
    iterations: int = 2
    """Rounds of sampling and refitting."""
    num_elites: int = 2
    """Best candidates that the next mean and spread are fitted to; they stay in the race."""
    std: float = 1.0
    """Standard deviation of the first samples, in half ranges of the action."""
    min_std: float = 0.1
    """The spread never shrinks below this."""
    noise_correlation: float = 0.9
    """How much of an env action is kept in the next one: 0 white, 1 held."""
    margin: float = 0.0
    """Cost by which a candidate must be better than a proposal that the search starts from: the less, the more the simulator is
    trusted."""

    def __post_init__(self) -> None:
        check_positive(self, "horizon", "num_samples", "iterations", "num_elites", "std", "min_std")
        check_correlation(self.noise_correlation)
        if not self.margin >= 0:
            raise UserError(f"margin is {self.margin}, must not be negative")
        if self.num_elites > self.num_samples:
            raise UserError(f"num_elites {self.num_elites} is above num_samples {self.num_samples}")


class CEM:
    """Cross-entropy method over b problems at once."""

    def __init__(self, config: CEMConfig, bounds: ActionBounds) -> None:
        self.config, self.bounds = config, bounds

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
        config, bounds = self.config, self.bounds
        search = Search(simulator, state, objective, goal)
        mean, std = start_of(bounds, len(goal), config.horizon, config.std, warm_start, start_std)  # (b, h, a)
        pool, pool_costs = mean[:, None][:, :0], mean.new_zeros(len(goal), 0)  # elites so far: none
        for i in range(config.iterations):
            # sample
            noise = correlated_noise(generator, len(goal), config.num_samples, config.horizon, bounds, config.noise_correlation)
            candidates = bounds.clamp(mean[:, None] + std[:, None] * noise)
            if i == 0 and warm_start is not None:
                candidates[:, place_of_start(start_std)] = mean
            elif i > 0 and i == config.iterations - 1:
                candidates[:, -1] = mean
            # rank, together with the elites so far
            pool = torch.cat([pool, candidates], dim=1)
            favor = config.margin if i == 0 and start_std is not None else 0.0  # the proposal is the first candidate
            pool_costs = torch.cat([pool_costs, search.costs(candidates, favor)], dim=1)
            # refit
            index = pool_costs.topk(config.num_elites, dim=1, largest=False).indices
            rows = torch.arange(len(goal))[:, None]
            pool, pool_costs = pool[rows, index], pool_costs[rows, index]
            mean = pool.mean(dim=1)
            std = torch.maximum(pool.std(dim=1, correction=0), config.min_std * bounds.scale)
        return search.result()
