"""MuJoCo itself as a simulator: the upper bounds that every learned model is compared with.

`OracleSimulator` restores the true state, carries candidates out with the true physics, renders the frames and encodes them with the
same codec, so that planner, objective and representation are the same as the learned model's and only the dynamics differ.
`TrueDistance` tells the true distance to the goal instead of frames, so that the objective is true as well and only the search is
left to fail.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.agents.objective import GoalCost, Objective
from worldmodel.agents.simulator import Codec, History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.codec.frames import decode_video, encode_frames


@dataclass(frozen=True)
class TrueStates:
    """What the oracle keeps of a history."""

    states: np.ndarray
    """float64 (b, state)"""
    variations: list[dict] | None
    """Factor values of each problem."""
    goals: np.ndarray | None = None
    """float64 (b, state), the goals' states."""


class OracleSimulator:
    """True physics and true frames behind the `Simulator` protocol.

    Args:
        workers: processes of the task; the caller closes them.
        codec: encodes the rendered frames.
        device: where the codec lies.
        jump: model steps from one frame that is seen to the next, as in the rollout of the model beside it.
    """

    def __init__(self, workers: TaskWorkers, codec: Codec, device: torch.device | str = "cpu", jump: int = 1) -> None:
        self.workers, self.codec, self.device, self.jump = workers, codec, device, jump

    def encode(self, history: History) -> TrueStates:
        """Return the true states; a history without them is refused."""
        return _true_states(history)

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return encode_frames(self.codec, frames, self.device)

    def rollout(self, state: TrueStates, candidates: Tensor) -> Tensor:
        """Encode true futures (b, s, h, n, c), each chunk while the workers render the next; with jumps the frames after each of them.

        Torch leaves the workers their cores meanwhile: threads that wait for each other on a busy core are many times
        slower than one thread.
        """
        latents: dict[tuple[int, int], Tensor] = {}
        ends = [min(start + self.jump, candidates.shape[2]) - 1 for start in range(0, candidates.shape[2], self.jump)]

        def encode(problem: int, samples: slice, frames: np.ndarray) -> None:
            latents[problem, samples.start] = encode_frames(self.codec, frames[:, ends], self.device)

        actions = candidates.cpu().numpy().astype(np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads - self.workers.processes))
        try:
            self.workers.roll(state.states, actions, encode, state.variations)
        finally:
            torch.set_num_threads(threads)
        return torch.cat([latents[key] for key in sorted(latents)]).unflatten(0, candidates.shape[:2])

    def decode(self, latents: Tensor) -> np.ndarray:
        return decode_video(self.codec, latents)


class TrueDistance:
    """True physics, and the true distance to the goal in the place of latents: one token, one channel.

    Args:
        workers: processes of the task; the caller closes them.
    """

    def __init__(self, workers: TaskWorkers) -> None:
        self.workers = workers

    def encode(self, history: History) -> TrueStates:
        """Return the true states and goals; a history without them is refused."""
        states = _true_states(history)
        if states.goals is None:
            raise ValueError("the true distance needs History.goal_states, the goals' physics states")
        return states

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        """Return zeros (b, 1, 1): the goal is at distance 0 from itself."""
        return torch.zeros(len(frames), 1, 1)

    def rollout(self, state: TrueStates, candidates: Tensor) -> Tensor:
        """Compute distances (b, s, h, 1, 1) in task units after each model step."""
        actions = candidates.cpu().numpy().astype(np.float32)
        rolled = self.workers.roll(state.states, actions, None, state.variations, state.goals)
        distance = rolled.distance[..., self.workers.block - 1 :: self.workers.block]
        return torch.from_numpy(distance).float()[..., None, None]

    def decode(self, latents: Tensor) -> np.ndarray:
        """Raise an error: a distance cannot be decoded to a frame."""
        raise NotImplementedError("the true distance has no frames")


def true_distance_objective(config: GoalCost) -> Objective:
    """Build the reduction of an objective over the distances that `TrueDistance` returns."""

    def objective(future: Tensor, goal: Tensor) -> Tensor:
        return config.reduce(future[..., 0, 0])

    return objective


def _true_states(history: History) -> TrueStates:
    if history.states is None:
        raise ValueError("the oracle needs History.states, the true physics states")
    variations = None if history.variations is None else list(history.variations)
    return TrueStates(history.states, variations, history.goal_states)
