from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from worldmodel.datasets.episode import same_episode
from worldmodel.datasets.policies import draw_policy, make_policy
from worldmodel.datasets.recording import CollectConfig, record_episode
from worldmodel.envs import make_task
from worldmodel.envs.task import MujocoTask
from worldmodel.errors import UserError

CONFIG = CollectConfig(image_size=32, max_steps=12, variation=("all",))


@pytest.fixture(scope="module", params=["worldmodel/TwoRoom-v0", "worldmodel/Reacher-v0"])
def task(request: pytest.FixtureRequest) -> Iterator[MujocoTask]:
    task = make_task(request.param, image_size=32)
    yield task
    task.close()


def test_episode_depends_on_seed_and_index_alone(task: MujocoTask) -> None:
    first = record_episode(task, CONFIG, 4)
    other = record_episode(task, CONFIG, 5)
    record_episode(task, replace(CONFIG, variation=()), 6)
    again = record_episode(task, replace(CONFIG, workers=7, episodes=1000), 4)
    assert same_episode(first, again)
    assert first.seed != other.seed and first.frames.tobytes() != other.frames.tobytes()
    assert not same_episode(first, record_episode(task, replace(CONFIG, seed=1), 4))


def test_action_leaves_its_frame_and_arrives_at_the_next(task: MujocoTask) -> None:
    episode = record_episode(task, replace(CONFIG, policies={"smooth": 1}), 0)
    task.reset(options={"variation_values": episode.variation, "state": episode.state[0]})
    assert len(episode) == 12 and episode.frames.shape == (13, 32, 32, 3)
    for t, action in enumerate(episode.actions):
        task.set_state(episode.state[t])
        np.testing.assert_array_equal(task.render(), episode.frames[t])
        assert episode.captions[t] in task.captions()
        assert task.describe_action(action, "words") == episode.action_words[t]
        assert task.describe_change(episode.state[t], episode.state[t + 1]) == episode.changes[t]
        np.testing.assert_array_equal(task.features(), episode.features[t])
        obs, _, _, _, info = task.step(action)
        np.testing.assert_array_equal(info["state"], episode.state[t + 1])
        np.testing.assert_array_equal(obs["proprio"], episode.proprio[t + 1])
        np.testing.assert_allclose(task.parse_action(episode.action_texts[t]), action, atol=5e-4)


def test_every_policy_stays_in_bounds_and_differs(task: MujocoTask) -> None:
    actions = {}
    for name in ("demonstrator", "noisy", "smooth", "random", "play"):
        episode = record_episode(task, replace(CONFIG, policies={name: 1}, max_steps=40), 1)
        assert episode.policy == name
        assert np.abs(episode.actions).max() <= 1
        actions[name] = episode.actions.tobytes()
    assert len(set(actions.values())) == 5


def test_demonstrator_succeeds_and_the_episode_goes_on(task: MujocoTask) -> None:
    config = replace(CONFIG, policies={"demonstrator": 1}, max_steps=50)
    for index in range(4):
        episode = record_episode(task, config, index)
        assert len(episode) == 50 and episode.success[-1]


def test_smooth_actions_change_slower_than_random_ones(task: MujocoTask) -> None:
    def roughness(name: str) -> float:
        rng = np.random.default_rng(0)
        policy = make_policy(name, task, rng, noise=0.5)
        actions = np.stack([policy({}, {"success": False}) for _ in range(400)])
        return float(np.abs(np.diff(actions, axis=0)).mean() / actions.std())

    assert roughness("smooth") < 0.5 * roughness("random")


def test_questions_and_variation_are_sampled(task: MujocoTask) -> None:
    episode = record_episode(task, CONFIG, 0)
    assert len(set(episode.questions)) > 2 and all(episode.answers)
    assert set(episode.variation) == set(task.factors)
    one = next(iter(task.factors))
    fixed = [record_episode(task, replace(CONFIG, variation=(one,), max_steps=1), i).variation for i in range(6)]
    assert len({str(variation[one]) for variation in fixed}) > 1
    assert all(variation[name] == task.factors[name].default for variation in fixed for name in variation if name != one)


def test_policies_are_drawn_by_their_shares() -> None:
    shares = {"demonstrator": 2, "noisy": 1, "smooth": 1, "random": 0}
    rng = np.random.default_rng(0)
    drawn = Counter(draw_policy(shares, rng) for _ in range(2000))
    assert set(drawn) == {"demonstrator", "noisy", "smooth"}
    assert abs(drawn["demonstrator"] - 1000) < 90  # four standard deviations


def test_bad_mixes_and_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="noisy=-1"):
        CollectConfig(policies={"noisy": -1})
    with pytest.raises(UserError, match="random=nan"):
        CollectConfig(policies={"random": float("nan")})
    with pytest.raises(UserError, match="all policy shares are 0"):
        CollectConfig(policies={"random": 0})
    for field, value in {
        "episodes": 0,
        "workers": 0,
        "seed": -1,
        "noise": float("nan"),
        "start_timeout": 0,
    }.items():
        with pytest.raises(UserError, match=field.replace("_", "-")):
            replace(CollectConfig(), **{field: value})
