"""Ant: servos, walking, geometry and words."""

from collections.abc import Iterator

import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.tasks.ant.gait import CADENCE, LEGS, trot
from worldmodel.envs.tasks.ant.scene import HIPS, KNEES, PREFIX, heading_of, joints_of, legs_of, rotation_of
from worldmodel.errors import UserError

COUNTS = ["none", "one", "two", "three", "four"]
SHINS = [f"{PREFIX}{leg}_ankle_geom" for leg in ("left", "fourth", "right", "third")]


@pytest.fixture(scope="module")
def task() -> Iterator[MujocoTask]:
    task = make_task("worldmodel/Ant-v0", image_size=96)
    yield task
    task.close()


def standing(task: MujocoTask, x: float = 0.0, y: float = 0.0, heading: float = 0.0) -> np.ndarray:
    """A configuration on four feet in the stance."""
    task.reset(seed=0)
    position = task.sample_position(np.random.default_rng(0))
    position[:2], position[3:7] = (x, y), (np.cos(heading / 2), 0.0, 0.0, np.sin(heading / 2))
    position[2] = 0.4 * 2**0.5 * np.sin(np.radians(50)) + 0.08
    position[7:] = position_for(np.zeros(8))[7:]
    return position


def position_for(action: np.ndarray) -> np.ndarray:
    """qpos whose joints are those that an action asks for."""
    position = np.zeros(15)
    position[HIPS] = np.radians(30) * action[:4] * [-1, 1, -1, 1]
    position[KNEES] = (np.radians(50) - np.radians(20) * action[4:]) * [1, 1, -1, -1]
    np.testing.assert_allclose(joints_of(position), action, atol=1e-6)
    return position


def visited(task: MujocoTask, seeds: range, steps: int = 30) -> Iterator[np.ndarray]:
    """States (n,) along demonstrations and along random actions, under random variations."""
    for seed in seeds:
        obs, info = task.reset(seed=seed, options={"variation": "all"})
        rng = np.random.default_rng(seed)
        policy, walking = task.demonstrator(rng), seed % 2 == 0
        for _ in range(steps):
            task.advance(policy(obs, info) if walking else rng.uniform(-1, 1, 8))
            info = task.info()
            yield info["state"]


# ---------------------------------------------------------------- Body


@pytest.mark.parametrize("sign", [-0.8, 0.8])
@pytest.mark.parametrize("joint", range(8))
def test_servos_bring_joints_where_the_action_says(task: MujocoTask, joint: int, sign: float) -> None:
    task.set_state(task.make_state(standing(task)))
    action = np.zeros(8)
    action[joint] = sign
    for _ in range(20):
        task.advance(action)
    error = joints_of(task.data.qpos) - action
    assert abs(error[joint]) < 0.2
    assert np.abs(error[:4]).max() < 0.1 and np.abs(error[4:]).max() < 0.25  # knees carry the weight


def test_forward_hips_and_raised_knees_do_what_their_words_say(task: MujocoTask) -> None:
    start = standing(task, heading=0.7)
    for i, leg in enumerate(LEGS):
        for joint, words in ((i, f"swing the {leg} leg forward"), (4 + i, f"move the {leg} foot up")):
            action = task.parse_action(words)
            assert np.flatnonzero(action).tolist() == [joint]
            after = start.copy()
            after[7:] = position_for(action)[7:]
            before, moved = (legs_of(position)[1][i] for position in (start, after))
            ahead = rotation_of(start)[:, 0]
            assert (moved - before) @ (ahead if joint == i else [0, 0, 1]) > 0.05
            said = "forward" if joint == i else "up"
            assert task.language.change_of(start, after).endswith(f"its {leg} {'leg' if joint == i else 'foot'} {said}")


def test_left_legs_are_on_the_left_and_front_legs_in_front(task: MujocoTask) -> None:
    feet = legs_of(standing(task))[1]
    assert np.array_equal(np.sign(feet[:, :2]), [[1, 1], [1, -1], [-1, 1], [-1, -1]])
    head = task.model.geom("head").pos
    assert head[0] > 0.2 and head[1] == 0


def test_legs_are_where_the_simulation_has_them(task: MujocoTask) -> None:
    for state in visited(task, range(4)):
        knees, feet = legs_of(task.position_of(state))
        for i, shin in enumerate(SHINS):
            geom = task.data.geom(shin)
            half = task.model.geom(shin).size[1] * geom.xmat.reshape(3, 3)[:, 2]
            ends = np.stack([geom.xpos + half, geom.xpos - half])
            for point in (knees[i], feet[i]):
                assert np.linalg.norm(ends - point, axis=1).min() < 1e-6


# ---------------------------------------------------------------- Walking


