"""The registry: ids, `make_task`, and what an import costs."""

import subprocess
import sys

import gymnasium
import pytest

from worldmodel.envs import make_task, task_ids
from worldmodel.errors import UserError


def test_task_ids_are_gymnasiums() -> None:
    assert {"worldmodel/TwoRoom-v0", "worldmodel/Reacher-v0"} <= set(task_ids())
    assert set(task_ids()) <= set(gymnasium.registry)


def test_make_task_passes_arguments_on() -> None:
    task = make_task("worldmodel/TwoRoom-v0", image_size=48, frame_skip=5)
    assert (type(task).__name__, task.image_size, task.step_seconds) == ("TwoRoom", 48, 0.05)
    assert task is task.unwrapped


@pytest.mark.parametrize("env_id", ["worldmodel/TwoRooms-v0", "TwoRoom", "HalfCheetah-v55", "dm_control", ""])
def test_unknown_task_lists_the_known_ones(env_id: str) -> None:
    with pytest.raises(UserError, match="unknown task .*worldmodel/Reacher-v0.*worldmodel/TwoRoom-v0.*another gymnasium environment"):
        make_task(env_id)


def test_close_match_is_suggested() -> None:
    with pytest.raises(UserError, match="did you mean 'worldmodel/TwoRoom-v0'"):
        make_task("worldmodel/tworoom-v0")


def test_import_loads_neither_mujoco_nor_torch() -> None:
    code = "import sys, worldmodel.envs; print(sorted({'mujoco', 'torch', 'OpenGL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
