"""Other gymnasium environments as tasks: physics restored to the bit, true words, sensible refusals."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig, record_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.envs.adapter.task import SEED_FACTOR
from worldmodel.envs.language import WHAT_IF_STEPS
from worldmodel.errors import UserError

MUJOCO = ["HalfCheetah-v5", "Ant-v5", "InvertedPendulum-v5"]


class Walk(gymnasium.Env):
    """A dot on a line of ten fields; an episode ends at the right end."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Dict({"place": spaces.Box(0, 9, (1,)), "eye": spaces.Box(0, 255, (20, 20, 3), np.uint8)})

    def __init__(self, render_mode=None, action_space=None):
        self.render_mode = render_mode
        self.action_space = action_space or spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps_taken = int(self.np_random.integers(3)), 0
        return self._observe(), {}

    def step(self, action):
        assert self.place < 9, "stepped after its end"
        self.place = max(0, self.place + int(action) - 1)
        return self._observe(), float(self.place), self.place == 9, False, {}

    def _observe(self):
        return {"place": np.array([self.place], np.float32), "eye": np.full((20, 20, 3), 25 * self.place, np.uint8)}

    def render(self):
        frame = np.zeros((40, 60, 3), np.uint8)
        frame[:, 6 * self.place : 6 * self.place + 6] = 255
        return frame


class Forgetful(gymnasium.Env):
    """A pendulum whose motor grows stronger with every step: a memory that its physics does not hold."""

    def __init__(self, render_mode=None):
        self.inner = gymnasium.make("InvertedPendulum-v5").unwrapped
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.model, self.data = self.inner.model, self.inner.data

    def reset(self, *, seed=None, options=None):
        self.strength = 0.1
        return self.inner.reset(seed=seed)

    def step(self, action):
        self.strength *= 1.1
        return self.inner.step(np.clip(action * self.strength, -3, 3))


@pytest.fixture(autouse=True)
def _toys():
    gymnasium.register("test/Walk-v0", Walk, max_episode_steps=30)
    gymnasium.register("test/Forgetful-v0", Forgetful)
    yield
    del gymnasium.registry["test/Walk-v0"], gymnasium.registry["test/Forgetful-v0"]


@pytest.fixture
def make():
    tasks = []

    def build(env_id, **kwargs):
        tasks.append(make_task(env_id, **{"image_size": 32} | kwargs))
        return tasks[-1]

    yield build
    for task in tasks:
        task.close()


def actions_of(task, count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *task.action_space.shape))


# ---------------------------------------------------------------- MuJoCo


@pytest.mark.parametrize("env_id", MUJOCO)
def test_replay_from_a_state_is_bit_equal_in_another_instance(make, env_id):
    task, other = make(env_id), make(env_id)
    assert task.restorable
    task.reset(seed=3)
    actions = actions_of(task, 60)
    states = [task.get_state()] + [task.advance(action) or task.get_state() for action in actions]
    other.reset(seed=99)
    other.set_state(states[20])
    assert np.array_equal(other.render(), task.render_state(states[20]))
    for action, state in zip(actions[20:], states[21:], strict=True):
        other.advance(action)
        assert np.array_equal(other.get_state(), state)
    assert np.array_equal(other.render(), task.render())


def test_reward_end_and_physics_are_the_environments_own(make):
    task = make("Ant-v5")
    task.reset(seed=0)
    plain = gymnasium.make("Ant-v5").unwrapped
    plain.reset(seed=int(task.variation[SEED_FACTOR]))
    for action in actions_of(task, 30):
        task.language.questions(np.random.default_rng(0))
        task.render_state(task.get_state())
        _, reward, terminated, _, info = task.step(action)
        _, own_reward, own_terminated, _, _ = plain.step(np.float32(action))
        assert reward == pytest.approx(own_reward, abs=1e-6) and terminated == own_terminated
    assert np.allclose(task.position_of(info["state"]), plain.data.qpos, atol=1e-6)
    plain.close()


def test_actions_cover_the_environments_range(make):
    task = make("InvertedPendulum-v5")
    task.reset(seed=0)
    task.advance(np.array([-1.0]))
    assert task._world.data.ctrl == pytest.approx(task._world.action_space.low)
    task.advance(np.array([0.5]))
    assert task._world.data.ctrl == pytest.approx(task._world.action_space.high / 2)


