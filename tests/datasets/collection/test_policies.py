import base64
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from worldmodel.datasets.collection.policies import POLICIES, make_policy
from worldmodel.datasets.collection.recording import CollectConfig, record_episode
from worldmodel.datasets.collection.sb3_policy import sb3_policy
from worldmodel.datasets.episodes.episode import same_episode
from worldmodel.envs import make_task
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.errors import UserError

SIZE = 40
CONFIG = CollectConfig(image_size=SIZE, max_steps=6)


class OnlyProprio(gymnasium.ObservationWrapper):
    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        self.observation_space = env.observation_space["proprio"]

    def observation(self, observation: Any) -> Any:
        return observation["proprio"]


@pytest.fixture(scope="module")
def task() -> Iterator[MujocoTask]:
    task = make_task("worldmodel/TwoRoom-v0", image_size=SIZE)
    yield task
    task.close()


def trained(kind: str, folder: Path) -> tuple[Any, Path]:
    """A model after a few steps of training, and its file."""
    env = gymnasium.make("worldmodel/TwoRoom-v0", image_size=SIZE)
    few = {"buffer_size": 50, "learning_starts": 8, "batch_size": 4, "device": "cpu", "seed": 0}
    model: Any
    if kind == "ppo both":
        model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, device="cpu", seed=0)
    elif kind == "ppo proprio":
        arch = {"net_arch": {"pi": [24, 16], "vf": [12]}, "activation_fn": torch.nn.ReLU}
        model = PPO("MlpPolicy", OnlyProprio(env), n_steps=16, batch_size=8, n_epochs=1, policy_kwargs=arch, device="cpu", seed=0)
    elif kind == "sac both":
        model = SAC("MultiInputPolicy", env, policy_kwargs={"net_arch": [16, 16]}, **few)
    elif kind == "sac proprio":
        model = SAC("MlpPolicy", OnlyProprio(env), policy_kwargs={"net_arch": [16], "n_critics": 3}, **few)
    else:
        model = TD3("MlpPolicy", OnlyProprio(env), policy_kwargs={"net_arch": [16, 8]}, **few)
    model.learn(16)
    path = folder / "model.zip"
    model.save(path)
    env.close()
    return model, path


class NoNoise:
    """Stands for a generator, where the mean action is asked for."""

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)


@pytest.mark.parametrize("kind", ["ppo both", "ppo proprio", "sac both", "sac proprio", "td3 proprio"])
def test_a_trained_policy_acts_as_it_does_in_its_library(kind: str, task: MujocoTask, tmp_path: Path) -> None:
    model, path = trained(kind, tmp_path)
    act = sb3_policy(path, task, NoNoise())  # type: ignore[arg-type]
    for seed in range(3):
        obs, info = task.reset(seed=seed)
        expected, _ = model.predict(obs if kind.endswith("both") else obs["proprio"], deterministic=True)
        np.testing.assert_allclose(act(obs, info), expected, atol=1e-5)

    config = replace(CONFIG, policies={f"sb3:{path}": 1})
    episode = record_episode(task, config, 0)
    record_episode(task, config, 1)
    torch.manual_seed(5)
    assert same_episode(episode, record_episode(task, config, 0))
    assert episode.policy == f"sb3:{path}" and np.abs(episode.actions).max() <= 1


def test_exploration_noise_is_that_of_the_library(task: MujocoTask, tmp_path: Path) -> None:
    model, path = trained("ppo proprio", tmp_path)
    obs, info = task.reset(seed=0)
    act = sb3_policy(path, task, np.random.default_rng(0))
    ours = np.stack([act(obs, info) for _ in range(1500)])
    theirs = np.stack([model.predict(obs["proprio"], deterministic=False)[0] for _ in range(1500)])
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.12)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=0.08)


class Evil:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


def rewritten(source: Path, out: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.replace(".", "_"), old.read(name)))
    return out


def test_nothing_in_a_file_is_executed(task: MujocoTask, tmp_path: Path) -> None:
    _, path = trained("ppo proprio", tmp_path)
    victim = tmp_path / "victim"
    pickled = pickle.dumps(Evil(victim))
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(pickled).decode()
    evil = rewritten(path, tmp_path / "evil.zip", data=json.dumps(data).encode())
    make_policy(f"sb3:{evil}", task, np.random.default_rng(0), 0.5)  # still a policy: its pickles are not looked at
    for weights in (pickled, _torch_file(victim, tmp_path)):
        with pytest.raises(UserError, match="damaged or not a model"):
            sb3_policy(rewritten(path, tmp_path / "evil2.zip", policy_pth=weights), task, np.random.default_rng(0))
    assert not victim.exists()
    pickle.loads(pickled)
    assert victim.exists()  # the trap works


def _torch_file(victim: Path, folder: Path) -> bytes:
    torch.save({"log_std": Evil(victim)}, folder / "evil.pth")
    return (folder / "evil.pth").read_bytes()


