"""Laws of the physics, the states and the pictures, for every registered task."""

import re
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.envs.laws import bang_bang, first_factor
from worldmodel.envs import make_task
from worldmodel.envs.demonstrators import solves
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.rendering import Renderer
from worldmodel.envs.task import Policy
from worldmodel.errors import UserError

# ---------------------------------------------------------------- gymnasium


def test_check_env_finds_nothing(env_id: str) -> None:
    with gymnasium.make(env_id) as env:
        check_env(env.unwrapped)  # warnings are errors


def test_time_limit_is_the_tasks_own(env_id: str) -> None:
    with gymnasium.make(env_id) as env:
        _, info = env.reset(seed=0, options={"variation": "all"})
        still = np.zeros(env.action_space.shape, np.float32)
        ends = [env.step(still)[2:4] for _ in range(env.unwrapped.max_episode_steps)]
    assert ends[:-1] == [(False, False)] * (len(ends) - 1)
    assert ends[-1] == (False, True)


def test_vector_env_equals_single_envs(env_id: str) -> None:
    vector = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode="sync")
    obs, _ = vector.reset(seed=[3, 4])
    vector.close()
    with gymnasium.make(env_id) as env:
        for i, seed in enumerate((3, 4)):
            assert np.array_equal(obs["pixels"][i], env.reset(seed=seed)[0]["pixels"])


def test_seed_decides_the_episode(task: MujocoTask) -> None:
    first = task.reset(seed=5, options={"variation": "all"})
    again = task.reset(seed=5, options={"variation": "all"})
    other = task.reset(seed=6, options={"variation": "all"})
    assert np.array_equal(first[0]["pixels"], again[0]["pixels"])
    assert np.array_equal(first[1]["goal"], again[1]["goal"])
    assert first[1]["variation"] == again[1]["variation"]
    assert not np.array_equal(first[1]["state"], other[1]["state"])
    assert not np.array_equal(first[1]["goal_state"], other[1]["goal_state"])


def test_info_holds_the_contract(task: MujocoTask) -> None:
    _, info = task.reset(seed=0)
    *_, stepped = task.step(task.action_space.sample())
    for each in (info, stepped):
        state_shape = task.get_state().shape
        assert each["state"].dtype == np.float64 and each["state"].shape == state_shape
        assert each["goal_state"].dtype == np.float64 and each["goal_state"].shape == state_shape
        assert each["goal"].dtype == np.uint8 and each["goal"].shape == (64, 64, 3)
        assert each["features"].dtype == np.float32 and each["features"].shape == (len(task.feature_names),)
        assert np.abs(each["features"]).max() <= 1.1
        assert isinstance(each["success"], bool) and isinstance(each["caption"], str)
        assert set(each["variation"]) == set(task.factors)


def test_reward_is_the_negative_distance_and_success_terminates(task: MujocoTask) -> None:
    _, info = task.reset(seed=0)
    policy = task.demonstrator(np.random.default_rng(0))
    obs: dict[str, np.ndarray] = {}
    rewards, terminated = [], False
    while not terminated and len(rewards) < task.max_episode_steps:
        obs, reward, terminated, _, info = task.step(policy(obs, info))
        rewards.append(reward)
        assert reward == -task.goal_distance(info["state"], info["goal_state"])
        assert terminated == info["success"] == (-reward <= task.success_threshold)
    assert terminated and rewards[-1] > rewards[0]


# ---------------------------------------------------------------- State


def test_replay_from_a_state_is_bit_equal(env_id: str, task: MujocoTask) -> None:
    actions = bang_bang(np.random.default_rng(0), 300, len(task.action_names))
    task.reset(seed=0)
    states, constrained = [task.get_state()], 0
    for action in actions:
        task.advance(action)
        states.append(task.get_state())
        constrained += task.data.nefc > 0
    assert constrained > 50, "the replay must go through contacts or joint limits"

    for start in (0, 137):
        other = make_task(env_id)
        other.reset(seed=99, options={"variation_values": task.variation})
        other.set_state(states[start])
        for action, state in zip(actions[start:], states[start + 1 :], strict=True):
            other.advance(action)
            assert np.array_equal(other.get_state(), state)
        assert np.array_equal(other.render(), task.render())
        other.close()


def test_set_state_shows_the_state(task: MujocoTask) -> None:
    obs, info = task.reset(seed=0)
    for _ in range(5):
        task.step(np.ones(len(task.action_names)))
    assert not np.array_equal(task.render(), obs["pixels"])
    task.set_state(info["state"])
    assert np.array_equal(task.get_state(), info["state"])
    assert np.array_equal(task.render(), obs["pixels"])
    assert np.array_equal(task.features(), info["features"])


