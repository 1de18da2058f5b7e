"""Stable-Baselines3 accepts every task, and learns on it through its own wrappers."""

import gymnasium
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

from worldmodel.envs import task_ids


@pytest.mark.parametrize("env_id", task_ids())
def test_check_env_of_sb3_finds_nothing(env_id: str) -> None:
    with gymnasium.make(env_id, disable_env_checker=True) as env:
        check_env(env.unwrapped)  # warnings are errors


def test_ppo_learns_from_pixels_and_proprio() -> None:
    with gymnasium.make("worldmodel/TwoRoom-v0", disable_env_checker=True) as env:
        model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(32)
        assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
