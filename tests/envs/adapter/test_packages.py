"""Environments of other packages, collected through the adapter; skipped where the package is not installed.

`make test-external` installs them.
"""

import importlib.util
import re
import sys

import gymnasium
import numpy as np
import pytest

from worldmodel.agents.workers import TaskRunner, TaskWorkers
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task, task_of_data
from worldmodel.envs.adapter.lookup import TRUSTED
from worldmodel.envs.adapter.task import SEED_FACTOR
from worldmodel.errors import UserError

RESTORABLE = {
    "FetchReach-v4": "gymnasium_robotics",
    "PointMaze_UMaze-v3": "gymnasium_robotics",
    "dm_control/walker-walk-v0": "shimmy",
    "dm_control/reacher-easy-v0": "shimmy",
    "Meta-World/drawer-open-v3": "metaworld",
}
NOT_RESTORABLE = {
    "cube-single-v0": "ogbench",  # its controller looks back at where the gripper was before the last physics step
    "CartPole-v1": "pygame",
}
SWM = "swm/PushT-v1"


def need(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; `make test-external` installs it")


@pytest.mark.parametrize(("env_id", "module"), (RESTORABLE | NOT_RESTORABLE).items())
def test_an_environment_is_collected_and_replayed_where_it_is_exact(tmp_path, env_id, module):
    need(module)
    config = CollectConfig(
        env=env_id, out=tmp_path / "x.h5", episodes=2, workers=2, max_steps=8, image_size=32, policies={"random": 0.5, "smooth": 0.5}
    )
    collect(config)
    with EpisodeStore(config.path) as store:
        assert len(store) == 2 and store.meta["restorable"] == (env_id in RESTORABLE)
        episodes = [store.episode(i) for i in range(2)]
    assert episodes[0].variation != episodes[1].variation
    assert not np.array_equal(episodes[0].state[-1], episodes[1].state[-1])
    task = make_task(env_id, image_size=32)
    for episode in episodes:
        assert episode.frames.shape == (9, 32, 32, 3) and np.ptp(episode.frames[0]) > 50
        assert not np.array_equal(episode.frames[0], episode.frames[-1])
        if not task.restorable:
            continue
        obs, info = task.reset(options={"variation_values": episode.variation})
        assert np.array_equal(info["goal_state"], episode.goal_state)
        for i, action in enumerate(episode.actions):
            assert np.array_equal(obs["pixels"], episode.frames[i]) and np.array_equal(info["state"], episode.state[i])
            obs, _, _, _, info = task.step(action)
    task.close()


@pytest.mark.parametrize(("env_id", "module"), RESTORABLE.items())
def test_a_state_is_restored_to_the_bit(env_id, module):
    need(module)
    task, other = make_task(env_id, image_size=32), make_task(env_id, image_size=32)
    assert task.restorable
    _, info = task.reset(seed=1)
    actions = np.random.default_rng(0).uniform(-1, 1, (60, *task.action_space.shape))
    states = [info["state"]] + [task.advance(action) or task.get_state() for action in actions]
    other.reset(seed=2, options={"state": states[30], "variation_values": {SEED_FACTOR: info["variation"][SEED_FACTOR]}})
    for action, state in zip(actions[30:], states[31:], strict=True):
        other.advance(action)
        assert np.array_equal(other.get_state(), state)
    assert np.array_equal(other.render(), task.render())
    task.close()
    other.close()


@pytest.mark.parametrize("env_id", ["dm_control/reacher-easy-v0", "Meta-World/reach-v3"])
def test_time_limits_of_their_own_do_not_end_the_physics(env_id):
    need("shimmy" if "dm_control" in env_id else "metaworld")
    task = make_task(env_id, image_size=32)
    task.reset(seed=0)
    times = []
    for _ in range(task.max_episode_steps + 20):
        task.advance(np.zeros(task.action_space.shape))
        times.append(task.get_state()[0])
    assert np.all(np.diff(times) > 0)
    task.close()


def test_a_missing_package_is_named(monkeypatch):
    if importlib.util.find_spec("stable_worldmodel") is not None:
        pytest.skip("stable_worldmodel is installed")
    with pytest.raises(UserError, match=r"swm/PushT-v1 needs the package stable_worldmodel.*worldmodel\[external\]"):
        make_task(SWM)
    assert SWM not in gymnasium.registry


def test_unknown_tasks_of_metaworld_are_refused():
    need("metaworld")
    with pytest.raises(UserError, match="unknown Meta-World task 'reech-v3': expected one of .*reach-v3"):
        make_task("Meta-World/reech-v3")


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's in the working folder, which registers an environment and notes that it was run."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        f"""import gymnasium, pathlib
pathlib.Path({str(tmp_path / "was_run")!r}).touch()
gymnasium.register({name + "-v0"!r}, "gymnasium.envs.mujoco.inverted_pendulum_v5:InvertedPendulumEnv", max_episode_steps=40)
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != ""])
    monkeypatch.setenv(TRUSTED, "")
    yield name
    sys.modules.pop(name, None)
    gymnasium.registry.pop(f"{name}-v0", None)


