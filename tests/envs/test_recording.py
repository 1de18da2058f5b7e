"""What each task says about its recording and its problems, and that a short collection of it holds such problems."""

import numpy as np
import pytest

from worldmodel.datasets.collection.policies import check_policies, draw_policy, make_policy
from worldmodel.envs import full_id, make_task, task_ids
from worldmodel.envs.adapter.task import ExternalTask
from worldmodel.envs.mujoco_task import MujocoTask


def test_every_task_says_what_can_be_recorded(task: MujocoTask) -> None:
    recording = task.recording
    check_policies(recording.policies)
    assert sum(recording.policies.values()) == pytest.approx(1.0)
    assert set(recording.variation) <= set(task.factors)
    assert recording.action_block == 3
    assert 0 < recording.goal_offset < recording.max_steps and recording.goal_offset <= recording.budget
    assert recording.episodes == 3000 and recording.min_distance > 1


def test_one_color_varies_where_a_disc_is_told_by_it() -> None:
    varied = {env_id: make_task(env_id).recording.variation for env_id in task_ids()}
    assert {env_id: names for env_id, names in varied.items() if names} == {"worldmodel/TwoRoom-v0": ("disc.color",)}


def test_the_mix_moves_what_the_goal_is_about(task: MujocoTask) -> None:
    """In 30 episodes at least 3 in 10 windows of `goal_offset` steps hold a problem: 300 held-out episodes then hold 100."""
    recording, strict = task.recording, []
    for i in range(30):
        rng = np.random.default_rng([1, i])
        obs, info = task.reset(seed=i)
        policy, states = make_policy(draw_policy(recording.policies, rng), task, rng, 0.5), [info["state"]]
        for _ in range(recording.max_steps):
            task.advance(policy(obs, info))
            obs, info = obs | {"proprio": task.proprio()}, task.info()
            states.append(info["state"])
        pairs = zip(states, states[recording.goal_offset :], strict=False)
        strict.append(np.mean([task.goal_distance(*pair) >= recording.min_distance * task.success_threshold for pair in pairs]))
    assert np.mean(strict) > 0.3, strict


def test_an_environment_without_a_demonstrator_asks_for_none() -> None:
    check_policies(ExternalTask.recording.policies)
    assert set(ExternalTask.recording.policies) == {"smooth", "random"}


def test_tasks_can_be_named_short() -> None:
    assert full_id("PushT") == "worldmodel/PushT-v0"
    assert [full_id(name) for name in ("worldmodel/PushT-v0", "HalfCheetah-v5", "Nowhere")] == [
        "worldmodel/PushT-v0",
        "HalfCheetah-v5",
        "Nowhere",
    ]
