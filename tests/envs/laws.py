"""What the laws of the suite share: ways to drive a task, and its factors."""

from typing import Any

import numpy as np

from worldmodel.envs.mujoco_task import MujocoTask


def bang_bang(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Full actions held for 15 steps: they drive everything into walls and joint limits. (steps, size)."""
    return rng.choice([-1.0, 1.0], size=(steps // 15 + 1, size)).repeat(15, axis=0)[:steps]


def demonstration(task: MujocoTask, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States (steps + 1, n) and actions (steps, a) of the demonstrator from the current start."""
    obs, info = {"pixels": task.render(), "proprio": task.proprio()}, task.info()
    policy, states, actions = task.demonstrator(np.random.default_rng(seed)), [task.get_state()], []
    for _ in range(steps):
        actions.append(policy(obs, info))
        task.advance(actions[-1])
        obs, info = obs | {"proprio": task.proprio()}, task.info()
        states.append(info["state"])
    return np.stack(states), np.stack(actions)


def extremes(task: MujocoTask, name: str) -> tuple[Any, Any]:
    factor = task.factors[name]
    return (factor.choices[0], factor.choices[-1]) if factor.choices else (factor.low, factor.high)


def first_factor(task: MujocoTask, choices: bool) -> str:
    """The first factor with choices, or the first with an interval."""
    return next(name for name, factor in task.factors.items() if bool(factor.choices) == choices and not factor.integer)