@pytest.mark.parametrize("heading", [0.0, 2.0])
@pytest.mark.parametrize("degrees", range(0, 360, 45))
def test_trot_walks_in_the_asked_direction(task: MujocoTask, degrees: int, heading: float) -> None:
    direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    start = standing(task, *(-1.5 * direction), heading=heading)
    task.set_state(task.make_state(start))
    for i in range(40):
        angle = np.radians(degrees) - heading_of(task.data.qpos)
        task.advance(trot(2 * np.pi * CADENCE * task.step_seconds * i, np.array([np.cos(angle), np.sin(angle)])))
        assert rotation_of(task.data.qpos)[2, 2] > 0.8, "upright"
    walked = task.data.qpos[:2] - start[:2]
    assert walked @ direction > 1.0
    assert walked @ direction > 0.8 * np.hypot(*walked)


@pytest.mark.parametrize("turn", [-1.0, 1.0])
def test_trot_turns_on_the_spot(task: MujocoTask, turn: float) -> None:
    task.set_state(task.make_state(standing(task)))
    headings = []
    for i in range(30):
        task.advance(trot(2 * np.pi * CADENCE * task.step_seconds * i, np.zeros(2), turn))
        headings.append(heading_of(task.data.qpos))
    assert turn * np.unwrap(headings)[-1] > 0.7
    assert np.hypot(*task.data.qpos[:2]) < 0.5


def test_demonstrator_arrives_upright(task: MujocoTask) -> None:
    for seed in range(10):
        assert solves(task, task.demonstrator, seed)
        assert rotation_of(task.data.qpos)[2, 2] > 0.8


@pytest.mark.parametrize(
    "values",
    [
        {"torso.mass": 6.0, "joint.strength": 0.7, "floor.friction": 0.6},
        {"torso.mass": 6.0, "joint.strength": 1.4, "floor.friction": 0.6},
        {"torso.mass": 2.5, "joint.strength": 1.4, "floor.friction": 1.4},
    ],
)
def test_demonstrator_copes_with_every_body_and_floor(task: MujocoTask, values: dict[str, float]) -> None:
    assert sum(solves(task, task.demonstrator, seed, {"variation_values": values}) for seed in range(6)) >= 5


def test_wild_actions_seldom_turn_it_over(task: MujocoTask) -> None:
    over = 0
    for seed in range(10):
        task.reset(seed=seed)
        for action in np.random.default_rng(seed).choice([-1.0, 1.0], size=(8, 8)).repeat(12, axis=0):
            task.advance(action)
        over += rotation_of(task.data.qpos)[2, 2] < 0
    assert over <= 3


def test_the_bounds_hold(task: MujocoTask) -> None:
    for degrees in range(0, 360, 45):
        direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        task.set_state(task.make_state(standing(task, *(1.5 * direction))))
        for i in range(60):
            task.advance(trot(2 * np.pi * CADENCE * task.step_seconds * i, direction))
        assert np.abs(task.data.qpos[:2]).max() < 3.3


# ---------------------------------------------------------------- Words


def test_caption_is_true(task: MujocoTask) -> None:
    for state in visited(task, range(10)):
        x, y = task.position_of(state)[:2]
        ahead = task.data.body(f"{PREFIX}torso").xmat.reshape(3, 3)[:2, 0]
        said = task.language.read(task.language.caption(state))
        assert said["side"] == ("left" if x < -0.8 else "right" if x > 0.8 else "center")
        assert said["depth"] == ("near" if y < -0.8 else "far" if y > 0.8 else "middle")
        directions = {"right": (1, 0), "left": (-1, 0), "away": (0, 1), "camera": (0, -1)}
        assert max(directions, key=lambda name: float(ahead @ directions[name])) == said["facing"]
        assert (said["color"], said["legs"]) == (task.variation["torso.color"], task.variation["leg.color"])


def test_caption_wording(task: MujocoTask) -> None:
    state = task.make_state(standing(task, -2.0, 1.5, np.pi))
    assert task.language.captions(state) == [
        "a red ant with slate legs on the left, far from the camera, facing left",
        "on the left and far from the camera is a red ant with slate legs, facing left",
        "a walled arena. the red ant is on the left and far from the camera, facing left",
        "facing left, a red ant with slate legs has four feet on the floor, on the left, far from the camera",
    ]
    assert task.language.goals(state)[0] == "walk until the red ant is on the left, far from the camera"


def test_feet_that_touch_the_floor_are_counted(task: MujocoTask) -> None:
    seen = set()
    for state in visited(task, range(6)):
        shins = [task.data.geom(name) for name in SHINS]
        heights = [2 * shin.xpos[2] - task.data.xpos[task.model.geom_bodyid[shin.id], 2] - 0.08 for shin in shins]
        count = COUNTS[sum(height < 0.03 for height in heights)]
        answers = dict(task.language.relation_questions(np.random.default_rng(0), task.position_of(state)))
        assert answers["how many feet touch the floor?"] == count
        seen.add(count)
    assert len(seen) >= 3
    assert dict(task.language.relation_questions(np.random.default_rng(0), standing(task)))["how many feet touch the floor?"] == "four"


