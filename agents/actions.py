"""Action blocks: as text in the words of their task, and from environment actions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from worldmodel.envs import task_of_data as make_task
from worldmodel.errors import UserError
from worldmodel.known_tasks import Actions

SLACK = 1e-5
"""How far an action may lie outside its range: rounding."""


def describe_block(env_id: str, action_size: int) -> Callable[[Tensor], str]:
    """Make a function that writes a block (k * action_size,) as its actions' texts joined by "; ", as in recorded episodes."""
    task = make_task(env_id)

    def describe(block: Tensor) -> str:
        return "; ".join(task.describe_action(action.numpy()) for action in block.cpu().split(action_size))

    return describe


def as_blocks(actions: Any, known: Actions, name: str) -> np.ndarray:
    """Actions as model steps float32 (h, block * a), from those or from environment actions (h * block, a).

    Raises:
        UserError: another shape; numbers that are no actions of the task.
    """
    given = np.asarray(actions)
    whole = known.size * known.block
    rows = given.ndim == 2 and given.shape[1] == known.size and len(given) % known.block == 0
    if given.dtype.kind not in "fiu" or not rows and not (given.ndim == 2 and given.shape[1] == whole):
        raise UserError(
            f"{name} are {given.dtype} of shape {given.shape}, must be numbers (h * {known.block}, {known.size}), environment actions "
            f"of h model steps, or (h, {whole}), the same in blocks"
        )
    if given.size and not (given.min() >= known.low - SLACK and given.max() <= known.high + SLACK):
        raise UserError(f"{name} reach from {given.min():g} to {given.max():g}, must lie between {known.low:g} and {known.high:g}")
    return given.astype(np.float32).reshape(-1, whole)
