"""Who plays while episodes are recorded: scripted, random and trained policies, and their shares of the episodes."""

import difflib
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from worldmodel.envs.recording import WANDER
from worldmodel.errors import UserError

if TYPE_CHECKING:  # the worker processes import it when they make the task
    from worldmodel.envs.task import Policy, Task

POLICIES: dict[str, str] = {
    "random": "every action uniform and independent",
    "smooth": "random actions that change slowly (autoregressive noise): goes far, with long motions",
    "demonstrator": "solves the task by looking at the true state",
    "noisy": "the demonstrator with Gaussian noise on every action; wanders like `smooth` once the task is solved",
    "play": "the demonstrator chases goals of its own, a new one whenever it got there or lost patience",
}
"""What the policies do that need no file."""
SB3 = "sb3:"
"""Prefix of the policy that a Stable-Baselines3 file holds: `sb3:<file>`."""
DEFAULT_POLICIES: dict[str, float] = dict(WANDER)
"""Shares that are recorded when neither the user nor the task says."""

PLAY_PATIENCE = (10, 30)
"""Least and most steps that `play` spends on one goal."""


def check_policies(shares: Mapping[str, float]) -> None:
    """Refuse shares that cannot be drawn from, or that name a policy, file or package that is not there, with a UserError."""
    for name, share in shares.items():
        if name.startswith(SB3):
            if not policy_file(name).is_file():
                raise UserError(f"policy {name}: no such file {policy_file(name)}")
            if importlib.util.find_spec("stable_baselines3") is None:
                raise UserError(f"policy {name} needs the package stable-baselines3: pip install 'worldmodel[sb3]'")
        elif name not in POLICIES:
            close = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"unknown policy {name!r}: expected {', '.join(POLICIES)} or {SB3}<file>{hint}")
        if not (math.isfinite(share) and share >= 0):
            raise UserError(f"policy share {name}={share} must be a number of at least 0")
    if not any(shares.values()):
        raise UserError("all policy shares are 0; give at least one of " + ", ".join(shares or POLICIES))


def policy_file(name: str) -> Path:
    """Return the file of a policy `sb3:<file>`."""
    return Path(name.removeprefix(SB3))


def draw_policy(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draw the name of one policy; the order of `shares` does not matter."""
    names = sorted(shares)
    weights = np.array([shares[name] for name in names], np.float64)
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def make_policy(name: str, task: "Task", rng: np.random.Generator, noise: float) -> "Policy":
    """Make a policy for one episode.

    Args:
        name: One of `POLICIES`, or `sb3:<file>`.
        task: Gives the spaces, the demonstrator and the goals.
        rng: The only source of randomness of the policy.
        noise: Standard deviation of the noise of `noisy`, in units of half the action range.

    Raises:
        UserError: no such policy; the file does not fit the task; Stable-Baselines3 is not installed; the task has no demonstrator.
    """
    space = task.action_space
    assert isinstance(space, spaces.Box), f"a task has a Box of actions, got {space}"
    low, high = space.low, space.high
    if name == "random":
        return lambda obs, info: low + (high - low) * rng.random(low.shape, np.float32)
    if name == "smooth":
        return _smooth(rng, low, high)
    if name == "demonstrator":
        return task.demonstrator(rng)
    if name == "noisy":
        return _noisy(task.demonstrator(rng), rng, low, high, noise)
    if name == "play":
        return _play(task, rng)
    check_policies({name: 1.0})
    if name.startswith(SB3):
        from worldmodel.datasets.collection.sb3_policy import sb3_policy  # needs torch, which takes a second to import

        return sb3_policy(policy_file(name), task, rng)
    raise AssertionError(f"policy {name} is listed but not made")


def _smooth(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, correlation: float = 0.9) -> "Policy":
    """Make first-order autoregressive noise of standard deviation 0.6 of half the range, cut at the bounds."""
    centre, half = (high + low) / 2, (high - low) / 2
    value = rng.normal(size=low.shape)

    def act(obs: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        nonlocal value
        action = np.clip(centre + half * 0.6 * value, low, high).astype(np.float32)
        value = correlation * value + math.sqrt(1 - correlation**2) * rng.normal(size=low.shape)
        return action

    return act


def _noisy(demonstrator: "Policy", rng: np.random.Generator, low: np.ndarray, high: np.ndarray, noise: float) -> "Policy":
    wander = _smooth(rng, low, high)
    solved = False

    def act(obs: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        nonlocal solved
        solved = solved or bool(info["success"])
        if solved:
            return wander(obs, info)
        action = demonstrator(obs, info) + noise * (high - low) / 2 * rng.normal(size=low.shape)
        return np.clip(action, low, high).astype(np.float32)

    return act


def _play(task: "Task", rng: np.random.Generator) -> "Policy":
    goal_state: np.ndarray | None = None
    demonstrator = task.demonstrator(rng)
    steps_left = 0

    def act(obs: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        nonlocal goal_state, demonstrator, steps_left
        state = info["state"]
        if goal_state is None or steps_left == 0 or task.is_success(state, goal_state):
            goal_state = task.sample_goal(rng, state)
            demonstrator = task.demonstrator(rng)  # a demonstrator may remember how far it got with its goal
            steps_left = int(rng.integers(PLAY_PATIENCE[0], PLAY_PATIENCE[1] + 1))
        steps_left -= 1
        return demonstrator(obs, info | {"goal_state": goal_state, "success": False})

    return act
