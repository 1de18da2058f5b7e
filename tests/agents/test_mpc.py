"""Receding-horizon control and the random control."""

import numpy as np
import pytest
import torch

from tests.agents.toys import BOUNDS, PointCodec, PointMass, problem
from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.mpc import MPCConfig, MPCController, RandomController
from worldmodel.agents.objective import GoalCost, make_objective
from worldmodel.agents.planner import shift

PLANNER = CEM(CEMConfig(horizon=4, num_samples=16, iterations=2), BOUNDS)


class Recorder:
    """Passes on to a planner and keeps what it was given and what it answered."""

    def __init__(self):
        self.warm, self.plans, self.goals = [], [], []

    def plan(self, simulator, state, objective, goal, generator, warm_start=None):
        plan = PLANNER.plan(simulator, state, objective, goal, generator, warm_start)
        self.warm.append(warm_start)
        self.plans.append(plan.actions)
        self.goals.append(goal)
        return plan


def start(config, starts=((0.0, 0.0), (0.2, 0.2), (-0.3, 0.1)), goals=((0.5, 0.0), (0.0, 0.0), (0.3, 0.3))):
    history, goal_frames = problem([list(each) for each in starts], [list(each) for each in goals])
    recorder = Recorder()
    objective = make_objective(GoalCost("latents", "final"), PointCodec())
    controller = MPCController(PointMass(), recorder, objective, config)
    controller.reset(goal_frames, [0, 1, 2])
    return controller, recorder, history


def test_next_search_starts_from_the_rest_of_the_last_plan_of_the_same_problem():
    controller, recorder, history = start(MPCConfig(replan_every=3))
    actions = controller.act(history, np.arange(3))
    assert actions.shape == (3, 3, 4) and actions.dtype == np.float32
    assert recorder.warm[0] is None
    controller.act(history.select(np.array([2, 0])), np.array([2, 0]))
    assert torch.equal(recorder.warm[1], shift(recorder.plans[0][[2, 0]], 3))
    assert torch.equal(recorder.goals[1], recorder.goals[0][[2, 0]])
    controller.reset(np.zeros((3, 1, 1, 3), np.uint8), [0, 1, 2])
    controller.act(history, np.arange(3))
    assert recorder.warm[2] is None


def test_problems_at_once_does_not_change_the_actions():
    whole, _, history = start(MPCConfig(problems_at_once=64))
    split, recorder, _ = start(MPCConfig(problems_at_once=2))
    np.testing.assert_allclose(whole.act(history, np.arange(3)), split.act(history, np.arange(3)), atol=1e-5)  # sums in another order
    assert [len(plan) for plan in recorder.plans] == [2, 1]


def test_warm_start_can_be_switched_off_and_a_long_segment_is_refused():
    controller, recorder, history = start(MPCConfig(warm_start=False))
    controller.act(history, np.arange(3))
    controller.act(history, np.arange(3))
    assert recorder.warm == [None, None]
    controller, _, history = start(MPCConfig(replan_every=5))
    with pytest.raises(ValueError, match="replan_every is 5, above the plan's 4 steps"):
        controller.act(history, np.arange(3))
    with pytest.raises(ValueError, match="replan_every is 0"):
        MPCConfig(replan_every=0)


def test_random_control_is_uniform_seeded_and_independent_of_its_neighbours():
    _, _, history = start(MPCConfig())
    actions = {}
    for held in (False, True):
        controller = RandomController(BOUNDS, replan_every=500, held=held)
        controller.reset(np.zeros((3, 1, 1, 3), np.uint8), [7, 8, 9])
        actions[held] = controller.act(history, np.arange(3))
        controller.reset(np.zeros((3, 1, 1, 3), np.uint8), [7, 8, 9])
        assert np.array_equal(controller.act(history.select(np.array([1])), np.array([1]))[0], actions[held][1])
    free = actions[False].reshape(3, 1000, 2)
    assert free.min() >= -1 and free.max() <= 1
    assert np.abs(free.mean(axis=(0, 1))).max() < 0.05 and free.std() == pytest.approx(3**-0.5, abs=0.02)
    held = actions[True].reshape(3, 1000, 2)
    assert (held == held[:, :1]).all() and not np.array_equal(held[0, 0], held[1, 0])
