"""Reacher: joints, geometry and words."""

from collections.abc import Iterator

import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.mujoco_task import MujocoTask

SIZE = 96


@pytest.fixture(scope="module")
def task() -> Iterator[MujocoTask]:
    task = make_task("worldmodel/Reacher-v0", image_size=SIZE)
    yield task
    task.close()


def test_a_full_action_turns_the_joints_by_their_speed(task: MujocoTask) -> None:
    task.reset(options={"state": task.make_state(np.array([0.0, -2.0]))})
    angles = []
    for _ in range(10):
        task.advance(np.array([-1.0, 1.0]))
        angles.append(task.position_of(task.get_state()).copy())
    np.testing.assert_allclose(np.diff(angles, axis=0)[3:], [[-0.2, 0.2]] * 6, rtol=0.1)


def test_the_shoulder_turns_round_and_the_elbow_does_not(task: MujocoTask) -> None:
    task.reset(options={"state": task.make_state(np.zeros(2))})
    for _ in range(50):
        task.advance(np.ones(2))
    shoulder, elbow = task.position_of(task.get_state())
    assert shoulder > 2 * np.pi
    assert abs(elbow - 2.6) < 0.1


def test_hand_is_where_the_simulation_has_it(task: MujocoTask) -> None:
    for seed in range(20):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        place = task.data.geom("hand").xpos[:2]
        np.testing.assert_allclose(info["features"][4:], place, atol=1e-6)
        x, y = place
        assert f"its hand in the {'upper' if y > 0 else 'lower'} {'right' if x > 0 else 'left'}" in info["caption"]
        shoulder, elbow = task.position_of(info["state"])
        expected = [np.cos(shoulder), np.sin(shoulder), np.cos(elbow), np.sin(elbow)]
        np.testing.assert_allclose(info["features"][:4], expected, atol=1e-6)


def test_hand_is_where_the_picture_has_it(task: MujocoTask) -> None:
    for seed in range(20):
        obs, info = task.reset(seed=seed)
        x, y = info["features"][4:]
        column, row = int((x + 1.15) / 2.3 * SIZE), int((1.15 - y) / 2.3 * SIZE)
        slate = np.round(255 * np.array([0.25, 0.28, 0.36]))
        assert np.abs(obs["pixels"][row, column] - slate).max() < 3


@pytest.mark.parametrize(
    ("pose", "caption"),
    [
        ((0.5, 0.0), "a blue arm, straight, with its hand in the upper right"),
        ((-0.5, -1.0), "a blue arm, bent, with its hand in the lower right"),
        ((2.5, 0.6), "a blue arm, straight, with its hand in the upper left"),
        ((-2.5, 2.0), "a blue arm, folded, with its hand in the lower left"),
    ],
)
def test_caption_wording(task: MujocoTask, pose: tuple[float, float], caption: str) -> None:
    task.reset(seed=0)
    assert task.language.caption(task.make_state(np.array(pose))) == caption


def test_distance_takes_the_short_way_at_the_shoulder_only(task: MujocoTask) -> None:
    def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
        return task.goal_distance(task.make_state(np.array(a)), task.make_state(np.array(b)))

    assert distance((3.1, 0.0), (-3.1, 0.0)) == pytest.approx(2 * np.pi - 6.2)
    assert distance((0.2, 0.0), (0.2 + 4 * np.pi, 0.0)) == pytest.approx(0.0, abs=1e-9)
    assert distance((0.0, 2.5), (0.0, -2.5)) == pytest.approx(5.0)
    assert distance((0.3, 0.4), (0.0, 0.0)) == pytest.approx(0.5)


def test_demonstrator_takes_the_short_way(task: MujocoTask) -> None:
    start, goal = task.make_state(np.array([3.0, 0.0])), task.make_state(np.array([-2.5, 0.5]))
    obs, info = task.reset(options={"state": start, "goal_state": goal})
    shoulder, elbow = task.demonstrator(np.random.default_rng(0))(obs, info)
    assert shoulder > 0 and elbow > 0
