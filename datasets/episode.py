"""Records: an `Episode` is one recorded trajectory, a `Clip` is a window of one.

The index convention holds everywhere in this project: `actions[t]` leaves `frames[t]` and arrives at
`frames[t + 1]`, so an episode of T actions has T + 1 frames, and nothing is padded.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Episode:
    """One trajectory of T actions and T + 1 frames."""

    frames: np.ndarray
    """uint8 (T+1, H, W, 3)."""
    proprio: np.ndarray
    """float32 (T+1, p), what the robot feels of itself."""
    state: np.ndarray
    """float64 (T+1, n), the full physics state; `set_state` restores the simulation from one row."""
    features: np.ndarray
    """float32 (T+1, f), true physical variables of about [-1, 1]: what a probe looks for in a latent."""
    success: np.ndarray
    """bool (T+1,)."""
    captions: list[str]
    """T+1 sentences, each true of its frame."""
    questions: list[str]
    """T+1 questions, one drawn per frame."""
    answers: list[str]
    """T+1 answers to `questions`, from the true state."""
    actions: np.ndarray
    """float32 (T, a), within the bounds of the task's action space."""
    action_texts: list[str]
    """T action texts, the same actions in words."""
    seed: int
    """What `reset(seed=...)` was given."""
    policy: str
    """Name of the policy that acted."""
    variation: dict[str, Any]
    """Value of each factor of variation; JSON types only."""
    goal_state: np.ndarray
    """float64 (n,), the state the demonstrator was asked to reach."""

    def __post_init__(self) -> None:
        """Raises ValueError when an array has the wrong type, or when lengths do not fit T actions."""
        num_actions = len(self.actions)
        if num_actions < 1:
            raise ValueError("an episode needs at least one action, got none")
        for name, dtype, ndim in _ARRAYS:
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != ndim:
                raise ValueError(f"episode.{name} is {array.dtype} with {array.ndim} axes, expected {dtype} with {ndim}")
        for name in FRAME_FIELDS:
            if len(getattr(self, name)) != num_actions + 1:
                rows = len(getattr(self, name))
                raise ValueError(f"episode.{name} has {rows} rows, expected {num_actions + 1} ({num_actions} actions)")
        if len(self.action_texts) != num_actions:
            raise ValueError(f"episode.action_texts has {len(self.action_texts)} rows, expected {num_actions}")
        if self.frames.shape[-1] != 3:
            raise ValueError(f"episode.frames has shape {self.frames.shape}, expected (T+1, H, W, 3)")

    def __len__(self) -> int:
        """T, the number of actions."""
        return len(self.actions)


@dataclass(frozen=True, eq=False)
class Clip:
    """A window of t model steps of an episode; one model step is an action block of k environment actions."""

    frames: np.ndarray
    """uint8 (t+1, H, W, 3), every k-th frame."""
    actions: np.ndarray
    """float32 (t, k*a), the k actions of a block side by side, first action first."""
    action_texts: list[str]
    """t texts; the k texts of a block are joined by "; "."""
    start: int
    """Environment step of the first frame."""
    episode: int
    """Index of the episode in its file."""


_ARRAYS = (
    ("frames", np.uint8, 4),
    ("proprio", np.float32, 2),
    ("state", np.float64, 2),
    ("features", np.float32, 2),
    ("success", np.bool_, 1),
    ("actions", np.float32, 2),
    ("goal_state", np.float64, 1),
)
FRAME_FIELDS = ("frames", "proprio", "state", "features", "success", "captions", "questions", "answers")
"""Fields with T+1 rows."""


def same_episode(first: Episode, second: Episode) -> bool:
    """True when two episodes are equal bit for bit in every field."""
    for field in fields(Episode):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                return False
        elif a != b:
            return False
    return True
