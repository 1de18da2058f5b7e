"""Cube: grasps by friction, goals, what is impossible, and words compared with the state."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worldmodel.envs import make_task
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.tasks.cube.gripper import OPENING, REACH
from worldmodel.errors import UserError

HALF = 0.026
UP = np.array([0.0, 0.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def task() -> Iterator[MujocoTask]:
    task = make_task("worldmodel/Cube-v0", image_size=64)
    yield task
    task.close()


def configuration(hand: tuple[float, ...], *cubes: tuple[float, ...], closed: float = 0.0) -> np.ndarray:
    """qpos with the hand, both fingers closed by `closed`, and three cubes that are not turned."""
    poses = [[*cube, 1.0, 0.0, 0.0, 0.0] for cube in cubes]
    return np.concatenate([hand, [closed, closed], *poses])


APART = ((-0.15, 0.0, HALF), (0.0, 0.1, HALF), (0.15, 0.0, HALF))
HIGH = (0.0, 0.0, 0.18)


def start(task: MujocoTask, position: np.ndarray, **values: Any) -> np.ndarray:
    """Begin an episode at rest in a configuration; its state."""
    return task.reset(options={"state": task.make_state(position), "variation_values": values})[1]["state"]


def cubes_of(task: MujocoTask) -> np.ndarray:
    return task.position_of(task.get_state())[5:].reshape(3, 7)[:, :3]


def act(task: MujocoTask, *action: float, steps: int) -> None:
    for _ in range(steps):
        task.advance(np.array(action))


def grasp(task: MujocoTask, **values: Any) -> None:
    """Close the fingers around the first cube."""
    start(task, configuration((-0.15, 0.0, 0.012), *APART), **values)
    act(task, 0.0, 0.0, 0.0, 1.0, steps=4)


@pytest.mark.parametrize(
    "values", [{}, {"cube.mass": 0.25, "cube.size": 0.06, "cube.friction": 0.3}, {"cube.mass": 0.05, "cube.size": 0.044}]
)
def test_a_grasped_cube_is_lifted_carried_and_falls_when_let_go(task: MujocoTask, values: dict[str, Any]) -> None:
    grasp(task, **values)
    act(task, 0.0, 0.0, 0.8, 0.0, steps=4)
    act(task, 0.0, -0.6, 0.0, 0.0, steps=4)
    lifted = cubes_of(task)[0]
    assert lifted[2] > 0.1 and lifted[1] < -0.06
    act(task, 0.0, 0.0, 0.0, 0.0, steps=30)  # with no action it keeps its hold
    assert np.linalg.norm(cubes_of(task)[0] - lifted) < 0.02
    assert task.language.read(task.language.caption())["held"] == "red"
    act(task, 0.0, 0.0, 0.0, -1.0, steps=8)
    assert cubes_of(task)[0, 2] < 0.04
    assert task.language.read(task.language.caption())["held"] == "nothing"


def test_nothing_is_lifted_without_closing(task: MujocoTask) -> None:
    start(task, configuration((-0.15, 0.0, 0.012), *APART))
    act(task, 0.0, 0.0, 0.8, 0.0, steps=5)
    np.testing.assert_allclose(cubes_of(task), APART, atol=0.002)


def test_a_grasp_replays_bit_for_bit(task: MujocoTask) -> None:
    start(task, configuration((-0.15, 0.0, 0.012), *APART))
    actions = [(0.0, 0.0, 0.0, 1.0)] * 3 + [(0.1, 0.2, 0.7, 0.3)] * 4 + [(0.6, -0.3, 0.0, 0.0)] * 6 + [(0.0, 0.0, -0.5, -0.6)] * 5
    states = [task.get_state()]
    for action in actions:
        task.advance(np.array(action))
        states.append(task.get_state())
    assert max(state[1 + 7] for state in states) > 0.1, "the cube was lifted"
    for begin in (2, 5, 9, 14):
        task.set_state(states[begin])
        for action, state in zip(actions[begin:], states[begin + 1 :], strict=True):
            task.advance(np.array(action))
            assert np.array_equal(task.get_state(), state)


def test_a_full_action_moves_the_hand_by_its_speed_and_reach_ends_it(task: MujocoTask) -> None:
    start(task, configuration((-0.2, -0.15, 0.18), *APART))
    places = []
    for _ in range(20):
        task.advance(np.array([1.0, 1.0, 0.0, 0.0]))
        places.append(task.position_of(task.get_state())[:3].copy())
    np.testing.assert_allclose(np.diff(places, axis=0)[1:4, :2], 0.045, rtol=0.05)
    np.testing.assert_allclose(places[-1][:2], REACH[1, :2], atol=0.005)


def test_walls_keep_cubes_on_the_table(task: MujocoTask) -> None:
    start(task, configuration((-0.15, 0.0, 0.01), (-0.05, 0.0, HALF), *APART[1:]), **{"cube.friction": 0.3})
    act(task, 1.0, 0.0, 0.0, 0.0, steps=25)
    assert task.invalid_reason(task.position_of(task.get_state())) is None
    assert cubes_of(task)[0, 0] > 0.05


def test_unused_cubes_are_neither_seen_nor_touched(task: MujocoTask) -> None:
    position = configuration((-0.15, 0.0, 0.012), *APART)
    start(task, position, **{"cube.count": 1})
    alone = task.render()
    moved = position.copy()
    moved[12:15] = [-0.15, 0.02, HALF]  # inside the only one in use
    state = start(task, moved, **{"cube.count": 1})
    assert np.array_equal(task.render(), alone)
    act(task, 0.0, 0.0, 0.0, 0.0, steps=5)
    np.testing.assert_allclose(cubes_of(task)[0], APART[0], atol=0.002)
    assert np.array_equal(task.features(state)[7:], [0.0, 0.0, -1.0, 0.0, 0.0, -1.0])


def test_goals_move_one_cube_and_clear_the_hand(task: MujocoTask) -> None:
    stacked = 0
    for seed in range(60):
        _, info = task.reset(seed=seed)
        begin, goal = (task.position_of(info[name]) for name in ("state", "goal_state"))
        moved = np.linalg.norm((goal - begin)[5:].reshape(3, 7)[:, :3], axis=1)
        assert (moved > 1e-9).sum() == 1 and moved.max() >= task.min_goal_distance
        assert goal[2] == REACH[1, 2] and (goal[3:5] == 0.0).all()
        stacked += any("on top of" in text for text in task.language.goals())
        task.set_state(info["goal_state"])
        act(task, 0.0, 0.0, 0.0, 0.0, steps=5)  # the goal is stable
        assert task.goal_distance(task.get_state(), info["goal_state"]) < 0.005
    assert 10 < stacked < 50


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (configuration(HIGH, (0.3, 0.0, HALF), *APART[1:]), "the red cube would be beside the table at x=0.300"),
        (configuration(HIGH, (-0.15, 0.0, -0.1), *APART[1:]), "the red cube would be inside or under the table at z=-0.100"),
        (configuration(HIGH, APART[0], APART[1], (0.02, 0.1, HALF)), "the green cube would be inside the blue cube"),
        (configuration((0.0, 0.0, 0.5), *APART), "the gripper would be out of its reach"),
    ],
)
def test_the_impossible_is_refused(task: MujocoTask, position: np.ndarray, message: str) -> None:
    for name in ("state", "goal_state"):
        with pytest.raises(UserError, match=f"{name} cannot be reached: {message}"):
            task.reset(options={name: task.make_state(position)})


def test_words_say_what_was_arranged(task: MujocoTask) -> None:
    stack = configuration(HIGH, (0.0, 0.1, 3 * HALF), (0.0, 0.1, HALF), (-0.15, -0.1, HALF))
    state = start(task, stack)
    assert task.language.read(task.language.caption(state)) == {
        "count": "three",
        "stacked": "red",
        "leftmost": "blue",
        "held": "nothing",
        "hand": "middle",
    }
    assert "the red cube is on top of the green cube" in " ".join(task.language.captions(state))
    assert "the blue cube at the front left" in task.language.goals(state)[0]
    held = configuration((0.2, 0.0, 0.15), (0.2, 0.0, 0.165), *APART[:2], closed=OPENING - HALF)
    assert task.language.read(task.language.caption(start(task, held))) == {
        "count": "three",
        "stacked": "none",
        "leftmost": "green",
        "held": "red",
        "hand": "right",
    }


def test_words_about_one_cube_a_cube_just_grasped_and_a_cube_above_another(task: MujocoTask) -> None:
    alone = configuration(HIGH, *APART)
    goals = task.language.goals(start(task, alone, **{"cube.count": 1}))
    assert goals[:2] == ["put the red cube at the left", "place the cube so that the red cube is at the left"]
    grasp(task)  # it still stands on the table
    assert cubes_of(task)[0, 2] < HALF + 0.003
    assert "the red cube is in the gripper" in task.language.captions()[3]
    above = configuration((0.0, 0.1, 0.13), (0.004, 0.1, 0.13 + 0.6 * HALF), APART[1], APART[2], closed=OPENING - HALF)
    assert "the red cube is above the green cube, the green cube is" in task.language.captions(start(task, above))[2]


def test_changes_name_what_moved(task: MujocoTask) -> None:
    grasp(task)
    before = task.get_state()
    act(task, 0.6, 0.0, 0.8, 0.0, steps=3)
    change = task.language.change(before, task.get_state())
    assert change == "the gripper moved right and up, the red cube was lifted and moved right"
    assert task.language.change(before, before) == "nothing moved"


def test_relations_are_true_and_each_question_is_as_often_yes_as_no(task: MujocoTask) -> None:
    rng, answers = np.random.default_rng(0), []
    for seed in range(150):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        position = task.position_of(info["state"])
        colors = str(info["variation"]["cube.colors"]).split("-")
        places = {f"the {color} cube": position[5 + 7 * i : 8 + 7 * i] for i, color in enumerate(colors)} | {
            "the gripper": position[:3]
        }
        for question, answer in task.language.relation_questions(rng, task.scene_of(position)):
            for words, axis, sign in (("left of", 0, 1), ("right of", 0, -1), ("in front of", 1, 1), ("behind", 1, -1)):
                if f" {words} " in question:
                    first, second = question.removeprefix("is ").removesuffix("?").split(f" {words} ")
                    assert (answer == "yes") == (sign * (places[second] - places[first])[axis] > 0)
            answers.append(answer == "yes")
    assert len(answers) > 250 and 0.4 < np.mean(answers) < 0.6


def test_demonstrator_stacks_grasps_again_and_clears_a_goal(task: MujocoTask) -> None:
    assert all(solves(task, task.demonstrator, seed, {"variation": "all"}) for seed in range(200, 206))
    swapped = configuration(HIGH, APART[1], APART[0], APART[2])
    options = {"state": task.make_state(configuration(HIGH, *APART)), "goal_state": task.make_state(swapped)}
    assert solves(task, task.demonstrator, 0, options), "both places are taken at first"
    obs, info = task.reset(seed=1)
    policy, dropped = task.demonstrator(np.random.default_rng(0)), False
    for _ in range(task.max_episode_steps):
        action = policy(obs, info)
        if cubes_of(task)[:, 2].max() > 0.07 and not dropped:
            act(task, 0.0, 0.0, 0.0, -1.0, steps=4)
            dropped = True
            action = np.array([0.0, 0.0, 0.0, -1.0])
        task.advance(action)
        info = task.info()
        if info["success"]:
            break
    assert dropped and info["success"]
