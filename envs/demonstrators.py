"""Building blocks of the scripted policies: they look at true positions, never at pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from worldmodel.envs.task import Policy, Task


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
