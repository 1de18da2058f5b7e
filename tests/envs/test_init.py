"""The registry: ids, `make_task`, and what an import costs."""

import subprocess
import sys

import gymnasium
import pytest

from worldmodel.envs import full_id, make_task, short_name, task_ids
from worldmodel.errors import UserError


def test_task_ids_are_gymnasiums() -> None:
    assert {"worldmodel/TwoRoom-v0", "worldmodel/Reacher-v0"} <= set(task_ids())
    assert set(task_ids()) <= set(gymnasium.registry)


def test_make_task_passes_arguments_on() -> None:
    task = make_task("worldmodel/TwoRoom-v0", image_size=48, frame_skip=5)
    assert (type(task).__name__, task.image_size, task.step_seconds) == ("TwoRoom", 48, 0.05)
    assert task is task.unwrapped


@pytest.mark.parametrize("env_id", ["worldmodel/TwoRooms-v0", "TwoRooms", "TwoRoom-v0", "HalfCheetah-v55", "dm_control", ""])
def test_unknown_task_lists_the_known_ones(env_id: str) -> None:
    with pytest.raises(UserError, match="unknown task .*worldmodel/Reacher-v0.*worldmodel/TwoRoom-v0.*another gymnasium environment"):
        make_task(env_id)


@pytest.mark.parametrize("env_id", [*task_ids(), "HalfCheetah-v5", "package.module:PushT-v0", "PushT-v0"])
def test_short_names_are_of_the_suite_alone(env_id: str) -> None:
    assert full_id(short_name(env_id)) == env_id == full_id(env_id)
    assert (short_name(env_id) == env_id) == (not env_id.startswith("worldmodel/"))


def test_a_task_may_be_named_short() -> None:
    assert type(make_task("TwoRoom")) is type(make_task("worldmodel/TwoRoom-v0"))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("worldmodel/tworoom-v0", "worldmodel/TwoRoom-v0"),
        ("TwoRoms", "TwoRoom"),
        ("pusht", "PushT"),
        ("PushT-v0", "PushT"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
    ],
)
def test_close_match_is_suggested_as_it_was_written(wrong: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"; did you mean '{meant}'\\?"):
        make_task(wrong)


def test_import_loads_neither_mujoco_nor_torch() -> None:
    code = "import sys, worldmodel.envs; print(sorted({'mujoco', 'torch', 'OpenGL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
