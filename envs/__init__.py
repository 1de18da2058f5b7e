"""Worlds behind one interface, `Task`: the tasks of this suite in `tasks/`, environments of other packages through `adapter/`.

Importing this package registers the ids of the suite.
"""

import difflib
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from worldmodel.envs.adapter.lookup import INSTALL, knows, refuse_module_of_data, time_limit
from worldmodel.envs.headless import load_mujoco
from worldmodel.envs.task import Task
from worldmodel.errors import UserError

__all__ = ["full_id", "make_task", "short_name", "task_ids", "task_of_data"]

gymnasium.register("worldmodel/TwoRoom-v0", "worldmodel.envs.tasks.two_room.task:TwoRoom", max_episode_steps=50)
gymnasium.register("worldmodel/Reacher-v0", "worldmodel.envs.tasks.reacher.task:Reacher", max_episode_steps=50)
gymnasium.register("worldmodel/PushT-v0", "worldmodel.envs.tasks.push_t.task:PushT", max_episode_steps=200)
gymnasium.register("worldmodel/Rooms-v0", "worldmodel.envs.tasks.rooms.task:Rooms", max_episode_steps=150)
gymnasium.register("worldmodel/PointMaze-v0", "worldmodel.envs.tasks.point_maze.task:PointMaze", max_episode_steps=100)
gymnasium.register("worldmodel/Cube-v0", "worldmodel.envs.tasks.cube.task:Cube", max_episode_steps=100)
gymnasium.register("worldmodel/Ant-v0", "worldmodel.envs.tasks.ant.task:Ant", max_episode_steps=150)


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


def make_task(env_id: str, **kwargs: Any) -> Task:
    """Build a task without gymnasium's wrappers, so without a time limit (see `task.max_episode_steps`).

    Args:
        env_id: One of `task_ids()`, or its short name, e.g. PushT; or the id of any other gymnasium environment, e.g. HalfCheetah-v5,
            FetchReach-v4, dm_control/walker-walk-v0, Meta-World/reach-v3, cube-single-v0; of your own package.module:Name-v0,
            whose module is imported. What is a `Task` already is made as it is, everything else gets an adapter.
        **kwargs: Passed to the task: `render_mode`, `image_size`, `frame_skip`, `camera`, `render_quality`; an
            environment of another package gets the rest.

    Raises:
        UserError: if the id is unknown; the message lists the known ones; or if `MUJOCO_GL` cannot work here.
    """
    env_id = full_id(env_id)
    load_mujoco()  # also for other packages: they import mujoco, which reads the backend that is chosen here
    known = task_ids()
    if env_id not in known and (env_id.startswith("worldmodel/") or not knows(env_id)):
        raise UserError(
            f"unknown task {env_id!r}: expected one of {', '.join(known)}, for short {short_name(known[0])} and so on, or an id of "
            f"another gymnasium environment ({INSTALL}){_did_you_mean(env_id)}"
        )
    if not _is_task(env_id):
        from worldmodel.envs.adapter.task import ExternalTask

        return ExternalTask(env_id, **kwargs)
    task: Any = gymnasium.make(env_id, disable_env_checker=True, **kwargs).unwrapped
    task.env_id = env_id
    task.max_episode_steps = time_limit(env_id) or task.max_episode_steps
    return task


def _is_task(env_id: str) -> bool:
    """Test whether the class that a known id stands for is a `Task`, one of the suite or somebody's own."""
    spec = gymnasium.registry.get(env_id.rpartition(":")[2])
    creator: Any = None if spec is None else spec.entry_point
    try:
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
    except Exception:  # whatever its author's code raises; making the environment says so
        return False
    return isinstance(creator, type) and issubclass(creator, Task)


def _did_you_mean(name: str) -> str:
    """Ask after the task whose name is most like this one, in the form that was written; empty if none is like it."""
    own = {short_name(env_id).lower(): env_id for env_id in task_ids()}
    close = difflib.get_close_matches(short_name(name).lower(), own, 1)
    if close:
        found = own[close[0]]
        return f"; did you mean {found if '/' in name else short_name(found)!r}?"
    others = difflib.get_close_matches(name, list(gymnasium.registry), 1, 0.7)
    return f"; did you mean {others[0]!r}?" if others else ""


def task_of_data(env_id: str, **kwargs: Any) -> Task:
    """Build a task as `make_task` does, from an id read from a file: a module that only the file names is not imported.

    Raises:
        UserError: as `make_task`, and for such a module.
    """
    refuse_module_of_data(env_id)
    return make_task(env_id, **kwargs)
