"""A point in the plane as simulator, codec and world: latents are its position, one pixel holds it."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.protocol import Manifest, Problem
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import RolloutResult

BOUNDS = ActionBounds((-1.0, -1.0), (1.0, 1.0), block=2)
SPEED = 0.1


def to_frames(positions: np.ndarray) -> np.ndarray:
    """Positions (..., 2) in [-1, 1] -> frames uint8 (..., 1, 1, 3)."""
    pixels = np.zeros((*positions.shape[:-1], 1, 1, 3), np.uint8)
    pixels[..., 0, 0, :2] = np.round((positions + 1) * 100)
    return pixels


def to_positions(frames: np.ndarray) -> Tensor:
    """The inverse of `to_frames`, as latents (..., 1 token, 2 channels)."""
    return torch.from_numpy(frames[..., 0, :, :2].astype(np.float32) / 100 - 1)


class PointMass:
    """Each env action moves the point by `SPEED` times the action; `seen` records the candidates."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def encode(self, history: History) -> Tensor:
        return to_positions(history.frames[:, -1])[:, 0]  # (b, 2)

    def encode_goal(self, frames: np.ndarray) -> Tensor:
        return to_positions(frames)

    def rollout(self, state: Tensor, candidates: Tensor) -> Tensor:
        self.seen.append(candidates)
        moves = candidates.unflatten(-1, (BOUNDS.block, 2)).sum(dim=-2) * SPEED  # (b, s, h, 2)
        return (state[:, None, None] + moves.cumsum(dim=2))[..., None, :]

    def decode(self, latents: Tensor) -> np.ndarray:
        return to_frames(latents[..., 0, :].numpy())


def problem(starts: list[list[float]], goals: list[list[float]]) -> tuple[History, np.ndarray]:
    """A history of one frame for each start, and the goal frames."""
    frames = to_frames(np.array(starts))[:, None]
    return History(frames, np.zeros((len(starts), 0, BOUNDS.dim), np.float32)), to_frames(np.array(goals))


class PointCodec:
    """Latents of the frames above; a stand-in for a codec that sees the whole state."""

    def encode(self, frames: Tensor) -> Tensor:
        return rearrange(frames[:, :2] * 2.55 - 1, "b c 1 1 -> b 1 c")

    def goal_features(self, latents: Tensor) -> Tensor:
        return latents.flatten(-2) / SPEED

    def decode(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.pad(rearrange((latents + 1) / 2.55, "b 1 c -> b c 1 1"), (0, 0, 0, 0, 0, 1))


class PointWorkers:
    """`TaskWorkers` of the point: the world of the evaluation tests, success within 0.15 of the goal."""

    env_id, image_size, processes, block, action_dim = "toy/Point-v0", 1, 2, BOUNDS.block, BOUNDS.dim
    restorable = True

    def render(self, states, variations=None):
        return to_frames(states)

    def roll(self, states, actions, on_frames, variations=None, goal_states=None):
        moves = rearrange(actions, "b s h (k a) -> b s (h k) a", k=self.block) * SPEED
        path = states[:, None, None] + moves.cumsum(axis=2)
        after = path[:, :, self.block - 1 :: self.block]
        for b in range(len(states) if on_frames else 0):
            on_frames(b, slice(0, actions.shape[1]), to_frames(after[b]))
        distance = np.linalg.norm(path - (0 if goal_states is None else goal_states[:, None, None]), axis=-1)
        return RolloutResult(after, distance <= 0.15, distance)


class PointActor:
    """Knows the way: each env action goes as far as it can towards the goal; `seen` records what it was asked."""

    def __init__(self, horizon: int = 4, std: float = 0.3) -> None:
        self.horizon, self.std = horizon, std
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def propose(self, frames: Tensor, actions: Tensor, goal: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((frames, actions, goal, steps))
        left, taken = (goal - frames[:, -1])[:, 0] / SPEED, []
        for _ in range(self.horizon * BOUNDS.block):
            taken.append(left.clamp(-1, 1))
            left = left - taken[-1]
        mean = rearrange(torch.stack(taken, 1), "b (h k) a -> b h (k a)", k=BOUNDS.block)
        return mean, torch.full_like(mean, self.std)

    def steps_to_go(self, frames: Tensor, goal: Tensor) -> Tensor:
        return (goal - frames)[:, 0].abs().amax(dim=-1) / SPEED


class PointDynamics:
    """The point's motion as the rollout of a model."""

    def encode(self, latents: Tensor, actions: Tensor) -> Tensor:
        return latents[:, -1, 0]

    def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        moves = candidates.unflatten(-1, (BOUNDS.block, 2)).sum(dim=-2) * SPEED
        return (state[:, None, None] + moves.cumsum(dim=2))[..., None, :]


def manifest(starts: list[list[float]], goals: list[list[float]], budget: int = 16) -> Manifest:
    """Problems of the point."""
    problems = tuple(
        Problem(i, 0, 1, tuple(a), tuple(b), {}, float(np.linalg.norm(np.subtract(a, b))))
        for i, (a, b) in enumerate(zip(starts, goals, strict=True))
    )
    count = len(problems)
    return Manifest(PointWorkers.env_id, 1, "toy", "path", 10, budget, 0.0, 0.15, 0, count, 0, 0, problems)


def far_manifest(count: int = 12) -> Manifest:
    """From the middle to goals 0.7 away in every direction."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, count)
    goals = 0.7 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return manifest(np.zeros((count, 2)).tolist(), goals.tolist())