def test_an_own_module_is_found_in_the_working_folder_and_collected_by_its_name(own_module, tmp_path):
    config = CollectConfig(
        f"{own_module}:{own_module}-v0", tmp_path / "x.h5", episodes=1, workers=1, max_steps=3, policies={"random": 1}
    )
    collect(config)
    with EpisodeStore(config.path) as store:
        assert store.meta["env_id"] == f"{own_module}:{own_module}-v0" and len(store.episode(0)) == 3
    task = make_task(config.env, image_size=32)
    assert task.max_episode_steps == 40
    task.close()


def test_data_have_no_module_run_that_the_user_has_not_named(own_module, tmp_path, monkeypatch):
    env_id = f"{own_module}:{own_module}-v0"
    with pytest.raises(UserError, match=f"the data name the environment '{env_id}'.*run the module.*{TRUSTED}={own_module}$"):
        task_of_data(env_id)
    for elsewhere in (lambda: TaskRunner(env_id, 32, 1), lambda: TaskWorkers(env_id, 32, 1, 1)):
        with pytest.raises(UserError, match="the data name the environment"):
            elsewhere()
    assert not (tmp_path / "was_run").exists()
    monkeypatch.setenv(TRUSTED, f"other, {own_module}")
    task_of_data(env_id, image_size=32).close()
    assert (tmp_path / "was_run").exists()


def test_what_a_user_has_named_data_may_name_too(own_module):
    env_id = f"{own_module}:{own_module}-v0"
    make_task(env_id, image_size=32).close()
    sys.modules.pop(own_module)  # as in a process that this one starts
    task_of_data(env_id, image_size=32).close()


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        (":Dot-v0", "'' is no name of a module; write package.module:Name-v0"),
        (".relative:Dot-v0", "'.relative' is no name of a module"),
        ("a b:Dot-v0", "'a b' is no name of a module"),
        ("nowhere_at_all.x:Dot-v0", "No module named 'nowhere_at_all', neither installed nor in the working folder"),
        ("json:Dot-v0", "the module json registers no environment Dot-v0"),
        ("raises_when_run:Dot-v0", "the module raises_when_run cannot be imported: ZeroDivisionError"),
        ("is_no_python:Dot-v0", "the module is_no_python cannot be imported: SyntaxError"),
    ],
)
def test_own_modules_that_cannot_be_are_one_sentence(env_id, words, tmp_path, monkeypatch):
    (tmp_path / "raises_when_run.py").write_text("1 / 0\n")
    (tmp_path / "is_no_python.py").write_text("def (\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(TRUSTED, "")
    with pytest.raises(UserError, match=re.escape(words)):
        make_task(env_id)
