"""The learned model as a simulator: the codec encodes and decodes, `worldmodel.rollout` predicts."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.simulator import Codec, History
from worldmodel.codec.frames import decode_video, encode_frames


class LatentDynamics(Protocol):
    """What the simulator needs of a model: `worldmodel.rollout.Rollout`."""

    def encode(self, history: Tensor, actions: Tensor) -> Any:
        """Read latents (b, t, n, c) and actions (b, t - 1, a) into a cache that all candidates share."""

    def rollout(self, cache: Any, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """Predict latents (b, s, h, n, c) under candidates (b, s, h, a)."""


class LearnedSimulator:
    """The world model behind the `Simulator` protocol.

    Every rollout starts from the same seed, so that it is a function of its arguments alone: two candidates
    differ by their actions, not by luck, and a plan can be repeated.

    Args:
        dynamics: the model's rollout; its parameters lie on `device`.
        codec: the codec that the model was trained with.
        device: where to compute.
        seed: of the sampler's noise.
    """

    def __init__(self, dynamics: LatentDynamics, codec: Codec, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.dynamics, self.codec, self.device, self.seed = dynamics, codec, device, seed

    @torch.inference_mode()
    def encode(self, history: History) -> Any:
        """Compute the model's cache of the history's frames and actions."""
        latents = encode_frames(self.codec, history.frames, self.device)
        return self.dynamics.encode(latents, torch.from_numpy(history.actions).float().to(self.device))

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return encode_frames(self.codec, frames, self.device)

    @torch.inference_mode()
    def rollout(self, state: Any, candidates: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return self.dynamics.rollout(state, candidates.to(self.device), generator).float()

    def decode(self, latents: Tensor) -> np.ndarray:
        return decode_video(self.codec, latents)