def test_files_that_do_not_fit_are_refused(task: MujocoTask, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    _, path = trained("sac proprio", tmp_path)
    reacher = make_task("worldmodel/Reacher-v0", image_size=SIZE)
    with pytest.raises(UserError, match=r"model.zip does not fit this task .*size mismatch"):
        sb3_policy(path, reacher, rng)
    reacher.close()
    diary = tmp_path / "diary.zip"
    diary.write_text("dear diary")
    content = path.read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(content[: len(content) // 2])
    for wrong in (diary, cut):
        with pytest.raises(UserError, match="damaged or not a model"):
            sb3_policy(wrong, task, rng)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "{}")
        torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pth")
        archive.write(tmp_path / "w.pth", "policy.pth")
    with pytest.raises(UserError, match="holds no policy of PPO"):
        sb3_policy(tmp_path / "other.zip", task, rng)


class OtherNumbers(OnlyProprio):
    """As many numbers as the task's, which say of themselves that they are others."""

    def __init__(self, env: gymnasium.Env, limit: float, dtype: Any) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-limit, limit, self.observation_space.shape, dtype)

    def observation(self, observation: Any) -> Any:
        return super().observation(observation).astype(self.observation_space.dtype)


def saved(model: Any, folder: Path) -> Path:
    model.learn(8)
    model.save(folder / "model.zip")
    return folder / "model.zip"


@pytest.mark.parametrize(("limit", "dtype"), [(np.inf, np.float64), (np.inf, np.float32), (1.5, np.float32), (3.0, np.float64)])
@pytest.mark.parametrize("kind", [PPO, SAC])
def test_a_policy_of_the_raw_environment_is_refused(kind: Any, limit: float, dtype: Any, task: MujocoTask, tmp_path: Path) -> None:
    few = {"n_steps": 8, "batch_size": 8, "n_epochs": 1} if kind is PPO else {"buffer_size": 50, "learning_starts": 20}
    env = OtherNumbers(gymnasium.make("worldmodel/TwoRoom-v0", image_size=SIZE), limit, dtype)
    path = saved(kind("MlpPolicy", env, device="cpu", seed=0, **few), tmp_path)
    theirs, ours = f"saw proprio from -{limit:g} to {limit:g} ({np.dtype(dtype)})", "here they are from -3 to 3 (float32)"
    with pytest.raises(UserError, match=re.escape(f"{theirs} while it was trained, {ours}")):
        make_policy(f"sb3:{path}", task, np.random.default_rng(0), 0.5)


def test_a_policy_of_other_actions_is_refused(task: MujocoTask, tmp_path: Path) -> None:
    bounds = np.full(2, 3, np.float32)
    env = gymnasium.wrappers.RescaleAction(OnlyProprio(gymnasium.make("worldmodel/TwoRoom-v0", image_size=SIZE)), -bounds, bounds)
    path = saved(PPO("MlpPolicy", env, device="cpu", n_steps=8, batch_size=8, n_epochs=1), tmp_path)
    with pytest.raises(UserError, match=r"did actions from -3 to 3 .float32. while it was trained, here they are from -1 to 1"):
        sb3_policy(path, task, np.random.default_rng(0))


def test_a_policy_of_normalised_observations_is_refused(task: MujocoTask, tmp_path: Path) -> None:
    def make() -> gymnasium.Env:
        return OnlyProprio(gymnasium.make("worldmodel/TwoRoom-v0", image_size=SIZE))

    env = VecNormalize(DummyVecEnv([make]))
    path = saved(PPO("MlpPolicy", env, device="cpu", n_steps=8, batch_size=8, n_epochs=1), tmp_path)
    with pytest.raises(UserError, match="was trained with VecNormalize, its file says.*train it without"):
        sb3_policy(path, task, np.random.default_rng(0))
    path = saved(SAC("MlpPolicy", make(), device="cpu", buffer_size=50, learning_starts=20), tmp_path)
    sb3_policy(path, task, np.random.default_rng(0))
    names = ("vecnormalize.pkl", "vec_norm.pkl", f"{path.stem}/vecnormalize.pkl", "a_vecnormalize_80_steps.pkl")
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        with pytest.raises(UserError, match=f"was trained with VecNormalize, {name} beside it says"):
            sb3_policy(path.rename(folder / path.name), task, np.random.default_rng(0))
        path = folder / path.name


def test_a_changed_file_is_another_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"1")
    config = CollectConfig(policies={f"sb3:{path}": 1})
    before = config.recipe()
    path.write_bytes(b"2")
    assert config.recipe() != before


def test_unknown_policies_and_files_are_refused(task: MujocoTask) -> None:
    with pytest.raises(UserError, match=r"unknown policy 'rondom'.*did you mean 'random'"):
        CollectConfig(policies={"rondom": 1})
    with pytest.raises(UserError, match="no such file nowhere.zip"):
        CollectConfig(policies={"random": 1, "sb3:nowhere.zip": 1})
    with pytest.raises(UserError, match="unknown policy 'rest'"):
        make_policy("rest", task, np.random.default_rng(0), 0.5)
    for name in POLICIES:
        assert make_policy(name, task, np.random.default_rng(0), 0.5) is not None


def test_play_goes_to_more_places_than_one_goal(task: MujocoTask) -> None:
    config = replace(CONFIG, max_steps=120)
    for index in range(3):
        distances = {}
        for name in ("play", "demonstrator"):
            episode = record_episode(task, replace(config, policies={name: 1}), index)
            distances[name] = np.linalg.norm(np.diff(episode.features, axis=0), axis=1).sum()
        assert distances["play"] > 2 * distances["demonstrator"]


def test_without_stable_baselines3_the_refusal_names_the_extra(
    task: MujocoTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    name = f"sb3:{tmp_path / 'model.zip'}"
    with pytest.raises(UserError, match="no such file"):
        CollectConfig(policies={name: 1})
    (tmp_path / "model.zip").touch()
    with pytest.raises(UserError, match=r"needs the package stable-baselines3: pip install 'worldmodel\[sb3\]'"):
        CollectConfig(policies={name: 1})
    with pytest.raises(UserError, match=r"pip install 'worldmodel\[sb3\]'"):
        make_policy(name, task, np.random.default_rng(0), 0.5)
    CollectConfig(policies={"random": 1})
