"""Receding-horizon control and the random control."""

import numpy as np
import pytest
import torch

from tests.agents.toys import BOUNDS, PointActor, PointCodec, PointMass, problem
from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.mpc import MPCConfig, MPCController, RandomController
from worldmodel.agents.objective import GoalCost, make_objective
from worldmodel.agents.planner import shift
from worldmodel.agents.policy import Proposals

PLANNER = CEM(CEMConfig(horizon=4, num_samples=16, iterations=2), BOUNDS)


class Recorder:
    """Passes on to a planner and keeps what it was given and what it answered."""

    def __init__(self):
        self.warm, self.std, self.plans, self.goals = [], [], [], []

    def plan(self, simulator, state, objective, goal, generator, warm_start=None, start_std=None):
        plan = PLANNER.plan(simulator, state, objective, goal, generator, warm_start, start_std)
        self.warm.append(warm_start)
        self.std.append(start_std)
        self.plans.append(plan.actions)
        self.goals.append(goal)
        return plan


STARTS, GOALS = ((0.0, 0.0), (0.2, 0.2), (-0.3, 0.1)), ((0.5, 0.0), (0.0, 0.0), (0.3, 0.3))


def start(config, proposals=None, near=0.0):
    history, goal_frames = problem([list(each) for each in STARTS], [list(each) for each in GOALS])
    recorder = Recorder()
    objective = make_objective(GoalCost("latents", "final"), PointCodec())
    controller = MPCController(PointMass(), recorder, objective, config, proposals, near)
    controller.reset(goal_frames, [0, 1, 2])
    return controller, recorder, history


def test_next_search_starts_from_the_rest_of_the_last_plan_of_the_same_problem():
    controller, recorder, history = start(MPCConfig(replan_every=3, problems_at_once=2))
    actions = controller.act(history)
    assert actions.shape == (3, 3, 4) and actions.dtype == np.float32
    assert recorder.warm == [None, None] and recorder.std == [None, None]
    controller.act(history)
    assert torch.equal(recorder.warm[2], shift(recorder.plans[0], 3)) and torch.equal(recorder.warm[3], shift(recorder.plans[1], 3))
    assert torch.equal(recorder.goals[3], recorder.goals[1]) and len(recorder.goals[1]) == 1
    controller.reset(np.zeros((3, 1, 1, 3), np.uint8), [0, 1, 2])
    controller.act(history)
    assert recorder.warm[4] is None


def test_proposals_are_where_a_search_starts_and_how_wide():
    actor = PointActor(std=0.2)
    proposals = Proposals(actor, PointCodec(), BOUNDS, context=2, goal_steps=20)
    controller, recorder, history = start(MPCConfig(problems_at_once=2, replan_every=1), proposals)
    controller.act(history)
    controller.act(history)
    assert len(actor.seen) == 4 and [len(std) for std in recorder.std] == [2, 1, 2, 1]
    whole = proposals(history)[0]
    torch.testing.assert_close(torch.cat(recorder.warm[2:]), whole)  # not the rest of the last plan
    assert all((std == 0.2).all() for std in recorder.std)


@pytest.mark.parametrize(("near", "alone"), [(0.0, []), (1.5, []), (2.5, [1]), (5.5, [0, 1]), (99.0, [0, 1, 2])])
def test_near_the_goal_a_proposal_is_carried_out_without_a_search(near, alone):
    """The problems' goals are 5, 2 and 6 env steps away."""
    config, actors = MPCConfig(problems_at_once=3, replan_every=2), [PointActor(std=0.2) for _ in range(2)]
    proposals = [Proposals(actor, PointCodec(), BOUNDS, context=2, goal_steps=20) for actor in actors]
    searched = start(config, proposals[0])[0].act(start(config)[2])
    controller, recorder, history = start(config, proposals[1], near)
    actions = controller.act(history)
    proposed = proposals[1](history)[0][:, :2].numpy()
    far = [i for i in range(3) if i not in alone]
    np.testing.assert_array_equal(actions[alone], proposed[alone])
    np.testing.assert_allclose(actions[far], searched[far], atol=1e-5)  # sums in another order
    assert [tuple(each[0].tolist()) for goals in recorder.goals for each in goals] == [pytest.approx(GOALS[i]) for i in far]
    assert controller._rest.shape == (3, 4, 4)


def test_problems_at_once_does_not_change_the_actions():
    whole, _, history = start(MPCConfig(problems_at_once=64))
    split, recorder, _ = start(MPCConfig(problems_at_once=2))
    np.testing.assert_allclose(whole.act(history), split.act(history), atol=1e-5)  # sums in another order
    assert [len(plan) for plan in recorder.plans] == [2, 1]


def test_warm_start_can_be_switched_off_and_a_long_segment_is_refused():
    controller, recorder, history = start(MPCConfig(warm_start=False))
    controller.act(history)
    controller.act(history)
    assert recorder.warm == [None, None]
    controller, _, history = start(MPCConfig(replan_every=5))
    with pytest.raises(ValueError, match="replan_every is 5, above the plan's 4 steps"):
        controller.act(history)
    with pytest.raises(ValueError, match="replan_every is 0"):
        MPCConfig(replan_every=0)


def test_random_control_is_uniform_seeded_and_independent_of_its_neighbours():
    _, _, history = start(MPCConfig())
    actions = {}
    for action_repeat in (False, True):
        controller = RandomController(BOUNDS, replan_every=500, action_repeat=action_repeat)
        controller.reset(np.zeros((3, 1, 1, 3), np.uint8), [7, 8, 9])
        actions[action_repeat] = controller.act(history)
        controller.reset(np.zeros((1, 1, 1, 3), np.uint8), [8])
        assert np.array_equal(controller.act(history.select(np.array([1])))[0], actions[action_repeat][1])
    free = actions[False].reshape(3, 1000, 2)
    assert free.min() >= -1 and free.max() <= 1
    assert np.abs(free.mean(axis=(0, 1))).max() < 0.05 and free.std() == pytest.approx(3**-0.5, abs=0.02)
    action_repeat = actions[True].reshape(3, 1000, 2)
    assert (action_repeat == action_repeat[:, :1]).all() and not np.array_equal(action_repeat[0, 0], action_repeat[1, 0])
