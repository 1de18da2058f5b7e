"""Random shooting: draw candidates once, keep the best."""

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class RandomShootingConfig:
    """Settings of random shooting."""

    horizon: int = 5
    """Model steps looked ahead."""
    num_samples: int = 64
    """Candidates per problem."""
    std: float = 1.0
    """Standard deviation of the noise, in half ranges of the action."""
    noise_correlation: float = 0.9
    """How much of an env action is kept in the next one: 0 white, 1 held."""

    def __post_init__(self) -> None:
        check_positive(self, "horizon", "num_samples", "std")
        check_correlation(self.noise_correlation)


class RandomShooting:
    """The best of `num_samples` random candidates; the warm start is one of them."""

    def __init__(self, config: RandomShootingConfig, bounds: ActionBounds) -> None:
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
        noise = correlated_noise(generator, len(goal), config.num_samples, config.horizon, bounds, config.noise_correlation)
        mean, std = start_of(bounds, len(goal), config.horizon, config.std, warm_start, start_std)  # (b, h, a)
        around = mean if start_std is not None else bounds.center
        candidates = bounds.clamp(around.expand_as(mean)[:, None] + std[:, None] * noise)
        if warm_start is not None:
            candidates[:, place_of_start(start_std)] = mean
        search.costs(candidates)
        return search.result()
