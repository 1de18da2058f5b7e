import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.collection.episode_shards import PATTERN, shard_path
from worldmodel.datasets.collection.recording import CollectConfig, warm_up
from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.errors import UserError

TASK = "worldmodel/TwoRoom-v0"
FACTS = {"feature_names": ["x", "y"], "action_names": ["dx", "dy"], "factors": {}, "image_size": 16}
RIGHT = np.array([1.0, 0.0])


@pytest.fixture(scope="module")
def task() -> Iterator[Any]:
    task = make_task(TASK, image_size=16)
    yield task
    task.close()


def drive_right(task: Any, steps: int = 3, **settings: Any) -> Episode:
    session = TeleopSession(task, **settings)
    for _ in range(steps):
        session.step(RIGHT)
    episode = session.episode()
    assert episode is not None
    return episode


def episodes_of(path: Path) -> list[Episode]:
    with EpisodeStore(path) as store:
        return [store.episode(i) for i in range(len(store))]


# Drive


def test_an_episode_is_what_was_driven(task: Any) -> None:
    session = TeleopSession(task, seed=4)
    assert session.episode() is None and session.recorded == 0
    first, goal = session.obs["pixels"], session.goal_text
    for _ in range(3):
        session.step(RIGHT)
    episode = session.episode()
    assert episode is not None and len(episode) == session.recorded == session.steps == 3
    assert np.array_equal(episode.frames[0], first) and np.array_equal(episode.frames[-1], session.obs["pixels"])
    assert np.array_equal(episode.actions, np.tile(RIGHT, (3, 1)).astype(np.float32))
    assert episode.action_words == ["move right"] * 3
    assert episode.goal_text == goal
    assert episode.policy == "human"
    task.reset(seed=episode.seed)
    for t, (action, state) in enumerate(zip(episode.actions, episode.state[1:], strict=True)):
        _, reward, terminated, truncated, _ = task.step(action)
        assert np.array_equal(task.get_state(), state)
        assert (episode.reward[t], episode.terminated[t], episode.truncated[t]) == (reward, terminated, truncated)


def test_seed_and_number_decide_the_start(task: Any) -> None:
    assert same_episode(drive_right(task, seed=1), drive_right(task, seed=1))
    starts = [drive_right(task, seed=seed, number=number).state[0].tobytes() for seed in (1, 2) for number in (0, 1)]
    assert len(set(starts)) == 4
    session = TeleopSession(task, seed=1)
    session.begin()
    assert session.info["state"].tobytes() == starts[1]


def test_factors_are_sampled_and_recorded(task: Any) -> None:
    radii = {drive_right(task, 1, variation=("disc.radius",), number=number).variation["disc.radius"] for number in range(3)}
    assert len(radii) == 3
    with pytest.raises(UserError, match="unknown factor"):
        TeleopSession(task, variation=("disk.radius",))


def test_recording_starts_and_stops_in_the_middle(task: Any) -> None:
    session = TeleopSession(task)
    session.step(RIGHT)
    session.record(False)
    session.step(RIGHT)
    assert session.episode() is None and session.steps == 2
    session.record(True)
    middle = session.info["state"]
    session.step(-RIGHT)
    episode = session.episode()
    assert episode is not None and len(episode) == 1
    assert np.array_equal(episode.state[0], middle)


def test_the_step_at_which_the_goal_was_reached(task: Any) -> None:
    session = TeleopSession(task, seed=3)
    policy = task.demonstrator(np.random.default_rng(0))
    while session.reached is None and session.steps < 100:
        session.step(policy(session.obs, session.info))
    reached = session.reached
    assert reached == session.steps and session.info["success"]
    session.step(RIGHT)
    assert session.reached == reached
    session.begin()
    assert session.reached is None and session.steps == 0


@pytest.mark.parametrize("action", [np.array([2.0, 0.0]), np.zeros(3), np.array([np.nan, 0.0])])
def test_an_action_that_is_none_is_refused_and_not_recorded(task: Any, action: np.ndarray) -> None:
    session = TeleopSession(task)
    with pytest.raises(UserError):
        session.step(action)
    assert session.recorded == session.steps == 0


# TeleopFile


def test_the_file_grows_from_one_run_to_the_next(tmp_path: Path) -> None:
    path, given = tmp_path / "new" / "x.h5", [make_episode(i) for i in range(5)]
    with TeleopFile(path, TASK, FACTS) as file:
        file.keep(given[0])
        file.keep(given[1])
        assert (file.saved, len(file), path.exists()) == (0, 2, False)
        assert file.merge() == 2 and file.saved == 2
        file.keep(given[2])
    assert list(path.parent.iterdir()) == [path]
    with TeleopFile(path, TASK, FACTS) as file:
        assert len(file) == 3
        file.keep(given[3])
    found = episodes_of(path)
    assert len(found) == 4 and all(map(same_episode, found, given[:4]))
    with EpisodeStore(path) as store:
        assert store.meta["env_id"] == TASK and store.meta["coverage"]["episodes"] == 4


