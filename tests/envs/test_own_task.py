"""A task of somebody's own: the smallest one of docs/howto/task.md, and what follows from its few methods."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldmodel.datasets.collection.recording import CollectConfig, record_episode
from worldmodel.envs import make_task, task_of_data
from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.task import Task
from worldmodel.errors import UserError

NAME = "own_dot_of_the_page"
ENV_ID = f"{NAME}:Dot-v0"


@pytest.fixture(scope="module")
def source(root: Path) -> str:
    page = (root / "docs" / "howto" / "task.md").read_text()
    found = re.search(r'^```python title="dot.py"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def task(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """The dot of the page, made by its name from a module in the working folder."""
    (tmp_path / f"{NAME}.py").write_text(
        source.replace('"dot:Dot"', f'"{NAME}:Dot"').replace("max_episode_steps=50", "max_episode_steps=33")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLDMODEL_MODULES", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=f"making it would run the module '{NAME}'"):
        task_of_data(ENV_ID)
    yield make_task(ENV_ID, image_size=32)
    del sys.modules[NAME], gymnasium.registry["Dot-v0"]


def test_it_is_short_and_made_as_it_is(source: str, task: Task) -> None:
    assert len([line for line in source.splitlines() if line.strip()]) <= 40
    assert type(task).__mro__[1] is Task and type(task).__name__ == "Dot"
    assert (task.env_id, task.name, task.max_episode_steps, task.image_size) == (ENV_ID, ENV_ID, 33, 32)
    assert type(task_of_data(ENV_ID)) is type(task), "named by a user, it may be named by data"


def test_it_passes_gymnasiums_checks(task: Task) -> None:
    check_env(task, skip_render_check=True)


def test_starts_goals_rewards_and_success(task: Task) -> None:
    for seed in range(30):
        _, info = task.reset(seed=seed)
        assert 0.4 <= task.goal_distance(info["state"], info["goal_state"]) and not info["success"]
        assert np.array_equal(info["goal"], task.render_state(info["goal_state"]))
        action = move_towards(info["state"], info["goal_state"], 0.15, 1.0)
        *_, reward, terminated, truncated, after = task.step(action)
        assert np.allclose(after["state"], np.clip(info["state"] + 0.15 * action, -0.9, 0.9))
        assert reward == -np.hypot(*(after["state"] - info["goal_state"])) and not truncated
        assert terminated == after["success"] == (-reward <= 0.15)
    _, info = task.reset(options={"state": np.zeros(2), "goal_state": np.array([0.1, 0.1])})
    assert info["success"]
    assert not any(task.reset(seed=seed, options={"goal_state": np.zeros(2)})[1]["success"] for seed in range(50))


def test_pictures_belong_to_states(task: Task) -> None:
    obs, info = task.reset(seed=1)
    y, x = (np.argwhere(obs["pixels"][..., 1] < 100).mean(0) - 15.5) / 15.5
    assert np.allclose([x, -y], info["state"], atol=0.06)
    task.advance(np.ones(2))
    assert not np.array_equal(task.render(), obs["pixels"])
    assert np.array_equal(task.render_state(info["state"]), obs["pixels"])
    assert np.array_equal(task.get_state(), np.clip(info["state"] + 0.15, -0.9, 0.9)), "drawing another state leaves the current one"
    task.set_state(info["state"])
    assert np.array_equal(task.render(), obs["pixels"])


def test_sensors_are_noisy_when_asked(task: Task) -> None:
    clean, info = task.reset(seed=1)
    values = {"sensor.pixel_noise": 0.05, "sensor.proprio_noise": 0.05}
    noisy, _ = task.reset(seed=1, options={"variation_values": values, "state": info["state"]})
    assert clean["proprio"] == pytest.approx(info["state"], abs=1e-6)
    assert 0 < np.abs(noisy["proprio"] - clean["proprio"]).max() < 0.3
    assert 5 < (noisy["pixels"].astype(int) - clean["pixels"]).std() < 15
    assert np.array_equal(task.render_state(info["state"]), noisy["pixels"]), "a state always looks the same"


def test_words_follow_from_the_features(task: Task) -> None:
    _, info = task.reset(seed=0, options={"state": np.array([0.5, -0.2]), "goal_state": np.array([-0.5, 0.2])})
    assert info["caption"] == f"a frame of {ENV_ID}, at one moment, with coordinate x above zero and coordinate y at most zero"
    assert task.language.read(info["caption"]) == {"x": "above zero", "y": "at most zero"}
    assert task.language.goals()[0] == "reach the goal with coordinate x at most zero and coordinate y above zero"
    assert task.language.change(np.array([0.5, -0.2]), np.array([0.55, -0.1])) == "coordinate y increased"
    questions = dict(task.language.questions(np.random.default_rng(0)))
    assert questions["is coordinate x above or at most zero?"] == "above zero"


def test_what_if_is_answered_by_what_happens_and_leaves_no_trace(task: Task) -> None:
    task.reset(seed=0, options={"state": np.array([0.3, 0.3])})
    elsewhere, rng = np.zeros(2), np.random.default_rng(0)
    for _ in range(20):
        question, answer = task.language.what_if(rng, elsewhere)
        assert np.array_equal(task.get_state(), [0.3, 0.3])
        action = task.parse_action(question.removeprefix("what happens if you ").removesuffix("?"))
        assert answer == task.language.change(elsewhere, elsewhere + 2 * 0.15 * action)


def test_a_state_or_an_action_that_is_none_is_refused(task: Task) -> None:
    task.reset(seed=0)
    for bad, message in ((np.zeros(3), r"shape \(3,\): this task expects \(2,\)"), (np.array([np.nan, 0.0]), "state holds nan")):
        with pytest.raises(UserError, match=message):
            task.set_state(bad)
    for bad in (np.array([2.0, 0.0]), np.array([np.nan, 0.0]), np.zeros(3)):
        with pytest.raises(UserError, match="action"):
            task.advance(bad)


def test_it_is_recorded_without_a_demonstrator_and_says_so(task: Task) -> None:
    config = CollectConfig(ENV_ID, image_size=32, max_steps=20, policies=dict(task.recording.policies))
    assert set(config.policies) == {"smooth", "random"}
    episode = record_episode(task, config, 0)
    assert len(episode) == 20 and len(set(episode.questions)) > 3 and "what happens if" in "".join(episode.questions)
    assert np.array_equal(episode.features, episode.state.astype(np.float32))
    with pytest.raises(UserError, match=f"^{ENV_ID} has no demonstrator"):
        record_episode(task, replace(config, policies={"play": 1.0}), 0)


class OnARail(Task):
    """A bead that starts at its end and cannot be more than 0.1 from there."""

    action_axes = (ActionAxis("dx", ("move", "left"), ("move", "right"), ("a", "d")),)
    success_threshold, min_goal_distance = 0.05, 0.2

    def get_state(self) -> np.ndarray:
        return np.zeros(1)

    def restore(self, state: np.ndarray) -> None: ...

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-0.1, 0.1, 1)

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        return float(abs(state - goal_state)[0])

    def invalid_reason(self, position: np.ndarray) -> str | None:
        return "the bead would be off the rail" if abs(position[0]) > 0.1 else None


def test_goals_that_do_not_exist_and_starts_that_cannot_be_are_refused() -> None:
    task = OnARail()
    with pytest.raises(UserError, match=r"no goal at least 0.2 away from the start \["):
        task.reset(seed=0)
    with pytest.raises(UserError, match="^goal_state cannot be reached: the bead would be off the rail"):
        task.reset(options={"goal_state": np.ones(1)})
    with pytest.raises(NotImplementedError):
        task.render()
