"""MuJoCo itself as a simulator: the upper bound that stands beside every learned model.

It restores the true state, carries candidates out with the true physics, renders the frames and encodes them
with the same codec, so that planner, objective and representation are the same as the learned model's and
only the dynamics differ.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.simulator import Codec, History, decode_latents, encode_frames
from worldmodel.agents.workers import TaskWorkers


@dataclass(frozen=True)
class TrueStates:
    """What the oracle remembers of a history."""

    states: np.ndarray
    """float64 (b, state)"""
    variations: list[dict] | None
    """Factor values of each problem."""


class OracleSimulator:
    """True physics and true frames behind the `Simulator` protocol.

    Args:
        workers: processes of the task; the caller closes them.
        codec: encodes the rendered frames.
        device: where the codec lies.
    """

    def __init__(self, workers: TaskWorkers, codec: Codec, device: torch.device | str = "cpu") -> None:
        self.workers, self.codec, self.device = workers, codec, device

    def encode(self, history: History) -> TrueStates:
        """The true states; a history without them is refused."""
        if history.states is None:
            raise ValueError("the oracle needs History.states, the true physics states")
        return TrueStates(history.states, None if history.variations is None else list(history.variations))

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return encode_frames(self.codec, frames, self.device)

    def rollout(self, state: TrueStates, candidates: Tensor) -> Tensor:
        """True futures, encoded while the workers render the next ones.

        Torch leaves the workers their cores meanwhile: threads that wait for each other on a busy core are many times
        slower than one thread.
        """
        latents: dict[tuple[int, int], Tensor] = {}

        def encode(problem: int, samples: slice, frames: np.ndarray) -> None:
            latents[problem, samples.start] = encode_frames(self.codec, frames, self.device)

        actions = candidates.cpu().numpy().astype(np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads - self.workers.processes))
        try:
            self.workers.roll(state.states, actions, encode, state.variations)
        finally:
            torch.set_num_threads(threads)
        return torch.cat([latents[key] for key in sorted(latents)]).unflatten(0, candidates.shape[:2])

    def decode(self, latents: Tensor) -> np.ndarray:
        return decode_latents(self.codec, latents)
