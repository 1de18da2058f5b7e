"""Writes action blocks as text, in the words of their task."""

from collections.abc import Callable

from torch import Tensor

from worldmodel.envs import task_of_data as make_task


def describe_block(env_id: str, action_size: int) -> Callable[[Tensor], str]:
    """Make a function that writes a block (k * action_size,) as its actions' texts joined by "; ", as in recorded episodes."""
    task = make_task(env_id)

    def describe(block: Tensor) -> str:
        return "; ".join(task.describe_action(action.numpy()) for action in block.cpu().split(action_size))

    return describe
