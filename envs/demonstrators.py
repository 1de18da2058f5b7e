"""Building blocks of the scripted policies: they look at true positions, never at pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from worldmodel.envs.contract import Policy, Task


def move_towards(position: np.ndarray, target: np.ndarray, reach: float, speed: float) -> np.ndarray:
    """Compute the velocity command that goes straight to a target and slows down near it.

    Args:
        position: (a,) now.
        target: (a,) wanted.
        reach: Distance that a command of length 1 covers in one step.
        speed: Largest length of the command, in (0, 1].

    Returns:
        float32 (a,) of length at most `speed`.
    """
    command = (target - position) / reach
    length = float(np.linalg.norm(command))
    return (command * min(1.0, speed / max(length, 1e-9))).astype(np.float32)


def through_door(position: np.ndarray, goal: np.ndarray, door_y: float, door_slack: float, clearance: float) -> np.ndarray:
    """Return the next way point (2,) toward a goal, in two rooms that a wall at x = 0 with one door divides.

    Args:
        position: (2,) now.
        goal: (2,) wanted in the end.
        door_y: Height of the door's center.
        door_slack: Distance from `door_y` within which the body fits through.
        clearance: Distance from the wall's plane at which the body is clear of it.
    """
    side = 1.0 if position[0] >= 0 else -1.0
    aligned, goal_aligned = (abs(point[1] - door_y) < door_slack for point in (position, goal))
    in_door = aligned and abs(position[0]) < clearance
    goal_in_door = goal_aligned and abs(goal[0]) < clearance
    if goal_in_door and aligned:
        return goal
    if not goal_in_door and side * goal[0] > 0:  # the same room: leave the door first, then go straight
        return np.array([side * 1.2 * clearance, position[1]]) if in_door else goal
    return np.array([(-side if aligned else side) * 1.2 * clearance, door_y])


def solves(task: Task, policy_of: Callable[[np.random.Generator], Policy], seed: int, options: dict[str, Any] | None = None) -> bool:
    """Test whether a policy reaches the goal of `reset(seed, options)` within `task.max_episode_steps`.

    No frame is drawn after the reset, so the policy must not look at `obs["pixels"]`.
    """
    obs, info = task.reset(seed=seed, options=options)
    policy = policy_of(np.random.default_rng(seed))
    for _ in range(task.max_episode_steps):
        task.advance(policy(obs, info))
        obs, info = obs | {"proprio": task.proprio()}, task.info()
        if info["success"]:
            return True
    return False