def test_render_state_leaves_no_trace(task: MujocoTask) -> None:
    visited = [task.reset(seed=0)[0]["pixels"]]
    states = [task.get_state()]
    for action in bang_bang(np.random.default_rng(1), 30, len(task.action_names)):
        visited.append(task.step(action)[0]["pixels"])
        states.append(task.get_state())
    for frame, state in zip(visited, states, strict=True):
        assert np.array_equal(task.render_state(state), frame)
        assert np.array_equal(task.get_state(), states[-1])
    assert np.array_equal(task.render(), visited[-1])

    action = np.full(len(task.action_names), 0.5)
    task.advance(action)
    expected = task.get_state()
    task.set_state(states[-1])
    task.render_state(states[0])
    task.advance(action)
    assert np.array_equal(task.get_state(), expected)


@pytest.mark.parametrize(
    ("state", "message"),
    [(np.zeros(3), r"shape \(3,\)"), ("nan", "state holds nan"), ("inf", "state holds inf")],
)
def test_bad_state_is_refused(task: MujocoTask, state: Any, message: str) -> None:
    if isinstance(state, str):
        state = np.where(np.arange(len(task.get_state())) == 1, float(state), task.get_state())
    for use in (task.set_state, task.render_state, lambda bad: task.reset(options={"goal_state": bad})):
        with pytest.raises(UserError, match=message):
            use(state)


# ---------------------------------------------------------------- Reset


def test_reset_takes_state_and_goal_state(task: MujocoTask) -> None:
    _, info = task.reset(seed=1)
    swapped = {"state": info["goal_state"], "goal_state": info["state"]}
    obs, other = task.reset(seed=2, options=swapped | {"variation_values": info["variation"]})
    assert np.array_equal(other["state"], info["goal_state"])
    assert np.array_equal(obs["pixels"], info["goal"])
    assert np.array_equal(other["goal_state"], info["state"])
    assert np.array_equal(other["goal"], task.render_state(info["state"]))


def test_sampled_starts_and_goals_are_possible_and_apart(task: MujocoTask) -> None:
    for seed in range(100):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        assert not info["success"]
        assert task.goal_distance(info["state"], info["goal_state"]) >= task.min_goal_distance
        for state in (info["state"], info["goal_state"]):
            assert task.invalid_reason(task.position_of(state)) is None
        assert np.abs(info["features"]).max() <= 1.1


def test_what_contacts_do_is_a_possible_start(task: MujocoTask) -> None:
    for seed in range(10):
        task.reset(seed=seed, options={"variation": "all"})
        values = dict(task.variation)
        for action in bang_bang(np.random.default_rng(seed), 60, len(task.action_names)):
            task.advance(action)
            assert np.abs(task.features()).max() <= 1.1
        state = task.get_state()
        _, info = task.reset(seed=0, options={"state": state, "variation_values": values})
        assert np.array_equal(info["state"], state)


def test_no_contact_is_missed(env_id: str, task: MujocoTask) -> None:
    """Geoms that a factor moved or resized still collide: MuJoCo's quick rejection of pairs uses compiled bounds."""
    slow = make_task(env_id)
    slow.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)
    for seed in range(6):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        slow.reset(options={"state": info["state"], "goal_state": info["goal_state"], "variation_values": info["variation"]})
        for action in bang_bang(np.random.default_rng(seed), 60, len(task.action_names)):
            task.advance(action)
            slow.advance(action)
            np.testing.assert_allclose(task.get_state(), slow.get_state(), rtol=0, atol=1e-6)  # their order may differ
    slow.close()


def test_no_warning_of_the_physics_over_100_seeds(task: MujocoTask) -> None:
    for seed in range(100):
        task.reset(seed=seed, options={"variation": "all"})
        for action in bang_bang(np.random.default_rng(seed), 30, len(task.action_names)):
            task.advance(action)
        assert [int(warning.number) for warning in task.data.warning] == [0] * len(task.data.warning), seed


def test_a_given_goal_is_not_already_solved(task: MujocoTask) -> None:
    goal = task.make_state(task.sample_position(np.random.default_rng(0)))
    options = {"goal_state": goal, "variation_values": task.variation}
    assert not any(task.reset(seed=seed, options=options)[1]["success"] for seed in range(30))


