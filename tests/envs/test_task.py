"""Laws of the suite, for every registered task."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.rendering import Renderer
from worldmodel.envs.task import MujocoTask, Policy
from worldmodel.errors import UserError

UNSEEN_FACTORS = {"disc.speed", "arm.speed"}
"""Factors that no single picture shows."""


@pytest.fixture(scope="module", params=task_ids())
def env_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def task(env_id: str) -> Iterator[MujocoTask]:
    task = make_task(env_id)
    yield task
    task.close()


def bang_bang(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Full actions held for 15 steps: they drive everything into walls and joint limits. (steps, size)."""
    return rng.choice([-1.0, 1.0], size=(steps // 15 + 1, size)).repeat(15, axis=0)[:steps]


def count_successes(task: MujocoTask, policy_of: Any, seeds: range, **options: Any) -> int:
    successes = 0
    for seed in seeds:
        obs, info = task.reset(seed=seed, options=options)
        policy: Policy = policy_of(np.random.default_rng(seed))
        for _ in range(task.max_episode_steps):
            obs, _, terminated, _, info = task.step(policy(obs, info))
            if terminated:
                successes += 1
                break
    return successes


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
    while not terminated:
        obs, reward, terminated, _, info = task.step(policy(obs, info))
        rewards.append(reward)
        assert reward == -task.goal_distance(info["state"], info["goal_state"])
        assert terminated == info["success"] == (-reward <= task.success_threshold)
    assert rewards[-1] > rewards[0]


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
        other.reset(seed=99)
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
    obs, other = task.reset(seed=2, options={"state": info["goal_state"], "goal_state": info["state"]})
    assert np.array_equal(other["state"], info["goal_state"])
    assert np.array_equal(obs["pixels"], info["goal"])
    assert np.array_equal(other["goal_state"], info["state"])
    assert np.array_equal(other["goal"], task.render_state(info["state"]))


def test_sampled_goals_are_apart_and_solvable_states(task: MujocoTask) -> None:
    for seed in range(100):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        assert not info["success"]
        assert task.goal_distance(info["state"], info["goal_state"]) >= task.min_goal_distance
        for state in (info["state"], info["goal_state"]):
            task.set_state(state)
            task.advance(np.zeros(len(task.action_names)))
            assert task.data.ncon == 0
            assert np.array_equal(task.position_of(task.get_state()), task.position_of(state))


def test_a_given_goal_is_not_already_solved(task: MujocoTask) -> None:
    goal = task.make_state(task.sample_position(np.random.default_rng(0)))
    assert not any(task.reset(seed=s, options={"goal_state": goal})[1]["success"] for s in range(100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stat": 1}, "unknown reset option 'stat'.*goal_state"),
        ({"variation": ["disk.colour"]}, "unknown factor of variation 'disk.colour'.*floor.color"),
        ({"variation": "floor.color"}, "expected a list of factor names or 'all'"),
        ({"variation_values": {"nope": 1}}, "unknown factor of variation 'nope'"),
        ({"variation_values": ["floor.color"]}, "expected a dictionary"),
        ({"variation_values": {"floor.color": "plaid"}}, "'plaid'.*cream"),
        ({"variation_values": {"light.brightness": 7.0}}, r"7.0.*\[0.7, 1.0\]"),
        ({"variation_values": {"light.brightness": "dim"}}, "'dim'.*number"),
    ],
)
def test_bad_options_are_refused(task: MujocoTask, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.reset(options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"image_size": 8}, "image_size=8"),
        ({"frame_skip": 0}, "frame_skip=0"),
    ],
)
def test_bad_arguments_are_refused(task: MujocoTask, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        type(task)(**arguments)


# ---------------------------------------------------------------- Actions


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0, 1.01], r"1.01\] is out of bounds.*\[-1, 1\]"),
        ([0.0, -2.0], r"-2.0\] is out of bounds"),
        ([np.nan, 0.0], "nan.*out of bounds"),
        ([np.inf, 0.0], "inf.*out of bounds"),
        ([0.0], r"shape \(1,\): expected \(2,\)"),
        ([[0.0, 0.0]], r"shape \(1, 2\): expected \(2,\)"),
    ],
)
def test_bad_action_is_refused_and_changes_nothing(task: MujocoTask, action: Any, message: str) -> None:
    task.reset(seed=0)
    state = task.get_state()
    with pytest.raises(UserError, match=message):
        task.step(np.array(action))
    assert np.array_equal(task.get_state(), state)


def test_rounding_errors_at_the_bound_are_accepted(task: MujocoTask) -> None:
    task.reset(seed=0)
    state = task.get_state()
    task.step(np.full(2, np.nextafter(np.float32(1), np.float32(2))))
    beyond = task.get_state()
    task.set_state(state)
    task.step(np.ones(2))
    assert np.array_equal(task.get_state(), beyond)


def test_action_text_round_trip(task: MujocoTask) -> None:
    for action in np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32):
        text = task.describe_action(action)
        parsed = task.parse_action(text)
        assert parsed.dtype == np.float32
        np.testing.assert_allclose(parsed, action, atol=0.00051)
        assert task.describe_action(parsed) == text
        assert task.action_space.contains(parsed)


# ---------------------------------------------------------------- Language


