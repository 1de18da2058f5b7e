"""Worlds: MuJoCo tasks behind one contract (`MujocoTask`). Importing this package registers their ids."""

import difflib
from typing import TYPE_CHECKING, Any

import gymnasium

from worldmodel.envs.headless import load_mujoco
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import MujocoTask

gymnasium.register("worldmodel/TwoRoom-v0", "worldmodel.envs.two_room:TwoRoom", max_episode_steps=50)
gymnasium.register("worldmodel/Reacher-v0", "worldmodel.envs.reacher:Reacher", max_episode_steps=50)


def task_ids() -> list[str]:
    """The gymnasium ids of all tasks, sorted."""
    return sorted(env_id for env_id in gymnasium.registry if env_id.startswith("worldmodel/"))


def make_task(env_id: str, **kwargs: Any) -> "MujocoTask":
    """Build a task without gymnasium's wrappers, so without a time limit (see `task.max_episode_steps`).

    Args:
        env_id: One of `task_ids()`.
        **kwargs: Passed to the task: `render_mode`, `image_size`, `frame_skip`.

    Raises:
        UserError: if the id is unknown; the message lists the known ones; or if `MUJOCO_GL` cannot work here.
    """
    known = task_ids()
    if env_id not in known:
        close = difflib.get_close_matches(env_id, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown task {env_id!r}: expected one of {', '.join(known)}{hint}")
    load_mujoco()
    task: MujocoTask = gymnasium.make(env_id, disable_env_checker=True, **kwargs).unwrapped  # type: ignore[assignment]
    return task
