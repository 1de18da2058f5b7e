"""What an actor is asked, and that its mean is what is carried out."""

import numpy as np
import pytest
import torch

from tests.agents.toys import BOUNDS, SPEED, PointActor, PointCodec, problem, to_frames, to_positions
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.policy import PolicyConfig, PolicyController, Proposals
from worldmodel.agents.simulator import History
from worldmodel.errors import UserError

STARTS, GOALS = [[0.0, 0.0], [0.2, 0.2], [-0.3, 0.1]], [[0.5, 0.0], [0.0, 0.0], [0.3, 0.3]]


def walked(steps):
    """Histories of three problems after `steps` model steps to the right."""
    positions = np.array(STARTS)[:, None] + np.arange(steps + 1)[None, :, None] * np.array([0.05, 0.0])
    actions = np.arange(3 * steps * BOUNDS.dim, dtype=np.float32).reshape(3, steps, BOUNDS.dim) / 100
    return History(to_frames(positions), actions)


def proposals(actor, **changes):
    made = Proposals(actor, PointCodec(), BOUNDS, **{"context": 2, "goal_steps": 10} | changes)
    made.reset(problem(STARTS, GOALS)[1])
    return made


@pytest.mark.parametrize(("steps", "left"), [(0, 10), (1, 8), (3, 4), (4, 4), (9, 4)])
def test_steps_left_count_down_and_stop_at_two_blocks(steps, left):
    actor = PointActor()
    proposals(actor)(walked(steps))
    assert actor.seen[0][3].tolist() == [left] * 3


def test_where_the_goals_are_not_on_a_path_the_actor_says_how_far_they_are_from_the_start():
    actor = PointActor()
    made = proposals(actor, goal_steps=None)
    for steps in (0, 2):
        made(walked(steps))
    far = [max(abs(np.subtract(a, b))) / SPEED for a, b in zip(STARTS, GOALS, strict=True)]  # 5, 2, 6 env steps
    assert actor.seen[0][3].tolist() == pytest.approx([far[0], 4, far[2]])
    assert actor.seen[1][3].tolist() == [4, 4, 4]
    made.reset(problem(GOALS, GOALS)[1])
    made(walked(0).select(np.array([1, 0, 2])))
    assert actor.seen[2][3].tolist() == pytest.approx([4, 4, 6]), "a new reset asks anew"


def test_the_actor_sees_the_newest_frames_and_the_actions_carried_out_between_them():
    actor, history = PointActor(), walked(5)
    proposals(actor, context=3)(history)
    frames, actions, goal, _ = actor.seen[0]
    torch.testing.assert_close(frames, to_positions(history.frames[:, 3:])[..., 0:1, :], atol=1e-5, rtol=0)
    assert torch.equal(actions, torch.from_numpy(history.actions[:, 3:]))
    torch.testing.assert_close(goal[:, 0], torch.tensor(GOALS), atol=1e-5, rtol=0)
    proposals(actor, context=3)(history, slice(1, 2))
    torch.testing.assert_close(actor.seen[1][0], frames[1:2])
    torch.testing.assert_close(actor.seen[1][2], goal[1:2])


def test_the_mean_is_carried_out_within_the_bounds():
    class Wild(PointActor):
        def propose(self, *asked):
            mean, std = super().propose(*asked)
            return mean * 3, std

    controller = PolicyController(proposals(Wild()), PolicyConfig(replan_every=2), problems_at_once=2)
    history, goals = problem(STARTS, GOALS)
    controller.reset(goals, [0, 1, 2])
    actions = controller.act(history)
    assert actions.shape == (3, 2, BOUNDS.dim) and actions.dtype == np.float32
    assert np.abs(actions).max() == 1
    assert actions[0].tolist() == [[1, 0, 1, 0]] * 2
    controller.reset(goals, [7, 8, 9])
    assert np.array_equal(controller.act(history), actions), "nothing is random"
    controller = PolicyController(proposals(PointActor()), PolicyConfig(), problems_at_once=64)
    controller.reset(goals, [0, 1, 2])
    assert controller.act(history).shape == (3, 1, BOUNDS.dim)


@pytest.mark.parametrize(("wanted", "told"), [(None, 4), (2, 2), (9, 4)])
def test_only_the_first_steps_of_a_proposal_are_told_where_fewer_are_wanted(wanted, told):
    whole, cut = proposals(PointActor(4))(walked(0)), proposals(PointActor(4), horizon=wanted)(walked(0))
    for all_steps, first in zip(whole, cut, strict=True):
        assert torch.equal(first, all_steps[:, :told])


def test_a_search_can_be_narrower_than_the_actor_is_unsure():
    (mean, std), (same, narrow) = proposals(PointActor(4))(walked(0)), proposals(PointActor(4), spread=0.5)(walked(0))
    assert torch.equal(mean, same)
    assert torch.equal(narrow, 0.5 * std)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"policy.replan_every is 0"):
        PolicyConfig(0)
    with pytest.raises(UserError, match=r"policy.replan_every is 5, above the 4 steps of a proposal"):
        PolicyController(Proposals(PointActor(4), PointCodec(), ActionBounds((-1.0,), (1.0,)), 2), PolicyConfig(5))
