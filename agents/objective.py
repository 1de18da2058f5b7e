"""What a plan should achieve, as a cost of predicted latents.

An objective is any callable `(future (b, s, h, n, c), goal (b, n, c)) -> (b, s)`, lower is better. `GoalCost`
says how the distance of each predicted frame to the goal frame is measured and reduced over the horizon;
`make_objective` makes a callable of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from torch import Tensor

from worldmodel.agents.actor import Actor
from worldmodel.agents.simulator import Codec
from worldmodel.errors import UserError

Objective = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["final", "mean", "min", "min_with_time_penalty", "geometric"]
Space = Literal["auto", "slow_features", "latents", "steps_to_go"]

FRAMES_AT_ONCE = 2048
"""Frames that an actor judges at once; bounds memory."""


@dataclass(frozen=True)
class GoalCost:
    """Distance of predicted frames to the goal frame, over a horizon."""

    space: Space = "auto"
    """auto: steps_to_go where the model was trained to predict them, else slow_features. slow_features: mean squared distance in the
    codec's goal features, which falls on the way to the goal. latents: the same over all tokens and channels, which is flat far from
    the goal. steps_to_go: env steps to the goal as the model itself says."""
    reduction: Reduction = "min_with_time_penalty"
    """final: distance at the last step only. mean: average over the horizon. min: the nearest step.
    min_with_time_penalty: the nearest step, plus `time_penalty` times the average over the horizon of the nearest so far: of two
    plans that reach the goal the faster wins, yet a way around a wall beats standing still before it.
    geometric: an average in which step i counts `geometric_ratio` times as much as step i - 1."""
    time_penalty: float = 0.3
    """Of `min_with_time_penalty` only; 0 equals min, large values run straight at the goal."""
    floor: float = 0.0
    """Of steps_to_go only: as many env steps count as none. What a model says of the last few is too coarse to choose by."""
    geometric_ratio: float = 2.0
    """Of `geometric` only; 1 equals mean, large values approach final. Positive."""

    def __post_init__(self) -> None:
        for name, value, known in (("reduction", self.reduction, Reduction), ("space", self.space, Space)):
            if value not in get_args(known):
                raise UserError(f"unknown {name} '{value}': use {', '.join(get_args(known))}")
        if self.geometric_ratio <= 0 or self.time_penalty < 0:
            raise UserError(
                f"geometric_ratio is {self.geometric_ratio}, must be positive; "
                f"time_penalty is {self.time_penalty}, must not be negative"
            )
        if not self.floor >= 0:
            raise UserError(f"floor is {self.floor}, must not be negative")

    def reduce(self, error: Tensor) -> Tensor:
        """Reduce distances (b, s, h) to costs (b, s)."""
        match self.reduction:
            case "final":
                return error[..., -1]
            case "min":
                return error.min(dim=-1).values
            case "mean":
                return error.mean(dim=-1)
            case "min_with_time_penalty":
                nearest = error.cummin(dim=-1).values
                return nearest[..., -1] + self.time_penalty * nearest.mean(dim=-1)
        weights = self.geometric_ratio ** torch.arange(error.shape[-1], dtype=error.dtype, device=error.device)
        return error @ (weights / weights.sum())


def make_objective(config: GoalCost, codec: Codec, actor: Actor | None = None) -> Objective:
    """Build the objective that a configuration describes, for latents of this codec.

    Raises:
        UserError: steps to go are wanted, but there is no actor to predict them.
    """
    if config.space == "steps_to_go" or (config.space == "auto" and actor is not None):
        if actor is None:
            raise UserError("objective space steps_to_go needs a model that tells steps to go, and this one was not taught to")
        return _steps_to_go(config, actor)

    def objective(future: Tensor, goal: Tensor) -> Tensor:
        if config.space != "latents":
            future, goal = codec.goal_features(future), codec.goal_features(goal)
        else:
            future, goal = rearrange(future, "b s h n c -> b s h (n c)"), rearrange(goal, "b n c -> b (n c)")
        return config.reduce(goal_distance(future, goal))

    return objective


def _steps_to_go(config: GoalCost, actor: Actor) -> Objective:
    @torch.inference_mode()
    def objective(future: Tensor, goal: Tensor) -> Tensor:
        b, s, h = future.shape[:3]
        seen = future[:, : 1 if future.stride(1) == 0 else s, : 1 if future.stride(2) == 0 else h]  # a view of one frame is one frame
        goals = repeat(goal, "b n c -> (b s h) n c", s=seen.shape[1], h=seen.shape[2])
        pairs = zip(seen.flatten(0, 2).split(FRAMES_AT_ONCE), goals.split(FRAMES_AT_ONCE), strict=True)
        steps = torch.cat([actor.steps_to_go(frames, wanted).float() for frames, wanted in pairs])
        return config.reduce(steps.reshape(seen.shape[:3]).expand(b, s, h).clamp_min(config.floor))

    return objective


def goal_distance(future: Tensor, goal: Tensor) -> Tensor:
    """Compute the mean squared distance (b, s, h) of features (b, s, h, f) to the goal's (b, f)."""
    return (future - rearrange(goal, "b f -> b 1 1 f")).square().mean(dim=-1)