def test_undo_removes_the_last_one_that_is_not_in_the_file(tmp_path: Path) -> None:
    with TeleopFile(tmp_path / "x.h5", TASK, FACTS) as file:
        file.keep(make_episode(0))
        file.merge()
        assert not file.undo()
        file.keep(make_episode(1))
        file.keep(make_episode(2))
        assert file.undo()
        file.keep(make_episode(3))
    found = episodes_of(tmp_path / "x.h5")
    assert len(found) == 3 and all(map(same_episode, found, map(make_episode, (0, 1, 3))))


def test_nothing_driven_leaves_nothing(tmp_path: Path) -> None:
    with TeleopFile(tmp_path / "x.h5", TASK, FACTS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_was_kept_survives_a_kill(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "x.h5"
    script = """
import json, os, signal, sys
from pathlib import Path
from tests.datasets.toys import make_episode
from worldmodel.datasets.collection.teleop_session import TeleopFile
file = TeleopFile(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
file.keep(make_episode(0))
file.merge()
file.keep(make_episode(1))
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script, str(path), TASK, json.dumps(FACTS)]
    assert subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}).returncode == -signal.SIGKILL
    with TeleopFile(path, TASK, FACTS) as file:
        assert (file.saved, len(file)) == (1, 2)
    found = episodes_of(path)
    assert len(found) == 2 and all(map(same_episode, found, map(make_episode, (0, 1))))


def test_a_merge_that_was_killed_after_renaming_adds_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with TeleopFile(path, TASK, FACTS) as file:
        file.keep(make_episode(0))
        shard = next(file.shards.glob(PATTERN))
        content, about = shard.read_bytes(), (file.shards / "config.json").read_bytes()
    file.shards.mkdir()
    shard.write_bytes(content)
    (file.shards / "config.json").write_bytes(about)
    with TeleopFile(path, TASK, FACTS) as file:
        file.keep(make_episode(1))
    found = episodes_of(path)
    assert len(found) == 2 and all(map(same_episode, found, map(make_episode, (0, 1))))


def test_a_full_disk_is_said_and_nothing_is_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> int:
        raise OSError(28, "No space left on device")

    with TeleopFile(tmp_path / "x.h5", TASK, FACTS) as file:
        file.keep(make_episode(0))
        with monkeypatch.context() as patched:
            patched.setattr("worldmodel.datasets.atomic._create", full)
            with pytest.raises(UserError, match="No space left"):
                file.keep(make_episode(1))
        assert len(file) == 1
    assert len(episodes_of(tmp_path / "x.h5")) == 1


@pytest.mark.parametrize(
    ("env_id", "facts", "words"),
    [
        ("worldmodel/Reacher-v0", {}, "worldmodel/TwoRoom-v0, not worldmodel/Reacher-v0"),
        (TASK, {"image_size": 32}, "image_size=16, not 32"),
    ],
)
@pytest.mark.parametrize("merged", [True, False])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, env_id: str, facts: dict[str, Any], words: str, merged: bool) -> None:
    path = tmp_path / "x.h5"
    first = TeleopFile(path, TASK, FACTS)
    first.keep(make_episode(0))
    if merged:
        with first:
            pass
    else:  # as a killed process leaves it
        first._lock.close()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=words):
        TeleopFile(path, env_id, FACTS | facts)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("about", ["[1]", "half of", '{"env": "worldmodel/TwoRoom-v0"}'])
def test_parts_of_something_else_are_left_alone(about: str, tmp_path: Path) -> None:
    folder = tmp_path / "x.h5.parts"
    folder.mkdir()
    (folder / "config.json").write_text(about)
    shard_path(folder, 0).write_text("a part")
    with pytest.raises(UserError, match="x.h5.parts"):
        TeleopFile(tmp_path / "x.h5", TASK, FACTS)
    assert shard_path(folder, 0).read_text() == "a part" and (folder / "config.json").read_text() == about


def test_a_collected_file_is_left_alone(tmp_path: Path) -> None:
    from tests.datasets.toys import write_toy_file

    write_toy_file(tmp_path / "x.h5")
    with pytest.raises(UserError, match="not made by `worldmodel play`"):
        TeleopFile(tmp_path / "x.h5", TASK, FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with TeleopFile(tmp_path / "x.h5", TASK, FACTS) as file:
        file.keep(make_episode(0))
        with pytest.raises(UserError, match="another process"):
            TeleopFile(tmp_path / "x.h5", TASK, FACTS)
    assert len(episodes_of(tmp_path / "x.h5")) == 1


def test_driven_episodes_of_a_task_fit_its_file(task: Any, tmp_path: Path) -> None:
    facts = warm_up(task, CollectConfig(TASK, image_size=16, policies={"random": 1.0}))
    with TeleopFile(tmp_path / "x.h5", TASK, facts) as file:
        file.keep(drive_right(task, variation=("all",)))
    with EpisodeStore(tmp_path / "x.h5") as store:
        assert store.texts("policy") == ["human"] and store.action_size == 2 and store.image_size == 16
        assert set(json.loads(store.texts("variation")[0])) == set(task.factors)
