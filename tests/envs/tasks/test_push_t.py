"""PushT: pushes move and turn the block, and words follow what they did."""

from collections.abc import Iterator

import numpy as np
import pytest

from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.tasks.push_t.planning import Pusher, to_block, to_world
from worldmodel.envs.tasks.push_t.task import PushT, marks_of
from worldmodel.errors import UserError

SIZE = 96
OFFSETS = {"right": 0, "upper right": 45, "up": 90, "upper left": 135, "left": 180, "lower left": 225, "down": 270, "lower right": 315}


@pytest.fixture(scope="module")
def task() -> Iterator[PushT]:
    task = PushT(image_size=SIZE)
    yield task
    task.close()


def drive(task: PushT, start: list[float], action: tuple[float, float], steps: int, **values: float) -> np.ndarray:
    """Configurations (steps + 1, 5) under one held action."""
    task.reset(options={"state": task.make_state(np.array(start)), "variation_values": values})
    positions = [np.array(start)]
    for _ in range(steps):
        task.advance(np.array(action))
        positions.append(task.position_of(task.get_state()).copy())
    return np.stack(positions)


@pytest.mark.parametrize("values", [{}, {"block.size": 0.85}, {"block.size": 1.15, "pusher.radius": 0.065}, {"block.friction": 8.0}])
def test_a_push_through_the_center_moves_and_one_beside_it_turns(task: PushT, values: dict[str, float]) -> None:
    straight = drive(task, [0, 0, 0, 0.0, 0.5], (0, -1), 10, **values)[-1]
    np.testing.assert_allclose(straight[[0, 2]], 0.0, atol=0.02)
    assert straight[1] < -0.2
    right, left = (drive(task, [0, 0, 0, side, 0.5], (0, -1), 6, **values)[-1] for side in (0.18, -0.18))
    assert right[2] < -0.3 and left[2] > 0.3
    assert right[1] < -0.02 and left[1] < -0.02


def test_the_block_stops_soon_after_the_push(task: PushT) -> None:
    drive(task, [0, 0, 0, 0.1, 0.5], (0, -1), 6)
    pushed = task.position_of(task.get_state()).copy()
    for _ in range(10):
        task.advance(np.zeros(2))
    stopped = task.position_of(task.get_state()).copy()
    task.advance(np.zeros(2))
    assert np.abs(stopped - pushed).max() < 0.1 + 0.15
    np.testing.assert_allclose(task.position_of(task.get_state()), stopped, atol=1e-4)


def test_friction_slows_the_push(task: PushT) -> None:
    paths = [drive(task, [0, 0.3, 0, 0.0, 0.63], (0, -1), 8, **{"block.friction": friction})[-1, 1] for friction in (2.0, 8.0)]
    assert paths[0] < paths[1] - 0.05


def test_nothing_passes_through_anything(task: PushT) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        task.reset(seed=seed, options={"variation": "all"})
        for action in rng.choice([-1.0, 1.0], size=(20, 2)).repeat(12, axis=0):
            task.advance(action)
            assert task.invalid_reason(task.position_of(task.get_state())) is None


def test_replay_through_pushes_is_bit_equal(task: PushT) -> None:
    obs, info = task.reset(seed=3)
    policy, actions, states, touched = task.demonstrator(np.random.default_rng(0)), [], [task.get_state()], 0
    for _ in range(60):
        actions.append(policy(obs, info))
        task.advance(actions[-1])
        info = task.info()
        states.append(info["state"])
        touched += task.data.ncon > 0
    assert touched > 5
    other = PushT()
    for start in (0, 20):
        other.set_state(states[start])
        for action, state in zip(actions[start:], states[start + 1 :], strict=True):
            other.advance(action)
            assert np.array_equal(other.get_state(), state)


def test_success_needs_place_and_angle(task: PushT) -> None:
    goal = task.make_state(np.array([0.1, 0.2, 3.1, 0.8, 0.8]))

    def reached(x: float, y: float, angle: float) -> bool:
        return task.is_success(task.make_state(np.array([x, y, angle, -0.8, -0.8])), goal)

    assert reached(0.1, 0.29, 3.1) and reached(0.1, 0.2, 3.1 - 2 * np.pi) and reached(0.1, 0.2, -3.1)
    assert not reached(0.1, 0.31, 3.1) and not reached(0.1, 0.2, 2.7) and not reached(0.1, 0.2, 0.0)


def test_a_push_does_what_the_plan_says(task: PushT) -> None:
    """The plan's formula for a slow push, compared with the simulation of it."""
    pusher, pose = Pusher(1.0, 0.08), np.array([0.1, -0.1, 0.7])
    points, normals = pusher.contacts
    for i in range(0, len(points), 5):
        start = to_world(pose, (points[i] + 0.08 * normals[i])[None])[0]
        task.reset(options={"state": task.make_state(np.concatenate([pose, start]))})
        planned = pusher.pushed(pose, np.array([i]), np.linspace(0.0, 0.12, 25))[0]
        for expected in planned[1:]:
            position = task.position_of(task.get_state())
            target = to_world(expected, (points[i] + 0.08 * normals[i])[None])[0]
            task.advance(np.clip((target - position[3:]) / 0.1, -1, 1))
        for _ in range(5):
            task.advance(np.clip((target - task.position_of(task.get_state())[3:]) / 0.1, -1, 1))
        np.testing.assert_allclose(task.position_of(task.get_state())[:3], planned[-1], atol=0.06)


