"""Laws of the factors of variation and the sensors, for every registered task."""

from typing import Any

import numpy as np

from tests.envs.laws import demonstration, extremes, first_factor
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.variation import SENSOR_FACTORS
from worldmodel.errors import UserError


def test_at_least_eight_factors(task: MujocoTask) -> None:
    assert len(set(task.factors) - set(SENSOR_FACTORS)) >= 8
    assert set(SENSOR_FACTORS) <= set(task.factors)


def test_every_factor_changes_the_picture_or_the_feeling_or_the_dynamics(task: MujocoTask) -> None:
    def play(values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        obs, _ = task.reset(options={"state": start, "goal_state": start, "variation_values": fixed | values})
        for action in actions:
            task.advance(action)
        return obs["pixels"], obs["proprio"], task.get_state()

    unchanged = set(task.factors)
    for seed in range(6):
        _, info = task.reset(seed=seed)
        start, fixed = info["state"], {name: info["variation"][name] for name in task.factors}
        _, actions = demonstration(task, seed, steps=task.max_episode_steps // 2)
        for name in sorted(unchanged):
            try:
                ends = [play({name: value}) for value in extremes(task, name)]
            except UserError:  # this start is impossible with the other value: another seed decides
                continue
            if not all(np.allclose(first, second, rtol=0, atol=1e-6) for first, second in zip(*ends, strict=True)):
                unchanged.remove(name)
    assert not unchanged


def test_only_listed_factors_vary_and_nothing_stays_behind(task: MujocoTask) -> None:
    name, number = first_factor(task, choices=True), first_factor(task, choices=False)
    always = {name for name, factor in task.factors.items() if factor.per_episode}
    defaults = {name: factor.default for name, factor in task.factors.items()}
    obs, info = task.reset(seed=0)
    assert {name for name in defaults if info["variation"][name] != defaults[name]} <= always
    _, info = task.reset(seed=1, options={"variation": "all"})
    numbers = [name for name, factor in task.factors.items() if not factor.choices and not factor.integer]
    assert all(info["variation"][name] != defaults[name] for name in numbers)
    _, info = task.reset(seed=2, options={"variation": [name, number]})
    assert {name for name in defaults if info["variation"][name] != defaults[name]} <= {name, number} | always
    assert info["variation"][number] != defaults[number]
    assert np.array_equal(task.reset(seed=0)[0]["pixels"], obs["pixels"])


def test_values_win_over_samples(task: MujocoTask) -> None:
    number = first_factor(task, choices=False)
    value = task.factors[number].low * 0.4 + task.factors[number].high * 0.6
    _, info = task.reset(seed=0, options={"variation": "all", "variation_values": {number: value}})
    assert info["variation"][number] == value


def test_sensor_noise_is_a_function_of_the_state(task: MujocoTask) -> None:
    noise = {"sensor.pixel_noise": 0.05, "sensor.proprio_noise": 0.05}
    clean, info = task.reset(seed=0)
    values = dict(info["variation"])
    noisy, _ = task.reset(options={"state": info["state"], "goal_state": info["goal_state"], "variation_values": values | noise})
    difference = noisy["pixels"].astype(float) - clean["pixels"]
    unclipped = (clean["pixels"] > 60) & (clean["pixels"] < 195)
    assert 0.04 < difference[unclipped].std() / 255 < 0.06
    assert 0.0 < np.abs(noisy["proprio"] - clean["proprio"]).max() < 0.3
    again, _ = task.reset(options={"state": info["state"], "goal_state": info["goal_state"], "variation_values": values | noise})
    assert np.array_equal(noisy["pixels"], again["pixels"]) and np.array_equal(noisy["proprio"], again["proprio"])
    assert np.array_equal(task.render_state(info["state"]), noisy["pixels"])
