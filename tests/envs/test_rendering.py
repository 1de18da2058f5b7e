"""Renderers of several tasks in one process."""

import gc
import importlib

import numpy as np

from worldmodel.envs import make_task
from worldmodel.envs.headless import choose_backend


def test_renderers_do_not_mix() -> None:
    room, arm = make_task("worldmodel/TwoRoom-v0"), make_task("worldmodel/Reacher-v0", image_size=80)
    room_frame, arm_frame = room.reset(seed=0)[0]["pixels"], arm.reset(seed=0)[0]["pixels"]
    for _ in range(3):
        assert np.array_equal(room.render_state(room.get_state()), room_frame)
        assert np.array_equal(arm.render_state(arm.get_state()), arm_frame)
    room.close()
    arm.close()


def test_a_dropped_renderer_leaves_the_others_intact() -> None:
    kept = make_task("worldmodel/Reacher-v0")
    frame = kept.reset(seed=0)[0]["pixels"]
    for seed in range(3):
        dropped = make_task("worldmodel/TwoRoom-v0")
        dropped.reset(seed=seed)
        assert np.array_equal(kept.render_state(kept.get_state()), frame)
        del dropped
        gc.collect()
        assert np.array_equal(kept.render_state(kept.get_state()), frame)
    kept.close()


def test_the_context_of_another_library_in_between() -> None:
    task = make_task("worldmodel/Reacher-v0")
    frame = task.reset(seed=0)[0]["pixels"]
    other = importlib.import_module(f"mujoco.{choose_backend()}").GLContext(32, 32)
    for _ in range(2):
        other.make_current()
        assert np.array_equal(task.render_state(task.get_state()), frame)
    other.free()
    assert np.array_equal(task.render_state(task.get_state()), frame)
    task.close()


def test_close_twice_and_render_again() -> None:
    task = make_task("worldmodel/TwoRoom-v0")
    frame = task.reset(seed=0)[0]["pixels"]
    task.close()
    task.close()
    assert np.array_equal(task.render_state(task.get_state()), frame)
    task.close()


def test_colors_are_flat_and_exact() -> None:
    """Even light: away from the edges a surface has the very colour of its factor."""
    task = make_task("worldmodel/TwoRoom-v0", image_size=128)
    task.reset(options={"state": task.make_state(np.array([-0.5, 0.0]))})
    frame = task.render()
    middle, row = 64, 64 - 0.5 / 2.2 * 128  # pixel row of the point (-0.5, 0), column of the same
    assert frame[middle, int(row)].tolist() == [round(255 * c) for c in (0.86, 0.20, 0.18)]
    assert frame[100, 100].tolist() == [round(255 * c) for c in (0.95, 0.93, 0.88)]
    task.close()
