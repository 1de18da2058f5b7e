"""Success by episode, after every step and in the world of its episode, for controllers and oracles alike."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.test_evaluate import Script
from tests.agents.toys import BOUNDS, SPEED, PointCodec, PointWorkers, manifest, to_frames
from worldmodel.agents.controllers import EvaluateConfig
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.intervals import wilson
from worldmodel.agents.oracle import OracleSimulator, TrueDistance
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.envs import make_task


class Worlds(PointWorkers):
    """Records the factor values that it is told."""

    def __init__(self) -> None:
        self.rendered: list[Any] = []
        self.rolled: list[Any] = []

    def render(self, states: Any, variations: Any = None) -> Any:
        self.rendered.append(variations)
        return super().render(states, variations)

    def roll(self, states: Any, actions: Any, on_frames: Any, variations: Any = None, goal_states: Any = None) -> Any:
        self.rolled.append(variations)
        return super().roll(states, actions, on_frames, variations, goal_states)


def test_intervals_of_success_are_clustered_by_episode() -> None:
    # from the left the goal is reached and held, from the right it is not; two problems of each episode
    problems = manifest([[0.0, 0.0]] * 2 + [[0.0, 0.8]] * 2, [[0.4, 0.0]] * 4, budget=4)
    told = [replace(problem, episode=5 + i // 2) for i, problem in enumerate(problems.problems)]
    [score] = evaluate(
        replace(problems, problems=tuple(told)), {"x": Script([[1, 0, 1, 0]] * 2, 1)}, PointWorkers(), EvaluateConfig(), progress=False
    )
    assert score.success == score.held == [1, 1, 0, 0] and score.episodes == [5, 5, 6, 6]
    assert score.interval == score.held_interval == pytest.approx(wilson(1, 2)), "two episodes are all that is known"
    assert score.to_json()["episodes"] == 2
    alone = replace(score, episodes=[1, 2, 3, 4])
    assert alone.interval == pytest.approx(wilson(2, 4)) and replace(score, episodes=[]).interval == pytest.approx(wilson(2, 4))


def test_the_world_has_the_factors_of_each_episode() -> None:
    factors = [{"door": 0.1}, {"door": 0.2}]
    problems = manifest([[0.0, 0.0], [0.1, 0.0]], [[0.4, 0.0]] * 2, budget=4)
    told = [replace(problem, variation=each) for problem, each in zip(problems.problems, factors, strict=True)]
    worlds, script = Worlds(), Script([[1, 0, 1, 0]] * 2, 1)
    evaluate(replace(problems, problems=tuple(told)), {"x": script}, worlds, EvaluateConfig(), progress=False)
    assert worlds.rendered == [factors, factors], "goals, and starts"
    assert worlds.rolled == [factors, factors]
    assert all(history.variations == factors for history in script.seen)


def test_the_oracle_knows_the_factors_of_each_episode() -> None:
    factors = [{"door": 0.1}, {"door": 0.2}, {"door": 0.3}]
    places = np.zeros((3, 2))
    history = History(to_frames(places)[:, None], np.zeros((3, 0, BOUNDS.dim), np.float32), places, factors, places + 0.5)
    for make in (lambda worlds: OracleSimulator(worlds, PointCodec()), TrueDistance):
        worlds = Worlds()
        simulator: Any = make(worlds)
        for rows, expected in ((slice(0, 3), factors), (slice(1, 2), factors[1:2])):
            state = simulator.encode(history.select(rows))
            simulator.rollout(state, torch.zeros(len(expected), 2, 3, BOUNDS.dim))
        assert worlds.rolled == [factors, factors[1:2]]


def test_the_true_distance_is_that_after_each_block() -> None:
    start, goal = np.zeros((1, 2)), np.array([[1.0, 0.0]])
    history = History(to_frames(start)[:, None], np.zeros((1, 0, BOUNDS.dim), np.float32), start, None, goal)
    simulator: Any = TrueDistance(PointWorkers())  # type: ignore[arg-type]
    right = torch.tensor([1.0, 0.0] * BOUNDS.block).expand(1, 1, 3, -1)
    told = simulator.rollout(simulator.encode(history), right)[0, 0, :, 0, 0]
    assert told.tolist() == pytest.approx([1 - SPEED * BOUNDS.block * (h + 1) for h in range(3)])


def test_success_and_distance_are_those_after_each_step() -> None:
    task = make_task("worldmodel/TwoRoom-v0", image_size=32)
    info = task.reset(seed=1)[1]
    start, goal = info["state"], info["goal_state"]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
    with TaskWorkers("worldmodel/TwoRoom-v0", 32, 2, workers=0) as workers:
        rolled = workers.roll(start[None], actions.reshape(1, 1, 2, 4), None, None, goal[None])
    task.set_state(start)
    for i, action in enumerate(actions):
        task.advance(action)
        state = task.get_state()
        assert rolled.distance[0, 0, i] == task.goal_distance(state, goal)
        assert rolled.success[0, 0, i] == task.is_success(state, goal)
    task.close()