def test_caption_reads_back_as_the_truth(task: MujocoTask) -> None:
    seen: dict[str, set[str]] = {name: set() for name in task.attributes}
    for seed in range(300):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        truth = task.attributes_of(task.position_of(info["state"]))
        assert task.caption_attributes(info["caption"]) == truth
        assert info["caption"] == task.caption() == task.caption(info["state"])
        for name, value in truth.items():
            seen[name].add(value)
    assert {name: set(values) for name, values in task.attribute_values.items()} == seen


def test_questions_are_true_and_balanced(task: MujocoTask) -> None:
    yes: dict[str, list[bool]] = {name: [] for name in task.attributes}
    rng = np.random.default_rng(0)
    for seed in range(300):
        _, info = task.reset(seed=seed, options={"variation": "all"})
        truth = task.attributes_of(task.position_of(info["state"]))
        pairs = task.questions(rng)
        assert len(pairs) == 2 * len(task.attributes)
        for name, (_, value), (question, answer) in zip(truth, pairs[::2], pairs[1::2], strict=True):
            assert value == truth[name]
            assert (answer == "yes") == (task.attributes[name].phrases[value] in question)
            yes[name].append(answer == "yes")
    for answers in yes.values():
        assert 0.4 < np.mean(answers) < 0.6


def test_questions_about_another_state(task: MujocoTask) -> None:
    _, info = task.reset(seed=0)
    other = task.make_state(np.array([-0.8, 0.8]))
    answers = dict(task.questions(np.random.default_rng(0), other))
    truth = task.caption_attributes(task.caption(other))
    assert [answers[attribute.question] for attribute in task.attributes.values()] == list(truth.values())
    assert np.array_equal(task.get_state(), info["state"])


# ---------------------------------------------------------------- Variation


def extremes(task: MujocoTask, name: str) -> tuple[Any, Any]:
    factor = task.factors[name]
    return (factor.choices[0], factor.choices[-1]) if factor.choices else (factor.low, factor.high)


def test_every_factor_changes_the_picture_or_the_dynamics(task: MujocoTask) -> None:
    state = task.make_state(np.array([-0.5, 0.5]))
    for name in task.factors:
        frames, ends = [], []
        for value in extremes(task, name):
            obs, _ = task.reset(options={"state": state, "variation_values": {name: value}})
            frames.append(obs["pixels"])
            for _ in range(5):
                task.advance(np.array([-0.7, 0.6]))
            ends.append(task.get_state())
        assert (not np.array_equal(*frames)) == (name not in UNSEEN_FACTORS), name
        assert (not np.array_equal(*ends)) or name not in UNSEEN_FACTORS, name


def test_only_listed_factors_vary_and_nothing_stays_behind(task: MujocoTask) -> None:
    defaults = {name: factor.default for name, factor in task.factors.items()}
    obs, info = task.reset(seed=0)
    assert info["variation"] == defaults
    _, info = task.reset(seed=1, options={"variation": "all"})
    assert all(info["variation"][name] != defaults[name] for name in defaults if not task.factors[name].choices)
    _, info = task.reset(seed=2, options={"variation": ["floor.color", "light.brightness"]})
    assert {name for name in defaults if info["variation"][name] != defaults[name]} <= {
        "floor.color",
        "light.brightness",
    }
    assert info["variation"]["light.brightness"] != defaults["light.brightness"]
    assert np.array_equal(task.reset(seed=0)[0]["pixels"], obs["pixels"])


def test_values_win_over_samples(task: MujocoTask) -> None:
    _, info = task.reset(seed=0, options={"variation": "all", "variation_values": {"light.brightness": 0.75}})
    assert info["variation"]["light.brightness"] == 0.75


def test_goal_is_drawn_under_the_variation(task: MujocoTask) -> None:
    options = {"variation_values": {"floor.color": "mint"}}
    _, info = task.reset(seed=0, options=options)
    plain = task.reset(seed=0)[1]
    assert np.array_equal(plain["goal_state"], info["goal_state"])
    assert not np.array_equal(plain["goal"], info["goal"])


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
    monkeypatch.setattr(Renderer, "render", lambda self, data: draws.append(1) or plain(self, data))
    task.reset(seed=0)
    assert len(draws) == 2  # the goal and the first frame
    obs, *_ = task.step(np.zeros(2))
    assert np.array_equal(task.render(), obs["pixels"])
    assert len(draws) == 3
    task.advance(np.zeros(2))
    assert len(draws) == 3


def test_frames_belong_to_the_caller(task: MujocoTask) -> None:
    obs, info = task.reset(seed=0)
    obs["pixels"][:] = 0
    info["goal"][:] = 0
    info["goal_state"][:] = 0
    assert task.render().any()
    *_, after = task.step(np.zeros(2))
    assert after["goal"].any() and after["goal_state"].any()


# ---------------------------------------------------------------- Demonstrators


def test_demonstrator_succeeds_where_chance_does_not(task: MujocoTask) -> None:
    def random_policy(rng: np.random.Generator) -> Policy:
        return lambda obs, info: rng.uniform(-1, 1, 2).astype(np.float32)

    assert count_successes(task, task.demonstrator, range(100)) >= 95
    assert count_successes(task, task.demonstrator, range(100, 160), variation="all") >= 57
    assert count_successes(task, random_policy, range(100)) <= 20


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
