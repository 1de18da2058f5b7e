"""The one interface that planners use, and the weakest simulator that satisfies it.

A simulator answers "what would the next frames be if I did this?" in the codec's latents. Three exist: the
learned model (`learned_simulator.py`), MuJoCo itself (`oracle.py`) and, here, `CopyLastFrame`, which says that nothing
ever changes. Planners and the evaluator never ask which one they hold.

Axes: b problems (episodes planned at once), t context frames, s samples (candidates), h model steps, a action
of one model step (an action block: k env actions laid end to end), n tokens of a frame, c channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from worldmodel.codec.frames import FrameCodec, decode_video, encode_frames


@dataclass(frozen=True)
class History:
    """What has been seen so far in each of b problems, one model step apart; the newest frame is the last.

    `actions[:, i]` leaves `frames[:, i]` and arrives at `frames[:, i + 1]`.
    """

    frames: np.ndarray
    """uint8 (b, t, height, width, 3)"""
    actions: np.ndarray
    """float32 (b, t - 1, a)"""
    states: np.ndarray | None = None
    """float64 (b, state): the true physics state at the last frame; only the oracle reads it."""
    variations: Sequence[dict[str, Any]] | None = None
    """Factor values of each problem's episode; only the oracle reads them."""
    goal_states: np.ndarray | None = None
    """float64 (b, state): the true states of the goals; only the oracle with the true distance reads them."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (b, t, h, w, 3), got {self.frames.dtype} {self.frames.shape}")
        if self.actions.shape[:2] != (len(self.frames), self.frames.shape[1] - 1):
            raise ValueError(
                f"{self.frames.shape[1]} frames need {self.frames.shape[1] - 1} actions for each of "
                f"{len(self.frames)} problems, got actions of shape {self.actions.shape}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, rows: np.ndarray | slice, context: int | None = None) -> "History":
        """Select the given problems, with only the newest `context` frames (all of them if None)."""
        first = 0 if context is None else max(0, self.frames.shape[1] - context)
        index = np.arange(len(self))[rows]
        return History(
            frames=self.frames[index, first:],
            actions=self.actions[index, first:],
            states=None if self.states is None else self.states[index],
            variations=None if self.variations is None else [self.variations[i] for i in index],
            goal_states=None if self.goal_states is None else self.goal_states[index],
        )


class Simulator(Protocol):
    """Anything that can predict the latents of future frames for candidate actions."""

    def encode(self, history: History) -> Any:
        """Compute whatever `rollout` needs to know about b problems; done once, shared by all candidates."""

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        """Encode goal frames uint8 (b, height, width, 3) to latents (b, n, c)."""

    def rollout(self, state: Any, candidates: Tensor) -> Tensor:
        """Predict latents (b, s, h, n, c) float32 of the frames that candidates (b, s, h, a) float32 lead to."""

    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents (..., n, c) to frames uint8 (..., height, width, 3); for people, not for planning."""


class Codec(FrameCodec, Protocol):
    """The part of a codec that simulators use."""

    def goal_features(self, latents: Tensor) -> Tensor:
        """Map latents (..., n, c) to features (..., g), in which squared distance is meant to count steps."""


class CopyLastFrame:
    """A control: the world stands still, whatever is done.

    Every candidate then costs the same, so a planner over it executes one sample of its own proposal: this
    measures what the planner's noise reaches without any model.
    """

    def __init__(self, codec: Codec, device: torch.device | str = "cpu") -> None:
        self.codec, self.device = codec, device

    def encode(self, history: History) -> Tensor:
        """Encode the newest frame to latents (b, n, c)."""
        return encode_frames(self.codec, history.frames[:, -1], self.device)

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return encode_frames(self.codec, frames, self.device)

    def rollout(self, state: Tensor, candidates: Tensor) -> Tensor:
        """Repeat the newest frame at every step; a view, no memory is used for the copies."""
        samples, horizon = candidates.shape[1:3]
        return repeat(state, "b n c -> b s h n c", s=samples, h=horizon)

    def decode(self, latents: Tensor) -> np.ndarray:
        return decode_video(self.codec, latents)


class ShuffledActions:
    """A control: the same simulator, given the actions of another candidate.

    If planning with it works as well as with the simulator itself, the score does not come from the actions.
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def encode(self, history: History) -> Any:
        return self.simulator.encode(history)

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return self.simulator.encode_goal(frames)

    def rollout(self, state: Any, candidates: Tensor) -> Tensor:
        """Predict with the actions of the next candidate: sample s is given the actions of sample s + 1."""
        return self.simulator.rollout(state, candidates.roll(-1, dims=1))

    def decode(self, latents: Tensor) -> np.ndarray:
        return self.simulator.decode(latents)