def test_the_contract_holds(make):
    task = make("HalfCheetah-v5")
    check_env(task, skip_render_check=True)
    obs, info = task.reset(seed=0, options={"variation": "all"})
    assert obs["pixels"].shape == info["goal"].shape == (32, 32, 3) and np.ptp(obs["pixels"]) > 50
    assert not np.array_equal(obs["pixels"], info["goal"])
    assert info["features"].shape == (len(task.feature_names),) and np.abs(info["features"]).max() <= 1.1
    assert set(info["variation"]) == set(task.factors) and not info["success"]
    assert task.goal_distance(info["state"], info["goal_state"]) > task.success_threshold
    assert task.is_success(info["goal_state"], info["goal_state"])
    assert task.max_episode_steps == 1000 and task.step_seconds == pytest.approx(0.05)
    action = actions_of(task, 1)[0]
    assert task.parse_action(task.describe_action(action)) == pytest.approx(action, abs=1e-3)
    coarse = np.where(np.arange(len(action)) == 2, -0.8, 0.0)
    for form in ("words", "keys"):
        assert task.parse_action(task.describe_action(coarse, form)) == pytest.approx(coarse)


def test_the_seed_of_the_episode_repeats_it_and_asking_changes_nothing(make):
    task = make("HalfCheetah-v5")
    _, first = task.reset(seed=1)
    _, other = task.reset(seed=2)
    assert not np.array_equal(first["state"], other["state"])
    for _ in range(3):
        task.language.questions(np.random.default_rng(0))
    _, again = task.reset(seed=7, options={"variation_values": {SEED_FACTOR: first["variation"][SEED_FACTOR]}})
    for name in ("state", "goal_state", "goal"):
        assert np.array_equal(first[name], again[name])


def test_hidden_memory_is_noticed(make, caplog):
    caplog.set_level("INFO")
    task = make("test/Forgetful-v0")
    assert not task.restorable
    assert "test/Forgetful-v0 does not restore its state exactly: states and observations differ" in caplog.text
    assert all("what happens if" not in question for question, _ in task.language.questions(np.random.default_rng(0)))


def test_drawing_quality_and_cameras(make):
    fast, full = make("HalfCheetah-v5"), make("HalfCheetah-v5", render_quality="full")
    pictures = [(task.reset(seed=0), task.render())[1] for task in (fast, full)]
    assert not np.array_equal(*pictures) and fast.cameras == ("track",)
    with pytest.raises(UserError, match="unknown camera 'top': this task has track"):
        make("HalfCheetah-v5", camera="top")


# ---------------------------------------------------------------- Language


@pytest.mark.parametrize("env_id", ["Ant-v5", "test/Walk-v0"])
def test_words_are_true_of_the_state_and_read_back(make, env_id):
    task = make(env_id)
    task.reset(seed=0)
    answers = []
    for i, action in enumerate(actions_of(task, 40)):
        state = task.get_state()
        values = task.language.facts(state).coordinates
        for caption in task.language.captions():
            read = task.language.read(caption)
            assert set(read) == set(task.language.values)
            assert all(read[name] == ("above zero" if value > 0 else "at most zero") for name, value in values.items())
        for question, answer in task.language.questions(np.random.default_rng(i)):
            if " larger than coordinate " in question:
                a, b = question.removeprefix("is coordinate ").removesuffix("?").split(" larger than coordinate ")
                assert answer == ("yes" if values[a] > values[b] else "no")
                answers.append(answer)
            elif " larger than " in question:
                name, number = question.removeprefix("is coordinate ").removesuffix("?").split(" larger than ")
                assert answer == ("yes" if values[name] > float(number) else "no")
                answers.append(answer)
        task.advance(action)
        grew = task.language.change(state, task.get_state())
        for name, value in task.language.facts(task.get_state()).coordinates.items():
            change = value - values[name]
            assert grew != f"coordinate {name} increased" or change > 0
            assert grew != f"coordinate {name} decreased" or change < 0
    assert len(task.language.goals()) >= 3
    assert 8 < answers.count("yes") < 32


def test_what_if_says_what_the_action_does(make):
    task = make("HalfCheetah-v5")
    _, info = task.reset(seed=4)
    question, answer = task.language.what_if(np.random.default_rng(2), info["state"])
    action = task.parse_action(question.removeprefix("what happens if you ").removesuffix("?"))
    for _ in range(WHAT_IF_STEPS):
        task.advance(action)
    assert task.language.change(info["state"], task.get_state()) == answer


# ---------------------------------------------------------------- Not MuJoCo


