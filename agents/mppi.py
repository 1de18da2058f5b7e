"""Model-predictive path integral control: every elite pulls the mean with a weight that falls with its cost.

The form of TD-MPC2 (Hansen et al. 2024, arXiv 2310.16828): a few iterations, a softmax over the elites, the
spread refitted with the same weights. The temperature is in standard deviations of the elites' costs, so that
it does not depend on the scale of the codec's latents.
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
class MPPIConfig:
    """Settings of MPPI."""

    horizon: int = 5
    """Model steps looked ahead."""
    num_samples: int = 32
    """Candidates per iteration and problem."""
    iterations: int = 2
    """Rounds of sampling and averaging."""
    num_elites: int = 8
    """Best candidates that take part in the average."""
    temperature: float = 0.5
    """In standard deviations of the elites' costs: small values trust the best candidate only."""
    std: float = 1.0
    """Standard deviation of the first samples, in half ranges of the action."""
    min_std: float = 0.1
    """The spread never shrinks below this."""
    noise_correlation: float = 0.9
    """How much of an env action is kept in the next one: 0 white, 1 held."""

    def __post_init__(self) -> None:
        check_positive(self, "horizon", "num_samples", "iterations", "num_elites", "temperature", "std", "min_std")
        check_correlation(self.noise_correlation)
        if self.num_elites > self.num_samples:
            raise UserError(f"num_elites {self.num_elites} is above num_samples {self.num_samples}")


class MPPI:
    """Path integral control over b problems at once; the best candidate seen is the plan."""

    def __init__(self, config: MPPIConfig, bounds: ActionBounds) -> None:
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
        for i in range(config.iterations):
            # sample
            noise = correlated_noise(generator, len(goal), config.num_samples, config.horizon, bounds, config.noise_correlation)
            candidates = bounds.clamp(mean[:, None] + std[:, None] * noise)
            if i == 0 and warm_start is not None:
                candidates[:, place_of_start(start_std)] = mean
            elif i > 0 and i == config.iterations - 1:
                candidates[:, -1] = mean
            # weigh
            costs, index = search.costs(candidates).topk(config.num_elites, dim=1, largest=False)
            elites = candidates[torch.arange(len(goal))[:, None], index]  # (b, e, h, a)
            spread = costs.std(dim=1, keepdim=True, correction=0).clamp_min(1e-12)
            weights = torch.softmax(-(costs - costs[:, :1]) / (config.temperature * spread), dim=1)
            weights = weights[:, :, None, None]
            # average
            mean = (weights * elites).sum(dim=1)
            variance = (weights * (elites - mean[:, None]).square()).sum(dim=1)
            std = torch.maximum(variance.sqrt(), config.min_std * bounds.scale)
        return search.result()
