"""Rooms: the body's frame, contacts, and words compared with rays cast through the scene."""

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.tasks.rooms.task import Rooms
from worldmodel.errors import UserError

SIDE = 40
SEEN_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)


@pytest.fixture(scope="module")
def task() -> Iterator[Rooms]:
    task = make_task("worldmodel/Rooms-v0")
    assert isinstance(task, Rooms)
    yield task
    task.close()


def test_actions_are_in_the_frame_of_the_body(task: Rooms) -> None:
    """Compares displacements in a free place at several headings with those of the same action at heading 0."""
    task.reset(seed=0)
    x, y = max((task.sample_position(np.random.default_rng(i))[:2] for i in range(200)), key=lambda p: task.plan.clearances(*p).min())
    for action in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.7, -0.4, 0.0]):
        for yaw in (0.0, 0.7, 2.0, -2.5, 9.0):
            task.set_state(task.make_state(np.array([x, y, yaw])))
            for _ in range(3):
                task.advance(np.array(action))
            dx, dy, turn = task.position_of(task.get_state()) - [x, y, yaw]
            forward, left = np.cos(yaw) * dx + np.sin(yaw) * dy, np.cos(yaw) * dy - np.sin(yaw) * dx
            reach = 1.6 * (0.3 - 0.06)
            np.testing.assert_allclose([forward, left, turn], [reach * action[0], reach * action[1], 0.0], atol=0.03)
    task.set_state(task.make_state(np.array([x, y, 0.0])))
    for _ in range(3):
        task.advance(np.array([0.0, 0.0, 1.0]))
    assert 0.4 < task.position_of(task.get_state())[2] < 0.6


def test_the_body_stays_out_of_walls_and_furniture(task: Rooms) -> None:
    rng = np.random.default_rng(0)
    touched = 0
    for seed in range(12):
        task.reset(seed=seed, options={"variation": "all"})
        for action in rng.choice([-1.0, 1.0], size=(20, 3)).repeat(15, axis=0):
            task.advance(action)
            assert task.invalid_reason(task.position_of(task.get_state())) is None
            touched += task.data.ncon > 0
    assert touched > 500


def test_demonstrator_arrives(task: Rooms) -> None:
    for seed in range(5):
        assert solves(task, task.demonstrator, seed)
        assert solves(task, task.demonstrator, seed, {"variation": "all"})


def test_pose_and_distance(task: Rooms) -> None:
    state = task.make_state(np.array([1.0, -2.0, 2 * np.pi + 0.5]))
    assert task.pose_of(state) == pytest.approx((1.0, -2.0, 0.5))
    assert task.goal_distance(state, task.make_state(np.array([1.0, -1.5, 0.5]))) == pytest.approx(1.0)
    assert task.goal_distance(state, task.make_state(np.array([1.0, -2.0, 0.15]))) == pytest.approx(1.0)


def test_layouts_differ_between_episodes(task: Rooms) -> None:
    maps = []
    for seed in range(4):
        task.reset(seed=seed)
        maps.append(task.render("top"))
    assert all(not np.array_equal(maps[0], other) for other in maps[1:])


def test_goals_inside_things_are_refused(task: Rooms) -> None:
    task.reset(seed=0)
    layout, piece = task.variation["layout"], task.plan.pieces[0]
    inside = np.array([(piece.rect[0] + piece.rect[1]) / 2, (piece.rect[2] + piece.rect[3]) / 2, 0.0])
    wall = np.array([*task.plan.walls[0][[0, 2]], 0.0])
    for position, message in (
        (inside, f"inside the .* {piece.kind}"),
        (wall, "inside a wall"),
        (np.array([5.0, 0, 0]), "outside the flat"),
    ):
        with pytest.raises(UserError, match=message):
            task.reset(options={"goal_state": task.make_state(position), "variation_values": {"layout": layout}})


# ---------------------------------------------------------------- Language against the scene


def cast(task: Rooms) -> np.ndarray:
    """Index of the piece (or -1) that MuJoCo's rays meet through a grid of SIDE x SIDE points of the picture."""
    owners = [i for i, piece in enumerate(task.plan.pieces) for _ in piece.parts()]
    first = task.model.geom("part0").id
    camera = task.model.camera("first_person").id
    origin, frame = task.data.cam_xpos[camera], task.data.cam_xmat[camera].reshape(3, 3)
    edge = np.tan(np.radians(task.model.cam_fovy[camera]) / 2)
    grid = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    hits, geom = np.full((SIDE, SIDE), -1), np.array([-1], np.int32)
    for row in range(SIDE):
        for column in range(SIDE):
            ray = frame @ np.array([grid[column] * edge, -grid[row] * edge, -1.0])
            mujoco.mj_ray(task.model, task.data, origin, ray / np.linalg.norm(ray), SEEN_GROUPS, 1, -1, geom)
            if 0 <= geom[0] - first < len(owners):
                hits[row, column] = owners[geom[0] - first]
    return hits