def test_an_environment_without_physics_is_observed_and_stands_still_after_its_end(make):
    task = make("test/Walk-v0")
    obs, info = task.reset(seed=0)
    assert not task.restorable and task.max_episode_steps == 30 and task.action_names == ("choice_0", "choice_1", "choice_2")
    assert obs["proprio"].shape == (65,) and obs["pixels"].shape == (32, 32, 3)
    right = np.array([-1.0, 0.0, 0.5])
    ends, rewards = [], []
    for _ in range(12):
        before = obs
        obs, reward, terminated, _, info = task.step(right)
        ends.append(terminated)
        rewards.append(reward)
    assert ends[-1] and not ends[0] and rewards[-1] == 0.0 and max(rewards) == 9.0
    assert np.array_equal(obs["pixels"], before["pixels"]) and info["state"][0] == 9.0
    with pytest.raises(UserError, match="test/Walk-v0 cannot be set to a state, so planning in it is not possible; collecting and"):
        task.set_state(info["state"])
    with pytest.raises(UserError, match="cannot be set to a state"):
        task.reset(options={"state": info["state"]})


def test_environments_that_do_not_fit_are_refused(make):
    with pytest.raises(UserError, match=r"test/Walk-v0 takes actions MultiBinary\(3\): only a Box with finite bounds or"):
        make("test/Walk-v0", action_space=spaces.MultiBinary(3))
    with pytest.raises(UserError, match="only a Box with finite bounds"):
        make("test/Walk-v0", action_space=spaces.Box(-np.inf, 1, (2,)))
    with pytest.raises(UserError, match="cannot make HalfCheetah-v5: TypeError.*wheels"):
        make("HalfCheetah-v5", wheels=4)
    with pytest.raises(UserError, match="image_size=8"):
        make("HalfCheetah-v5", image_size=8)
    task = make("InvertedPendulum-v5")
    task.reset(seed=0)
    for action in ([2.0], [np.nan], [0.0, 0.0]):
        with pytest.raises(UserError, match="action"):
            task.step(np.array(action))
    with pytest.raises(UserError, match="state of shape"):
        task.set_state(np.zeros(3))
    with pytest.raises(UserError, match="no demonstrator.*--policies"):
        task.demonstrator(np.random.default_rng(0))


def test_collecting_an_environment_of_gymnasium(tmp_path):
    config = CollectConfig(
        env="HalfCheetah-v5",
        out=tmp_path / "x.h5",
        episodes=2,
        workers=2,
        max_steps=6,
        image_size=32,
        policies={"random": 0.5, "smooth": 0.5},
    )
    collect(config)
    with EpisodeStore(config.path) as store:
        assert len(store) == 2 and store.meta["env_id"] == "HalfCheetah-v5" and store.meta["restorable"] is True
        task = make_task("HalfCheetah-v5", image_size=32)
        episode = store.episode(1)
        task.reset(options={"variation_values": episode.variation})
        returned = []
        for action, state in zip(episode.actions, episode.state[1:], strict=True):
            _, *outcome, _ = task.step(action)
            assert np.array_equal(task.get_state(), state)
            returned.append(tuple(outcome))
        assert list(zip(episode.reward, episode.terminated, episode.truncated, strict=True)) == returned
        assert len(set(episode.reward)) == 6
        task.close()


def test_the_reward_of_an_action_and_the_end_are_recorded_with_it(make):
    task = make("test/Walk-v0")
    config = CollectConfig(env="test/Walk-v0", policies={"random": 1}, max_steps=400, image_size=32)
    episode = record_episode(task, config, 0)
    assert len(episode) < 400 and episode.reward.tolist() == episode.state[1:, 0].tolist() and episode.reward[-1] == 9.0
    assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True] and not episode.truncated.any()
    blocks = record_episode(task, replace(config, action_block=2), 0)
    assert blocks.reward.tolist() == [sum(pair) for pair in zip(episode.reward[0::2], episode.reward[1::2], strict=False)]
    task._world.truncated = True
    assert task.outcome(task.info())[2], "cut by the environment itself"


def test_collecting_with_demonstrators_says_what_to_use_instead(tmp_path):
    config = CollectConfig(
        env="HalfCheetah-v5", out=tmp_path / "x.h5", episodes=2, workers=1, max_steps=3, policies={"demonstrator": 1.0}
    )
    with pytest.raises(UserError, match="HalfCheetah-v5 has no demonstrator.*random, smooth"):
        collect(config)
