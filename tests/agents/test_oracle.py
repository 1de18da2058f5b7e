"""The oracle on the real TwoRoom: its futures are the truth, and it reaches goals that controls miss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.controllers import EvaluateConfig, Parts, make_controllers
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.mpc import MPCConfig
from worldmodel.agents.objective import GoalCost
from worldmodel.agents.oracle import OracleSimulator, TrueDistance, true_distance_objective
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.protocol import Manifest, Problem
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.codec.frames import encode_frames
from worldmodel.envs import make_task
from worldmodel.errors import UserError

ENV, SIZE, BLOCK = "worldmodel/TwoRoom-v0", 32, 4


class DiscCodec:
    """Sees where the default red disc is: one token, its centre of mass in [-1, 1]."""

    def encode(self, frames):
        red = (frames[:, 0] - frames[:, 1]).clamp(min=0.2) - 0.2  # (b, h, w)
        place = torch.linspace(-1, 1, red.shape[-1])
        centre = torch.stack([(red.sum(1) * place).sum(1), -(red.sum(2) * place).sum(1)], dim=1)
        return (centre / red.sum((1, 2))[:, None])[:, None]

    def decode(self, latents):
        raise NotImplementedError

    def goal_features(self, latents):
        return latents.flatten(-2)


@pytest.fixture(scope="module")
def workers():
    with TaskWorkers(ENV, SIZE, BLOCK, workers=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def manifest():
    """Ten pairs as the task draws them, some in different rooms."""
    task = make_task(ENV, image_size=SIZE)
    problems = []
    for seed in range(10):
        info = task.reset(seed=seed)[1]
        distance = task.goal_distance(info["state"], info["goal_state"])
        problems.append(Problem(seed, 0, 1, tuple(info["state"]), tuple(info["goal_state"]), info["variation"], distance))
    task.close()
    assert any(problem.start_state[1] * problem.goal_state[1] < 0 for problem in problems)
    return Manifest(ENV, SIZE, "test", "path", 1, 40, 0.0, 0.15, 0, 10, 0, 0, tuple(problems))


def test_the_codec_of_these_tests_sees_the_disc(workers, manifest):
    starts, _ = manifest.states
    seen = encode_frames(DiscCodec(), workers.render(starts))[:, 0]
    np.testing.assert_allclose(seen.numpy(), starts[:, 1:3] / 1.1, atol=0.03)  # the picture is 2.2 high


def test_futures_are_what_happens(workers, manifest):
    starts, _ = manifest.states
    oracle = OracleSimulator(workers, DiscCodec())
    frames = workers.render(starts)
    generator = torch.Generator().manual_seed(0)
    candidates = torch.rand(10, 70, 4, 2 * BLOCK, generator=generator) * 2 - 1
    state = oracle.encode(History(frames[:, None], np.zeros((10, 0, 8), np.float32), starts))
    futures = oracle.rollout(state, candidates)
    assert futures.shape == (10, 70, 4, 1, 2)
    task = make_task(ENV, image_size=SIZE)
    for b, s in [(0, 0), (3, 69), (9, 64)]:
        task.reset(seed=0, options={"state": starts[b]})
        for h in range(4):
            for action in candidates[b, s, h].numpy().reshape(BLOCK, 2):
                task.advance(action)
            torch.testing.assert_close(futures[b, s, h], encode_frames(DiscCodec(), task.render()[None])[0])
    task.close()


def test_with_jumps_the_frames_after_each_are_seen(workers, manifest):
    starts, _ = manifest.states
    history = History(workers.render(starts)[:, None], np.zeros((10, 0, 8), np.float32), starts)
    candidates = torch.rand(10, 3, 5, 2 * BLOCK, generator=torch.Generator().manual_seed(0)) * 2 - 1
    every = OracleSimulator(workers, DiscCodec())
    futures = every.rollout(every.encode(history), candidates)
    for jump, seen in ((2, [1, 3, 4]), (3, [2, 4]), (9, [4])):
        oracle = OracleSimulator(workers, DiscCodec(), jump=jump)
        torch.testing.assert_close(oracle.rollout(oracle.encode(history), candidates), futures[:, :, seen])


def test_a_history_without_states_is_refused(workers):
    history = History(np.zeros((1, 1, SIZE, SIZE, 3), np.uint8), np.zeros((1, 0, 8), np.float32))
    for simulator in (OracleSimulator(workers, DiscCodec()), TrueDistance(workers)):
        with pytest.raises(ValueError, match="the oracle needs History.states"):
            simulator.encode(history)
    with pytest.raises(ValueError, match="needs History.goal_states"):
        TrueDistance(workers).encode(replace(history, states=np.zeros((1, 23))))


def test_the_true_distance_is_the_tasks_after_each_model_step(workers, manifest):
    starts, goals = manifest.states
    simulator, frames = TrueDistance(workers), np.zeros((10, 1, SIZE, SIZE, 3), np.uint8)
    candidates = torch.rand(10, 3, 4, 2 * BLOCK, generator=torch.Generator().manual_seed(0)) * 2 - 1
    state = simulator.encode(History(frames, np.zeros((10, 0, 8), np.float32), starts, None, goals))
    told = simulator.rollout(state, candidates)
    assert told.shape == (10, 3, 4, 1, 1) and told.dtype == torch.float32
    task = make_task(ENV, image_size=SIZE)
    for b, s in [(0, 0), (7, 2)]:
        task.reset(seed=0, options={"state": starts[b]})
        for h in range(4):
            for action in candidates[b, s, h].numpy().reshape(BLOCK, 2):
                task.advance(action)
            assert told[b, s, h].item() == pytest.approx(task.goal_distance(task.get_state(), goals[b]))
    task.close()
    costs = true_distance_objective(GoalCost(reduction="min"))(told, simulator.encode_goal(frames[:, 0]))
    torch.testing.assert_close(costs, told[..., 0, 0].min(dim=2).values)


def test_planning_with_the_oracle_reaches_goals_that_controls_miss(workers, manifest):
    config = EvaluateConfig(
        planner=CEMConfig(horizon=5, num_samples=24, iterations=2),
        objective=GoalCost("latents"),
        mpc=MPCConfig(replan_every=1),
    )
    bounds = ActionBounds.of_box(workers.action_space, BLOCK)
    names = ["random", "copy_last_frame", "oracle", "oracle_true_distance"]
    controllers = make_controllers(config, Parts(bounds, workers, DiscCodec()), names)
    scores = {score.name: score for score in evaluate(manifest, controllers, workers, config, progress=False)}
    assert sum(scores["oracle"].success) >= 8  # 10, 9, 10 of the seeds 0-9, 10-19, 20-29; other drivers draw other pixels
    assert sum(scores["oracle_true_distance"].success) >= 8
    assert sum(scores["oracle"].held) >= 7
    assert max(sum(scores[name].success) for name in ("random", "copy_last_frame")) <= 5
    assert scores["oracle"].interval[0] > scores["random"].interval[1]
    assert np.mean(scores["oracle"].final_distance) < 0.3 * np.mean(scores["random"].final_distance)


def test_torch_gets_its_threads_back(manifest):
    starts, _ = manifest.states
    before = torch.get_num_threads()
    during = []

    class Watch(DiscCodec):
        def encode(self, frames):
            during.append(torch.get_num_threads())
            return super().encode(frames)

    torch.set_num_threads(4)
    try:
        with TaskWorkers(ENV, SIZE, BLOCK, workers=2) as workers:
            oracle = OracleSimulator(workers, Watch())
            frames = workers.render(starts)[:, None]
            state = oracle.encode(History(frames, np.zeros((10, 0, 2 * BLOCK), np.float32), starts))
            oracle.rollout(state, torch.zeros(10, 2, 2, 2 * BLOCK))
            assert set(during) == {2} and torch.get_num_threads() == 4
            with pytest.raises(UserError, match="out of bounds"):
                oracle.rollout(state, torch.full((10, 2, 2, 2 * BLOCK), 2.0))
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
