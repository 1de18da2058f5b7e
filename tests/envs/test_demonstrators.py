"""Way points and velocity commands."""

import numpy as np
import pytest

from worldmodel.envs.demonstrators import move_towards, through_door

DOOR = {"door_y": 0.2, "door_slack": 0.1, "clearance": 0.2}


@pytest.mark.parametrize(
    ("position", "goal", "expected"),
    [
        ((-0.5, 0.8), (-0.3, -0.7), (-0.3, -0.7)),  # same room: straight
        ((-0.5, 0.8), (0.5, 0.8), (-0.24, 0.2)),  # other room: first to the door
        ((-0.5, 0.25), (0.5, 0.8), (0.24, 0.2)),  # in line with the door: through it
        ((0.1, 0.2), (0.5, 0.8), (0.24, 0.2)),  # in the door: out of it before turning
        ((0.3, 0.2), (0.5, 0.8), (0.5, 0.8)),
        ((0.5, -0.8), (0.05, 0.2), (0.24, 0.2)),  # the goal is in the door
        ((0.5, 0.2), (0.05, 0.25), (0.05, 0.25)),
        ((-0.1, -0.5), (0.5, 0.2), (-0.24, 0.2)),  # pressed against the wall: away from it first
    ],
)
def test_through_door(position: tuple, goal: tuple, expected: tuple) -> None:
    way_point = through_door(np.array(position), np.array(goal), **DOOR)
    np.testing.assert_allclose(way_point, expected)


def test_move_towards_is_limited_and_slows_down() -> None:
    zero = np.zeros(2)
    np.testing.assert_allclose(move_towards(zero, np.array([3.0, 4.0]), 0.1, 0.5), [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(move_towards(zero, np.array([0.05, 0.0]), 0.1, 1.0), [0.5, 0.0], rtol=1e-6)
    assert move_towards(zero, zero, 0.1, 1.0).tolist() == [0.0, 0.0]
