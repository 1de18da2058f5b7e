"""A controller drives one task, from the state in which it is to the end of a budget."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.agents.mpc import Controller
from worldmodel.agents.simulator import History
from worldmodel.envs import full_id
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task


@dataclass(frozen=True)
class PlanResult:
    """What came of a plan that was carried out."""

    frames: np.ndarray
    """uint8 (t, height, width, 3): the start, then one frame after each model step."""
    actions: np.ndarray
    """float32 (n, a): the environment actions that were carried out."""
    goal: np.ndarray
    """uint8 (height, width, 3)."""
    touched: bool | None
    """Whether the goal was met after some environment action; None for a goal of which the frame alone is known."""
    held: bool | None
    """Whether it was met after the last one; None as above."""
    steps: int | None
    """Environment actions until the goal was first met; None where it was not, or nobody knows."""


def drive(
    task: "Task", controller: Controller, steps: int, block: int, goal_state: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let a controller drive a task from the state in which it is.

    Args:
        task: to drive.
        controller: that has been reset to one problem.
        steps: model steps.
        block: environment actions of each.
        goal_state: whose reaching is watched, float64 (state,).

    Returns:
        Frames uint8 (steps + 1, height, width, 3), environment actions float32 (steps * block, a), and after which of those the goal
        was met, bool (steps * block,); empty without a goal's state.
    """
    frames, taken, met = [task.render()], np.zeros((0, block * len(task.action_names)), np.float32), list[bool]()
    goals = None if goal_state is None else goal_state[None]
    while len(taken) < steps:
        history = History(np.stack(frames)[None], taken[None], task.get_state()[None], [task.variation], goals)
        chosen = controller.act(history)[0][: steps - len(taken)]
        for actions in chosen.reshape(len(chosen), block, -1):
            for action in actions:
                task.advance(action)
                if goal_state is not None:
                    met.append(bool(task.is_success(task.get_state(), goal_state)))
            frames.append(task.render())
        taken = np.concatenate([taken, chosen])
    return np.stack(frames), taken.reshape(steps * block, -1), np.array(met, bool)


def id_of(task: "Task") -> str:
    """Return the id of a task.

    Raises:
        UserError: it was not made by its id.
    """
    made: Any = task
    named = getattr(made, "env_id", None) or getattr(getattr(made, "spec", None), "id", None)
    if named is None:
        raise UserError(f"nobody knows which task this {type(task).__name__} is: make it with make_task")
    return full_id(named)