def test_what_is_said_to_be_in_view_is_in_view(task: Rooms) -> None:
    """Nothing is said to be seen that is hidden, and nothing large is left out of a complete view."""
    claims = 0
    for seed in range(40):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        task.set_state(info["state"])
        position = task.position_of(info["state"])
        hits = cast(task)
        view = task.language.view_of(position)
        said = {each.index for each in view.pieces}
        found = np.unique(hits[hits >= 0])
        assert said <= set(found), (seed, said, found)
        if view.complete:
            assert {int(i) for i in found if np.ptp(np.nonzero(hits == i)[1]) > 1} <= said, seed
        for each in view.pieces:
            columns = np.nonzero(hits == each.index)[1]
            if abs(each.bearing) > 0.15:
                assert (each.bearing > 0) == (columns.mean() < (SIDE - 1) / 2)
        claims += len(said)
    assert claims > 40


def test_captions_name_what_is_ahead(task: Rooms) -> None:
    named = 0
    for seed in range(150):
        _, info = task.reset(seed=seed)
        said = task.language.read(info["caption"])
        x, y, yaw = task.pose_of(info["state"])
        facing = {"east": 0, "north": 1, "west": 2, "south": 3}[said["facing"]] * np.pi / 2
        assert np.cos(yaw - facing) >= np.cos(np.pi / 4) - 1e-6
        distances = np.arange(0.0, 12.0, 0.01)
        points = np.array([x, y]) + distances[:, None] * [np.cos(yaw), np.sin(yaw)]
        for point in points:
            gaps = task.plan.clearances(*point)
            in_door = ((task.plan.doors[:, ::2] < point) & (point < task.plan.doors[:, 1::2])).all(axis=1).any()
            if gaps.min() <= 0 or in_door:
                break
        first = int(gaps.argmin()) - len(task.plan.walls)
        expected = "doorway" if in_door else "wall" if first < 0 else task.plan.pieces[first].kind
        started_in_door = ((task.plan.doors[:, ::2] < [x, y]) & ([x, y] < task.plan.doors[:, 1::2])).all(axis=1).any()
        if not started_in_door:
            named += said["ahead"] == expected
            if expected not in ("doorway", "wall"):
                color = list(OBJECT_COLORS)[task.plan.pieces[first].color]
                assert f"{color} {expected} straight ahead" in info["caption"] or said["ahead"] != expected
    assert named >= 146, "all but rays that graze an edge, which a walk in steps of 1 cm may miss"


def test_changes_are_told_in_the_frame_of_the_body(task: Rooms) -> None:
    task.reset(seed=0)
    x, y = max((task.sample_position(np.random.default_rng(i))[:2] for i in range(200)), key=lambda p: task.plan.clearances(*p).min())
    before = task.make_state(np.array([x, y, np.pi / 2]))
    for step, words in (
        ([0.0, 0.2, 0.1], "you moved forward and turned left"),
        ([0.2, 0.0, 0.0], "you moved right"),
        ([0.0, 0.0, -0.2], "you turned right"),
        ([0.0, 0.0, 0.0], "you did not move"),
    ):
        assert task.language.change(before, task.make_state(np.array([x, y, np.pi / 2]) + step)) == words
    for _ in range(60):
        task.advance(np.array([1.0, 0.0, 0.0]))
    blocked = task.get_state()
    task.advance(np.array([1.0, 0.0, 0.0]))
    assert task.language.change(blocked, task.get_state()).startswith(("you did not move, touching", "you moved"))


def test_yes_and_no_are_balanced(task: Rooms) -> None:
    rng = np.random.default_rng(0)
    answers: dict[str, list[str]] = {"left": [], "right": [], "view": []}
    for seed in range(150):
        task.reset(seed=seed)
        for question, answer in task.language.relation_questions(rng, task.data.qpos.copy()):
            for word, given in answers.items():
                if answer in ("yes", "no") and word in question.split("?")[0].split():
                    given.append(answer)
    for word, given in answers.items():
        assert len(given) > 15, word
        assert 0.25 < np.mean([answer == "yes" for answer in given]) < 0.75, word
