"""TwoRoom: the physics of the disc, and words compared with the picture."""

from collections.abc import Iterator

import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.tasks.two_room.task import through_door
from worldmodel.errors import UserError

SIZE = 96


@pytest.fixture(scope="module")
def task() -> Iterator[MujocoTask]:
    task = make_task("worldmodel/TwoRoom-v0", image_size=SIZE)
    yield task
    task.close()


def drive(task: MujocoTask, start: tuple[float, float], action: tuple[float, float], steps: int) -> np.ndarray:
    """Positions (steps + 1, 2) of the disc under one held action."""
    task.reset(options={"state": task.make_state(np.array(start))})
    positions = [np.array(start)]
    for _ in range(steps):
        task.advance(np.array(action))
        positions.append(task.position_of(task.get_state()).copy())
    return np.stack(positions)


def test_a_full_action_moves_the_disc_by_its_speed(task: MujocoTask) -> None:
    moves = np.diff(drive(task, (-0.8, 0.7), (0.0, -1.0), 8), axis=0)
    assert abs(moves[:, 0]).max() < 1e-9
    np.testing.assert_allclose(moves[2:, 1], -0.15, rtol=0.05)  # after two steps it follows the command
    assert -0.15 < moves[0, 1] < -0.05


def test_walls_stop_the_disc_and_the_door_lets_it_through(task: MujocoTask) -> None:
    assert abs(drive(task, (-0.5, 0.7), (1.0, 0.0), 20)[-1, 0] + 0.05 + 0.14) < 0.02
    assert drive(task, (-0.5, 0.0), (1.0, 0.0), 20)[-1, 0] > 0.8
    corner = drive(task, (0.5, 0.5), (1.0, 1.0), 20)[-1]
    np.testing.assert_allclose(corner, 1 - 0.14, atol=0.02)


def test_door_and_radius_move_the_obstacles(task: MujocoTask) -> None:
    values = {"door.position": 0.5, "door.width": 0.6, "disc.radius": 0.1}
    ends = {}
    for y in (0.0, 0.5):
        start = task.make_state(np.array([-0.5, y]))
        task.reset(options={"state": start, "variation_values": values})
        for _ in range(20):
            task.advance(np.array([1.0, 0.0]))
        ends[y] = task.position_of(task.get_state())[0]
    assert abs(ends[0.0] + 0.05 + 0.1) < 0.02
    assert ends[0.5] > 0.8


def test_words_agree_with_the_picture(task: MujocoTask) -> None:
    """Finds the disc by its colour in the frame; nothing here looks at the state."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        obs, info = task.reset(seed=seed, options={"variation": ["disc.color", "door.position"]})
        said = task.language.read(info["caption"])
        color = np.round(255 * np.array(OBJECT_COLORS[said["color"]]))
        rows, columns = np.nonzero((np.abs(obs["pixels"] - color) < 3).all(axis=-1))
        assert len(rows) > 60, "the disc has the colour that the caption says"
        x, y = (columns.mean() + 0.5) / SIZE * 2.2 - 1.1, 1.1 - (rows.mean() + 0.5) / SIZE * 2.2
        np.testing.assert_allclose(info["features"], [x, y], atol=0.03)

        answers = dict(task.language.questions(rng))
        if abs(abs(x) - 0.14) > 0.03:
            room = "door" if abs(x) < 0.14 else "left" if x < 0 else "right"
            assert said["room"] == answers["where is the disc: left, right or door?"] == room
            for phrase, value in (("in the left room", "left"), ("in the doorway", "door")):
                assert answers.get(f"is the disc {phrase}?", "yes" if room == value else "no") == ("yes" if room == value else "no")
        if abs(abs(y) - 1 / 3) > 0.03:
            height = "top" if y > 1 / 3 else "bottom" if y < -1 / 3 else "middle"
            assert said["height"] == answers["how high is the disc: top, middle or bottom?"] == height


def test_caption_wording(task: MujocoTask) -> None:
    values = {"disc.color": "orange"}
    task.reset(options={"state": task.make_state(np.array([-0.5, 0.8])), "variation_values": values})
    assert task.language.caption() == "an orange disc in the left room, near the top"
    assert task.language.caption(task.make_state(np.zeros(2))) == "an orange disc in the doorway, near the middle"
    assert task.language.caption(task.make_state(np.array([0.5, -0.8]))) == ("an orange disc in the right room, near the bottom")


def test_goal_distance_is_euclidean(task: MujocoTask) -> None:
    states = [task.make_state(np.array(point)) for point in ((0.2, 0.3), (0.5, -0.1))]
    assert task.goal_distance(*states) == pytest.approx(0.5)
    near = [task.make_state(np.array(point)) for point in ((0.2, 0.3), (0.2, 0.449))]
    assert task.is_success(*near) and not task.is_success(*states)


@pytest.mark.parametrize(
    ("point", "reason"),
    [((0.0, 0.7), "inside the wall at x=0.000, y=0.700"), ((0.5, 0.95), "outside the arena"), ((-2.0, 0.0), "outside the arena")],
)
def test_a_goal_that_cannot_be_reached_is_refused(task: MujocoTask, point: tuple[float, float], reason: str) -> None:
    state = task.make_state(np.array(point))
    for name in ("state", "goal_state"):
        with pytest.raises(UserError, match=f"{name} cannot be reached: the disc would be {reason}"):
            task.reset(options={name: state})


@pytest.mark.parametrize("point", [(0.0, 0.1), (0.16, 0.15), (0.19, 0.85), (-0.86, -0.86)])
def test_tight_places_can_be_reached(task: MujocoTask, point: tuple[float, float]) -> None:
    task.reset(options={"state": task.make_state(np.array(point))})


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ((-0.5, 0.0), (-0.8, 0.0), "the disc moved left"),
        ((-0.5, 0.0), (0.0, 0.1), "the disc moved up and right into the doorway"),
        ((0.1, 0.0), (0.5, -0.2), "the disc moved down and right into the right room"),
        ((0.5, 0.5), (0.51, 0.5), "the disc did not move"),
    ],
)
def test_change_wording(task: MujocoTask, start: tuple[float, float], end: tuple[float, float], words: str) -> None:
    task.reset(seed=0)
    assert task.language.change(task.make_state(np.array(start)), task.make_state(np.array(end))) == words


# ---------------------------------------------------------------- Demonstrator

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