def test_bad_options_are_refused(task: MujocoTask) -> None:
    name, number = first_factor(task, choices=True), first_factor(task, choices=False)
    low, high = task.factors[number].low, task.factors[number].high
    for options, message in (
        ({"stat": 1}, "unknown reset option 'stat'.*goal_state"),
        ({"variation": ["disk.colour"]}, f"unknown factor of variation 'disk.colour'.*{name}"),
        ({"variation": name}, "expected a list of factor names or 'all'"),
        ({"variation_values": {"nope": 1}}, "unknown factor of variation 'nope'"),
        ({"variation_values": [name]}, "expected a dictionary"),
        ({"variation_values": {name: "plaid"}}, f"'plaid'.*{task.factors[name].choices[0]}"),
        ({"variation_values": {number: high + 1.0}}, rf"{re.escape(str(high + 1.0))}.*\[{low}, {high}\]"),
        ({"variation_values": {number: "dim"}}, "'dim'.*number"),
    ):
        with pytest.raises(UserError, match=message):
            task.reset(options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"image_size": 8}, "image_size=8"),
        ({"frame_skip": 0}, "frame_skip=0"),
        ({"camera": "back"}, "unknown camera 'back': this task has"),
        ({"render_quality": "best"}, "render_quality='best'"),
    ],
)
def test_bad_arguments_are_refused(task: MujocoTask, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        type(task)(**arguments)


# ---------------------------------------------------------------- Pictures


@pytest.mark.parametrize("size", [32, 96])
def test_image_size(env_id: str, size: int) -> None:
    task = make_task(env_id, image_size=size)
    obs, info = task.reset(seed=0)
    assert obs["pixels"].shape == info["goal"].shape == task.render().shape == (size, size, 3)
    task.close()


def test_a_step_renders_once(task: MujocoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    plain = Renderer.render
    monkeypatch.setattr(Renderer, "render", lambda self, data, camera: draws.append(1) or plain(self, data, camera))
    task.reset(seed=0)
    assert len(draws) == 2  # the goal and the first frame
    obs, *_ = task.step(np.zeros(len(task.action_names)))
    assert np.array_equal(task.render(), obs["pixels"])
    assert len(draws) == 3
    task.advance(np.zeros(len(task.action_names)))
    assert len(draws) == 3


def test_frames_belong_to_the_caller(task: MujocoTask) -> None:
    obs, info = task.reset(seed=0)
    obs["pixels"][:] = 0
    info["goal"][:] = 0
    info["goal_state"][:] = 0
    assert task.render().any()
    *_, after = task.step(np.zeros(len(task.action_names)))
    assert after["goal"].any() and after["goal_state"].any()


def test_cameras_see_the_same_moment_differently(task: MujocoTask) -> None:
    obs, _ = task.reset(seed=0)
    frames = {camera: task.render(camera) for camera in task.cameras}
    assert len(frames) >= 2
    assert np.array_equal(frames[task.camera], obs["pixels"])
    assert len({frame.tobytes() for frame in frames.values()}) == len(frames)
    assert np.array_equal(task.render_state(task.get_state(), task.cameras[-1]), frames[task.cameras[-1]])
    with pytest.raises(UserError, match="unknown camera 'back'"):
        task.render("back")


def test_camera_and_quality_of_the_observation(env_id: str, task: MujocoTask) -> None:
    task.reset(seed=0)
    other = make_task(env_id, camera=task.cameras[-1])
    assert np.array_equal(other.reset(seed=0)[0]["pixels"], task.render(task.cameras[-1]))
    other.close()
    full = make_task(env_id, render_quality="full")
    _, info = full.reset(seed=0)
    assert np.array_equal(info["state"], task.get_state()), "the quality of drawing changes no physics"
    assert not np.array_equal(full.render(), task.render())
    full.close()


# ---------------------------------------------------------------- Demonstrators


@pytest.mark.parametrize("options", [{}, {"variation": "all"}])
def test_demonstrator_succeeds_where_chance_does_not(task: MujocoTask, options: dict[str, Any]) -> None:
    def random_policy(rng: np.random.Generator) -> Policy:
        return lambda obs, info: rng.uniform(-1, 1, len(task.action_names)).astype(np.float32)

    assert sum(solves(task, task.demonstrator, seed, options) for seed in range(20)) >= 18
    assert sum(solves(task, random_policy, seed, options) for seed in range(20)) <= 8


def test_demonstrator_acts_within_bounds_and_repeats_itself(task: MujocoTask) -> None:
    runs = []
    for _ in range(2):
        obs, info = task.reset(seed=3)
        policy, actions = task.demonstrator(np.random.default_rng(3)), []
        for _ in range(20):
            actions.append(policy(obs, info))
            assert actions[-1].dtype == np.float32 and task.action_space.contains(actions[-1])
            obs, *_, info = task.step(actions[-1])
        runs.append(actions)
    assert np.array_equal(runs[0], runs[1])
