"""How a controller did on the problems of a manifest.

Two questions are asked of each problem. Touched (`success`): was the goal met at some env step of the budget? Held: was it met at the
end of the whole budget, the controller acting on to the end? Whoever runs through goals touches what he does not hold.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.agents.intervals import wilson_of_shares


@dataclass(frozen=True)
class Outcomes:
    """What came of each problem in one stream; lists are in the manifest's order."""

    success: list[bool]
    """The goal was met at some env step within the budget."""
    held: list[bool]
    """The goal was met at the end of the whole budget."""
    steps_to_success: list[int | None]
    """Env steps until the goal was first met."""
    final_distance: list[float]
    """To the goal at the end, task units."""
    closest_distance: list[float]
    """The smallest distance on the way."""


@dataclass(frozen=True)
class Score:
    """One controller on one manifest, in one stream of random numbers or several."""

    name: str
    """Of the controller."""
    streams: list[Outcomes]
    """The same problems, each time with other random numbers of the controller; at least one."""
    plans: int
    """Plans made: one for each problem, observation and stream."""
    seconds_per_plan: float
    """Wall time of choosing actions, divided by `plans`; many problems are planned together."""
    seconds_per_action: float
    """The same divided by the env actions that were carried out."""
    seconds: float
    """Wall time of everything."""
    episodes: list[int] = field(default_factory=list)
    """Which episode each problem is of: problems of one episode are alike. Without, none are."""
    frames: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    """uint8 (t, height, width, 3) of the first problems in the first stream, one frame per model step."""

    @property
    def success(self) -> list[float]:
        """Of each problem, the share of the streams in which its goal was touched."""
        return np.mean([stream.success for stream in self.streams], axis=0).tolist()

    @property
    def held(self) -> list[float]:
        """Of each problem, the share of the streams in which its goal was held."""
        return np.mean([stream.held for stream in self.streams], axis=0).tolist()

    @property
    def final_distance(self) -> list[float]:
        """Of each problem, to its goal at the end, task units; the mean of the streams."""
        return np.mean([stream.final_distance for stream in self.streams], axis=0).tolist()

    @property
    def success_rate(self) -> float:
        """Share of problems touched."""
        return float(np.mean(self.success))

    @property
    def held_rate(self) -> float:
        """Share of problems held."""
        return float(np.mean(self.held))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `success_rate`, clustered by episode."""
        return wilson_of_shares(self.success, len(self.streams), self.episodes or None)

    @property
    def held_interval(self) -> tuple[float, float]:
        """95 % interval of `held_rate`, clustered by episode."""
        return wilson_of_shares(self.held, len(self.streams), self.episodes or None)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the frames, with the rates and intervals that follow."""
        return {
            "name": self.name,
            "success_rate": self.success_rate,
            "interval_95": list(self.interval),
            "held_rate": self.held_rate,
            "held_interval_95": list(self.held_interval),
            "mean_final_distance": float(np.mean(self.final_distance)),
            "episodes": len(set(self.episodes)) or len(self.success),
            "plans": self.plans,
            "seconds_per_plan": self.seconds_per_plan,
            "seconds_per_action": self.seconds_per_action,
            "seconds": self.seconds,
            "streams": [vars(stream) for stream in self.streams],
        }
