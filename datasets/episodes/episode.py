"""Records: an `Episode` is one recorded trajectory, a `Clip` is a window of one.

The index convention holds everywhere in this project: `actions[t]` leaves `frames[t]` and arrives at
`frames[t + 1]`, so an episode of T actions has T + 1 frames, and nothing is padded.

A recorded step may hold a block of k environment actions (`CollectConfig.action_block`): T then counts blocks, a
row of `actions` is the k actions side by side, texts of the k actions are joined by "; ", and `reward` is the sum of their rewards.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Episode:
    """One trajectory of T actions (or action blocks) and T + 1 frames."""

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
    """float32 (T, k*a), within the bounds of the task's action space; the k actions of a block side by side."""
    action_texts: list[str]
    """T action texts, the same actions to three decimals."""
    action_words: list[str]
    """T action texts, the same actions in coarse words."""
    changes: list[str]
    """T sentences: what changed from frame t to frame t + 1."""
    reward: np.ndarray
    """float64 (T,), reward t is what `step` returned for action t, of a block the sum; NaN where nobody recorded it."""
    terminated: np.ndarray
    """bool (T,), whether `step` said so for action t, or for any action of a block. A recording may go on after that: tasks of this
    suite terminate at success and are played on."""
    truncated: np.ndarray
    """bool (T,), likewise. A recording that merely stops after its last action was not truncated by the environment."""
    seed: int
    """What `reset(seed=...)` was given."""
    policy: str
    """Name of the policy that acted."""
    variation: dict[str, Any]
    """Value of each factor of variation; JSON types only."""
    goal_state: np.ndarray
    """float64 (n,), the state the demonstrator was asked to reach."""
    goal_text: str
    """The goal as an instruction."""
    views: dict[str, np.ndarray] = field(default_factory=dict)
    """Camera -> uint8 (T+1, H, W, 3): what additional cameras saw."""

    def __post_init__(self) -> None:
        """Raise ValueError when an array has the wrong type, or when lengths do not fit T actions."""
        num_actions = len(self.actions)
        if num_actions < 1:
            raise ValueError("an episode needs at least one action, got none")
        for name, (dtype, ndim) in ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != ndim:
                raise ValueError(f"episode.{name} is {array.dtype} with {array.ndim} axes, expected {dtype} with {ndim}")
        for name in FRAME_FIELDS:
            if len(getattr(self, name)) != num_actions + 1:
                rows = len(getattr(self, name))
                raise ValueError(f"episode.{name} has {rows} rows, expected {num_actions + 1} ({num_actions} actions)")
        for name in (*OUTCOMES, *ACTION_TEXTS):
            if len(getattr(self, name)) != num_actions:
                raise ValueError(f"episode.{name} has {len(getattr(self, name))} rows, expected {num_actions}")
        if self.frames.shape[-1] != 3:
            raise ValueError(f"episode.frames has shape {self.frames.shape}, expected (T+1, H, W, 3)")
        for camera, view in self.views.items():
            if view.dtype != np.uint8 or view.shape != self.frames.shape:
                raise ValueError(f"episode.views[{camera!r}] is {view.dtype} {view.shape}, expected uint8 {self.frames.shape}")

    def __len__(self) -> int:
        """Return T, the number of actions."""
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
    action_words: list[str] = field(default_factory=list)
    """t texts, joined likewise: the same actions in coarse words."""
    changes: list[str] = field(default_factory=list)
    """t texts, joined likewise: what changed in each recorded step."""


ARRAYS: dict[str, tuple[type[np.generic], int]] = {
    "frames": (np.uint8, 4),
    "proprio": (np.float32, 2),
    "state": (np.float64, 2),
    "features": (np.float32, 2),
    "success": (np.bool_, 1),
    "actions": (np.float32, 2),
    "reward": (np.float64, 1),
    "terminated": (np.bool_, 1),
    "truncated": (np.bool_, 1),
    "goal_state": (np.float64, 1),
}
"""Type and number of axes of each array of an episode."""
FRAME_FIELDS = ("frames", "proprio", "state", "features", "success", "captions", "questions", "answers")
"""Fields with T+1 rows."""
ACTION_TEXTS = ("action_texts", "action_words", "changes")
"""Texts with T rows."""
NOT_RECORDED: dict[str, np.generic] = {"reward": np.float64(np.nan), "terminated": np.bool_(False), "truncated": np.bool_(False)}
"""What a step returns beside the observation, and what stands in its place where nobody recorded it. A reward of NaN says that; a flag
alone cannot."""
OUTCOMES = tuple(NOT_RECORDED)
"""Arrays with T rows beside `actions`."""


def not_recorded(num_actions: int) -> dict[str, np.ndarray]:
    """Make reward, terminated and truncated (T,) of T actions of which nobody recorded them."""
    return {name: np.full(num_actions, value) for name, value in NOT_RECORDED.items()}


def same_episode(first: Episode, second: Episode) -> bool:
    """Test whether two episodes are equal bit for bit in every field."""
    if first.views.keys() != second.views.keys():
        return False
    pairs = [(getattr(first, item.name), getattr(second, item.name)) for item in fields(Episode) if item.name != "views"]
    pairs += [(first.views[camera], second.views[camera]) for camera in first.views]
    return all(_same(a, b) for a, b in pairs)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)