def test_questions_about_feet_are_true_and_balanced(task: MujocoTask) -> None:
    rng, answers = np.random.default_rng(0), []
    for state in visited(task, range(8)):
        position = task.position_of(state)
        feet = dict(zip(LEGS, legs_of(position)[1], strict=True))
        question, answer = task.language.relation_questions(rng, position)[0]
        one, other = (feet[leg] for leg in sorted(LEGS, key=question.find) if leg in question)
        truth = {
            "nearer to the camera than": one[1] < other[1],
            "farther from the camera than": one[1] > other[1],
            "to the left of": one[0] < other[0],
            "to the right of": one[0] > other[0],
        }
        (relation,) = (words for words in truth if words in question)
        assert answer == ("yes" if truth[relation] else "no")
        answers.append(answer == "yes")
    assert 0.4 < np.mean(answers) < 0.6


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        ((1.0, 0.0, 0.0), "the ant moved right"),
        ((0.0, 1.0, 0.0), "the ant moved away from the camera"),
        ((-1.0, -1.0, 0.5), "the ant moved towards the camera and left and turned left"),
        ((0.0, 0.0, -0.5), "the ant stayed where it was and turned right"),
        ((0.05, 0.0, 0.0), "the ant stayed where it was"),
    ],
)
def test_change_is_said(task: MujocoTask, after: tuple[float, float, float], sentence: str) -> None:
    assert task.language.change_of(standing(task), standing(task, *after)) == sentence


def test_a_turn_is_said_the_short_way(task: MujocoTask) -> None:
    assert task.language.change_of(standing(task, heading=3.0), standing(task, heading=-3.0)).endswith("turned left")


# ---------------------------------------------------------------- Starts and pictures


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, 3.4, "outside the arena at x=3.400"),
        (1, -5.0, "outside the arena at x=0.000, y=-5.000"),
        (0, 3.0, "a leg would reach through a wall"),
        (2, 0.3, "in the floor at a height of 0.300"),
        (2, -1.0, "in the floor"),
        (3, 0.5, "no unit quaternion"),
        (7, 1.2, "a joint would be beyond its limits"),
    ],
)
@pytest.mark.parametrize("name", ["state", "goal_state"])
def test_impossible_starts_are_refused(task: MujocoTask, name: str, index: int, value: float, message: str) -> None:
    position = standing(task)
    position[index] = value
    with pytest.raises(UserError, match=f"^{name} cannot be reached: .*{message}"):
        task.reset(options={name: task.make_state(position)})


def test_sampled_starts_stand_on_four_feet(task: MujocoTask) -> None:
    for seed in range(20):
        task.reset(seed=seed, options={"variation": "all"})
        start = task.data.qpos.copy()
        for _ in range(10):
            task.advance(np.zeros(8))
        assert rotation_of(task.data.qpos)[2, 2] > 0.99
        assert abs(task.data.qpos[2] - 0.5) < 0.08
        assert np.hypot(*(task.data.qpos - start)[:2]) < 0.25


def test_body_and_head_are_where_the_picture_has_them(task: MujocoTask) -> None:
    """The middle of the red pixels lies on the side that the caption says, and moves with the head."""
    for x, y in ((-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0), (0.0, 0.0)):
        rows, columns = red(task.render_state(task.make_state(standing(task, x, y, np.pi / 2))))
        assert len(rows) > 8
        assert x == 0 or (columns.mean() > 48) == (x > 0)
        assert y == 0 or (rows.mean() < 48) == (y > 0)
    left, right = (red(task.render_state(task.make_state(standing(task, heading=heading))))[1].mean() for heading in (np.pi, 0.0))
    assert right - left > 2


def red(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in the colour of the torso; a mark on the floor is paler."""
    r, g, b = frame.astype(int).transpose(2, 0, 1)
    return np.nonzero((r > 2.2 * g) & (r > 2.2 * b) & (r > 90))


def test_patterns_of_the_floor_look_different(task: MujocoTask) -> None:
    _, info = task.reset(seed=0)
    frames = []
    for pattern in task.factors["floor.pattern"].choices:
        options = {"state": info["state"], "goal_state": info["goal_state"], "variation_values": {"floor.pattern": pattern}}
        frames.append(task.reset(options=options)[0]["pixels"].astype(int))
    for i in range(3):
        assert (np.abs(frames[i] - frames[i - 1]).max(axis=2) > 10).mean() > 0.1