def test_ways_lead_around_the_block() -> None:
    pusher, pose = Pusher(1.0, 0.08), np.array([0.0, 0.0, 0.0])
    lengths, first = pusher.paths(pose, np.array([0.0, 0.6]), np.array([[0.5, 0.6], [0.0, -0.6]]))
    assert lengths[0] == pytest.approx(0.5) and np.array_equal(first[0], [0.5, 0.6])
    assert lengths[1] > 1.3 and abs(first[1, 0]) > 0.28 + 0.08
    points = np.array([[0.3, 0.1], [-0.2, 0.5]])
    np.testing.assert_allclose(to_block(pose + 0.3, to_world(pose + 0.3, points)), points, atol=1e-12)


def test_the_demonstrator_solves(task: PushT) -> None:
    assert sum(solves(task, task.demonstrator, seed) for seed in range(8)) >= 7
    assert sum(solves(task, task.demonstrator, seed, {"variation": "all"}) for seed in range(8)) >= 7


def test_words_agree_with_the_picture(task: PushT) -> None:
    """Finds the block by its colour in the frame; nothing here looks at the state."""
    checked = 0
    for seed in range(60):
        obs, info = task.reset(seed=seed, options={"variation": ["block.color"]})
        said = task.language.read(info["caption"])
        color = np.round(255 * np.array(OBJECT_COLORS[said["color"]]))
        rows, columns = np.nonzero((np.abs(obs["pixels"] - color) < 3).all(axis=-1))
        x, y = (columns + 0.5) / SIZE * 2.3 - 1.15, 1.15 - (rows + 0.5) / SIZE * 2.3
        center = np.array([x.mean(), y.mean()])
        np.testing.assert_allclose(info["features"][:2], center, atol=0.04)
        far = np.argsort(np.hypot(x - center[0], y - center[1]))[-8:]  # the end of the stem
        turned = np.degrees(np.arctan2(y[far].mean() - center[1], x[far].mean() - center[0])) - OFFSETS[said["stem"]]
        assert abs((turned + 180) % 360 - 180) < 22.5 + 12
        if np.abs(np.abs(center) - 0.2).min() > 0.04:
            column, row = (["left", "middle", "right"][int(v > -0.2) + int(v > 0.2)] for v in center)
            words = f"{ {'left': 'bottom', 'middle': 'middle', 'right': 'top'}[row] } {column}"
            assert said["place"] == ("center" if words == "middle middle" else words)
            checked += 1
    assert checked > 25


def test_wording(task: PushT) -> None:
    state = task.make_state(np.array([-0.4, 0.4, 0.0, -0.9, 0.3]))
    task.reset(options={"state": state, "variation_values": {"block.color": "orange", "floor.marks": 0}})
    assert task.language.caption() == "an orange T-block in the top left, its stem pointing down, and a slate disc left of the block"
    moved = task.make_state(np.array([-0.3, 0.4, 0.5, -0.8, 0.3]))
    assert task.language.change(state, moved) == "the disc moved right and the block moved right and turned counterclockwise"
    assert task.language.change(moved, state) == "the disc moved left and the block moved left and turned clockwise"
    assert task.language.change(state, state) == "the disc did not move and the block did not move"


def test_the_bar_is_as_near_as_its_nearest_point(task: PushT) -> None:
    beside = np.array([0.0, 0.0, 0.0, 0.42, -0.25])  # nearer to the end of the stem than to the middle of the bar
    task.reset(options={"state": task.make_state(beside)})
    rng = np.random.default_rng(0)
    asked = dict(task.language.relation_questions(rng, beside)[0] for _ in range(60))
    assert asked["is the bar nearer to the disc than the end of the stem?"] == "yes"
    assert asked["is the end of the stem nearer to the disc than the bar?"] == "no"


def test_relations_are_true_and_balanced(task: PushT) -> None:
    rng, answers = np.random.default_rng(0), {}
    for seed in range(120):
        _, info = task.reset(seed=seed, options={"variation": ["floor.marks"]})
        (question, answer), (_, count) = task.language.relation_questions(rng, task.position_of(info["state"]))
        answers.setdefault("touch" if "touch" in question or "gap" in question else "other", []).append(answer == "yes")
        if "higher" in question or "lower" in question:
            higher = info["features"][5] > info["features"][1]
            assert (answer == "yes") == (higher == ("higher" in question))
        if "touch" in question or "gap" in question:
            assert answer == ("no" if "touch" in question else "yes")  # a start is free of contacts
        marks = len(marks_of(int(info["variation"]["floor.marks"])))
        assert count == ["none", "one", "two", "three", "four", "five"][marks]
    for each in answers.values():
        assert 0.25 < np.mean(each) < 0.75


def test_marks_differ_and_stay_on_the_floor() -> None:
    layouts = [marks_of(layout) for layout in range(50)]
    assert len(layouts[0]) == 0 and {len(places) for places in layouts[1:]} == {1, 2, 3, 4, 5}
    assert all(np.abs(places).max(initial=0.0) < 0.8 for places in layouts)
    assert not np.array_equal(layouts[1], layouts[6])


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ([0.9, 0, 0, -0.5, 0], r"the block would be outside the arena at x=0.900"),
        ([0, 0, 0, 0.5, 0.99], r"the disc would be outside the arena at x=0.500, y=0.990"),
        ([0, 0, 0, 0.0, 0.1], r"the disc would be inside the block at x=0.000, y=0.100"),
        ([0, 0, 0, 0.12, -0.1], r"the disc would be inside the block"),
    ],
)
def test_impossible_states_are_refused(task: PushT, position: list[float], message: str) -> None:
    for name in ("state", "goal_state"):
        with pytest.raises(UserError, match=f"{name} cannot be reached: {message}"):
            task.reset(options={name: task.make_state(np.array(position))})
    assert task.invalid_reason(np.array([0, 0, 0, 0.155 + 0.0, -0.1])) is None  # pressed a little into the stem
