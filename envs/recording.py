"""How a task is best recorded, and which problems are worth asking about it; each task says so in its own file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

WANDER: Mapping[str, float] = {"demonstrator": 0.1, "noisy": 0.35, "smooth": 0.45, "random": 0.1}
"""Where the body itself has the goal, it goes everywhere by itself (a demonstrator alone stands at its goal most of the time)."""
HANDLE: Mapping[str, float] = {"play": 0.5, "noisy": 0.25, "smooth": 0.15, "random": 0.1}
"""Where an object has the goal, chance seldom moves it: half of the episodes chase goals, one after another."""
BLIND: Mapping[str, float] = {"smooth": 0.7, "random": 0.3}
"""Where there is no demonstrator."""


@dataclass(frozen=True)
class Recording:
    """Defaults of recording and of problems."""

    policies: Mapping[str, float] = field(default_factory=lambda: WANDER)
    """Who plays, by share of the episodes."""
    episodes: int = 3000
    """Episodes to record."""
    max_steps: int = 40
    """Environment actions per episode."""
    variation: tuple[str, ...] = ()
    """Factors of variation to sample in each episode."""
    action_block: int = 3
    """Environment actions per step of a model."""
    goal_offset: int = 25
    """Environment actions between a start and a goal on its path."""
    budget: int = 50
    """Environment actions in which a controller should reach such a goal."""
    min_distance: float = 3.0
    """Success thresholds that a start and its goal must be apart."""
