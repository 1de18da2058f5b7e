"""Worlds: MuJoCo tasks behind one contract (`MujocoTask`). Importing this package registers their ids."""

import difflib
from typing import TYPE_CHECKING, Any

import gymnasium

from worldmodel.envs.external import INSTALL, knows, refuse_module_of_data
from worldmodel.envs.headless import load_mujoco
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.contract import Task

__all__ = ["full_id", "make_task", "short_name", "task_ids", "task_of_data"]

gymnasium.register("worldmodel/TwoRoom-v0", "worldmodel.envs.two_room:TwoRoom", max_episode_steps=50)
gymnasium.register("worldmodel/Reacher-v0", "worldmodel.envs.reacher:Reacher", max_episode_steps=50)
gymnasium.register("worldmodel/PushT-v0", "worldmodel.envs.push_t:PushT", max_episode_steps=200)
gymnasium.register("worldmodel/Rooms-v0", "worldmodel.envs.rooms:Rooms", max_episode_steps=150)
gymnasium.register("worldmodel/PointMaze-v0", "worldmodel.envs.point_maze:PointMaze", max_episode_steps=100)
gymnasium.register("worldmodel/Cube-v0", "worldmodel.envs.cube:Cube", max_episode_steps=100)
gymnasium.register("worldmodel/Ant-v0", "worldmodel.envs.ant:Ant", max_episode_steps=150)


def task_ids() -> list[str]:
    """Return the gymnasium ids of the tasks of this suite, sorted. `make_task` makes environments of other packages too."""
    return sorted(env_id for env_id in gymnasium.registry if env_id.startswith("worldmodel/"))


def full_id(name: str) -> str:
    """Return the gymnasium id of a short task name, e.g. worldmodel/PushT-v0 for `PushT`; any other name is returned unchanged."""
    own = f"worldmodel/{name}-v0"
    return own if own in gymnasium.registry else name


def short_name(env_id: str) -> str:
    """Return the name of a task without worldmodel/ and -v0, e.g. PushT; any other id is returned unchanged."""
    return env_id.removeprefix("worldmodel/").removesuffix("-v0") if env_id.startswith("worldmodel/") else env_id


def make_task(env_id: str, **kwargs: Any) -> "Task":
    """Build a task without gymnasium's wrappers, so without a time limit (see `task.max_episode_steps`).

    Args:
        env_id: One of `task_ids()`, or its short name, e.g. PushT; or the id of any other gymnasium environment, e.g. HalfCheetah-v5,
            FetchReach-v4, dm_control/walker-walk-v0, Meta-World/reach-v3, cube-single-v0; of your own package.module:Name-v0,
            whose module is imported.
        **kwargs: Passed to the task: `render_mode`, `image_size`, `frame_skip`, `camera`, `render_quality`; an
            environment of another package gets the rest.

    Raises:
        UserError: if the id is unknown; the message lists the known ones; or if `MUJOCO_GL` cannot work here.
    """
    env_id = full_id(env_id)
    load_mujoco()  # also for other packages: they import mujoco, which reads the backend that is chosen here
    known = task_ids()
    if env_id in known:
        task: Any = gymnasium.make(env_id, disable_env_checker=True, **kwargs).unwrapped
        return task
    if not env_id.startswith("worldmodel/") and knows(env_id):
        from worldmodel.envs.adapter import ExternalTask

        return ExternalTask(env_id, **kwargs)
    raise UserError(
        f"unknown task {env_id!r}: expected one of {', '.join(known)}, for short {short_name(known[0])} and so on, or an id of "
        f"another gymnasium environment ({INSTALL}){_did_you_mean(env_id)}"
    )


def _did_you_mean(name: str) -> str:
    """Ask after the task whose name is most like this one, in the form that was written; empty if none is like it."""
    own = {short_name(env_id).lower(): env_id for env_id in task_ids()}
    close = difflib.get_close_matches(short_name(name).lower(), own, 1)
    if close:
        found = own[close[0]]
        return f"; did you mean {found if '/' in name else short_name(found)!r}?"
    others = difflib.get_close_matches(name, list(gymnasium.registry), 1, 0.7)
    return f"; did you mean {others[0]!r}?" if others else ""


def task_of_data(env_id: str, **kwargs: Any) -> "Task":
    """Build a task as `make_task` does, from an id read from a file: a module that only the file names is not imported.

    Raises:
        UserError: as `make_task`, and for such a module.
    """
    refuse_module_of_data(env_id)
    return make_task(env_id, **kwargs)
