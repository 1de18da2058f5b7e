"""What a plan should achieve, as a cost of predicted latents.

An objective is any callable `(future (b, s, h, n, c), goal (b, n, c)) -> (b, s)`, lower is better. `GoalCost`
compares each predicted frame with the goal frame in the codec's latents and reduces over the horizon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import reduce
from torch import Tensor

from worldmodel.errors import UserError

Objective = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["final", "mean", "min", "soonest", "weighted"]


@dataclass(frozen=True)
class GoalCost:
    """Mean squared distance of the predicted latents to the goal's, over tokens and channels."""

    reduction: Reduction = "soonest"
    """final: distance at the last step only. mean: average over the horizon. min: the nearest step.
    soonest: average of the nearest distance so far, so that of two plans that reach the goal the faster one
    wins. weighted: an average in which step i counts `growth` times as much as step i - 1."""
    growth: float = 2.0
    """Of `weighted` only; 1 equals mean, large values approach final. Positive."""

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            raise UserError(f"unknown reduction '{self.reduction}': use {', '.join(get_args(Reduction))}")
        if self.growth <= 0:
            raise UserError(f"growth is {self.growth}, must be positive")

    def __call__(self, future: Tensor, goal: Tensor) -> Tensor:
        """Costs (b, s) of futures (b, s, h, n, c) for goals (b, n, c)."""
        error = goal_distance(future, goal)
        match self.reduction:
            case "final":
                return error[..., -1]
            case "min":
                return error.min(dim=-1).values
            case "mean":
                return error.mean(dim=-1)
            case "soonest":
                return error.cummin(dim=-1).values.mean(dim=-1)
        weights = self.growth ** torch.arange(error.shape[-1], dtype=error.dtype, device=error.device)
        return error @ (weights / weights.sum())


def goal_distance(future: Tensor, goal: Tensor) -> Tensor:
    """Distance (b, s, h) of each predicted frame (b, s, h, n, c) to the goal (b, n, c)."""
    return reduce((future - goal[:, None, None]).square(), "b s h n c -> b s h", "mean")
