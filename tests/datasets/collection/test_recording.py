from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from worldmodel.datasets.collection.policies import draw_policy, make_policy
from worldmodel.datasets.collection.recording import CollectConfig, open_task, record_episode
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.envs import make_task
from worldmodel.envs.mujoco_task import MujocoTask
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
    task.reset(options={"variation_values": episode.variation, "state": episode.state[0], "goal_state": episode.goal_state})
    assert len(episode) == 12 and episode.frames.shape == (13, 32, 32, 3)
    returned = []
    for t, action in enumerate(episode.actions):
        task.set_state(episode.state[t])
        np.testing.assert_array_equal(task.render(), episode.frames[t])
        assert episode.captions[t] in task.language.captions()
        assert task.describe_action(action, "words") == episode.action_words[t]
        assert task.language.change(episode.state[t], episode.state[t + 1]) == episode.changes[t]
        np.testing.assert_array_equal(task.features(), episode.features[t])
        obs, reward, terminated, truncated, info = task.step(action)
        returned.append((reward, terminated, truncated))
        np.testing.assert_array_equal(info["state"], episode.state[t + 1])
        np.testing.assert_array_equal(obs["proprio"], episode.proprio[t + 1])
        np.testing.assert_allclose(task.parse_action(episode.action_texts[t]), action, atol=5e-4)
    assert list(zip(episode.reward, episode.terminated, episode.truncated, strict=True)) == returned


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
        assert np.array_equal(episode.terminated, episode.success[1:]) and not episode.truncated.any()


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


def test_additional_cameras_see_the_same_states(task: MujocoTask) -> None:
    other = task.cameras[1]
    episode = record_episode(task, replace(CONFIG, cameras=(other,), max_steps=4), 2)
    assert list(episode.views) == [other] and episode.views[other].shape == (5, 32, 32, 3)
    task.reset(options={"variation_values": episode.variation, "state": episode.state[0]})
    for t in (1, 4):
        task.set_state(episode.state[t])
        np.testing.assert_array_equal(task.render(other), episode.views[other][t])
    assert same_episode(replace_views(episode), record_episode(task, replace(CONFIG, max_steps=4), 2))


def replace_views(episode: Episode) -> Episode:
    return replace(episode, views={})


@pytest.mark.parametrize(("changes", "words"), [({"cameras": ("back",)}, "unknown camera 'back'"), ({"camera": "back"}, "'back'")])
def test_unknown_cameras_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_task(replace(CONFIG, **changes))


def test_the_camera_of_the_observation_is_not_recorded_twice(task: MujocoTask) -> None:
    first, second = task.cameras[:2]
    env_id = f"worldmodel/{type(task).__name__}-v0"
    with pytest.raises(UserError, match="takes the observation already"):
        open_task(replace(CONFIG, env=env_id, cameras=(first,)))
    other = open_task(replace(CONFIG, env=env_id, camera=second, cameras=(first,)))
    assert other.camera == second
    other.close()


def test_blocks_keep_every_kth_frame_and_all_actions(task: MujocoTask) -> None:
    only_state = replace(CONFIG, policies={"demonstrator": 1}, max_steps=12)  # the demonstrators look at no pixels
    single, blocks = record_episode(task, only_state, 3), record_episode(task, replace(only_state, action_block=4), 3)
    assert len(blocks) == 3
    for name in ("frames", "state", "proprio", "features", "success"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(single, name)[::4])
    np.testing.assert_array_equal(blocks.actions, single.actions.reshape(3, -1))
    np.testing.assert_allclose(blocks.reward, single.reward.reshape(3, -1).sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(blocks.terminated, single.terminated.reshape(3, -1).any(axis=1))
    assert blocks.action_texts[1] == "; ".join(single.action_texts[4:8])
    assert blocks.action_words[2] == "; ".join(single.action_words[8:12])
    assert blocks.changes[0] == task.language.change(single.state[0], single.state[4])


def test_the_end_of_any_action_of_a_block_is_its_end(task: MujocoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([(1.0, False, False)] * 4 + [(2.0, True, False), (3.0, False, False), (4.0, False, False), (5.0, False, True)])
    monkeypatch.setattr(task, "outcome", lambda info: next(outcomes))
    episode = record_episode(task, replace(CONFIG, max_steps=8, action_block=2), 0)
    assert episode.reward.tolist() == [2, 2, 5, 9]
    assert episode.terminated.tolist() == [False, False, True, False] and episode.truncated.tolist() == [False, False, False, True]


def test_a_reward_that_is_no_number_is_refused(task: MujocoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "outcome", lambda info: (float("nan"), False, False))
    with pytest.raises(UserError, match="reward of episode 0 .* not finite"):
        record_episode(task, CONFIG, 0)


def test_nothing_is_drawn_inside_a_block(task: MujocoTask, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = task.draw
    monkeypatch.setattr(task, "draw", lambda camera, state=None: drawn.append(camera) or draw(camera, state))
    record_episode(task, replace(CONFIG, action_block=6), 0)
    assert len(drawn) == 1 + 3  # the goal, and one picture per recorded state


@pytest.mark.parametrize(("stop", "recorded"), [(7, 2), (12, 4)])
def test_an_environment_that_cannot_go_on_ends_its_episode(
    task: MujocoTask, stop: int, recorded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    advance = task.advance

    def counted(action: np.ndarray) -> None:
        advance(action)
        steps.append(action)
        task.finished = len(steps) == stop  # type: ignore[attr-defined]

    monkeypatch.setattr(task, "finished", False, raising=False)
    monkeypatch.setattr(task, "advance", counted)
    assert len(record_episode(task, replace(CONFIG, action_block=3), 0)) == recorded
    assert len(steps) == stop
    steps.clear()
    if stop == 7:
        with pytest.raises(UserError, match="ended within 12 actions"):
            record_episode(task, replace(CONFIG, action_block=12), 0)


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of --action-block 5"):
        replace(CONFIG, action_block=5)
    with pytest.raises(UserError, match="camera twice"):
        replace(CONFIG, cameras=("a", "a"))


def test_words_of_every_step(task: MujocoTask) -> None:
    episodes = [record_episode(task, CONFIG, i) for i in range(3)]
    assert all(len(set(episode.captions)) > 1 for episode in episodes)
    task.reset(options={"variation_values": episodes[0].variation})
    assert episodes[0].goal_text in task.language.goals(episodes[0].goal_state)
    assert len({caption[:12] for episode in episodes for caption in episode.captions}) > 2  # several phrasings
