"""The evaluator on a point in the plane: planners succeed, controls do not, and the bookkeeping is right."""

import json

import numpy as np
import pytest
import torch

from tests.agents.toys import BOUNDS, SPEED, PointCodec, PointMass, PointWorkers
from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.evaluate import (
    EvaluateConfig,
    evaluate,
    make_controllers,
    make_planner,
    scores_to_json,
    side_by_side,
)
from worldmodel.agents.mpc import MPCConfig, MPCController
from worldmodel.agents.mppi import MPPIConfig
from worldmodel.agents.objective import GoalCost
from worldmodel.agents.protocol import Manifest, Problem
from worldmodel.agents.random_shooting import RandomShootingConfig
from worldmodel.errors import UserError


def manifest(starts, goals, budget=16):
    problems = tuple(
        Problem(i, 0, 1, tuple(a), tuple(b), {}, float(np.linalg.norm(np.subtract(a, b))))
        for i, (a, b) in enumerate(zip(starts, goals, strict=True))
    )
    return Manifest(PointWorkers.env_id, 1, "toy", 1, budget, 0.0, 0.15, 0, len(problems), 0, 0, problems)


def far_manifest(count=12):
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, count)
    goals = 0.7 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return manifest(np.zeros((count, 2)).tolist(), goals.tolist())


class Script:
    """Plays fixed actions (model steps, a), `every` at a time, and records who was asked."""

    def __init__(self, actions, every):
        self.actions, self.every, self.asked, self.seen = np.asarray(actions, np.float32), every, [], []

    def reset(self, goals, seeds):
        self.goals, self.seeds = goals, seeds

    def act(self, history, rows):
        step = history.frames.shape[1] - 1
        self.asked.append(rows.tolist())
        self.seen.append(history)
        part = self.actions[step : step + self.every]
        part = np.concatenate([part, np.zeros((self.every - len(part), part.shape[1]), np.float32)])
        return np.broadcast_to(part, (len(rows), *part.shape)).copy()


@pytest.mark.parametrize("planner", [CEMConfig(horizon=4), MPPIConfig(horizon=4), RandomShootingConfig(horizon=4)])
def test_planning_solves_what_controls_do_not(planner):
    config = EvaluateConfig(planner=planner, mpc=MPCConfig(replan_every=2, context=2))
    workers = PointWorkers()
    controllers = make_controllers(config, BOUNDS, workers, PointCodec())
    controllers["learned"] = MPCController(PointMass(), make_planner(planner, BOUNDS), controllers["oracle"].objective, config.mpc)
    scores = {score.name: score for score in evaluate(far_manifest(), controllers, workers, config, progress=False)}
    assert list(scores) == ["random", "random_held", "copy_last_frame", "oracle", "learned"]
    assert scores["oracle"].success_rate == 1 and scores["learned"].success_rate == 1
    assert scores["random"].success_rate <= 0.25 and scores["copy_last_frame"].success_rate <= 0.5
    assert scores["oracle"].interval[0] > scores["random"].interval[1]
    assert all(distance <= 0.35 for distance in scores["oracle"].final_distance)
    assert scores["oracle"].plans < scores["random"].plans == 12 * 4


def test_the_oracle_is_left_out_where_states_are_not_restored_exactly():
    workers = PointWorkers()
    workers.restorable = False
    assert list(make_controllers(EvaluateConfig(), BOUNDS, workers, PointCodec())) == ["random", "random_held", "copy_last_frame"]


def test_success_is_latched_but_final_success_is_not():
    # 0.1 per env step, two env steps per model step; the goal at x = 0.4 is met from x = 0.25 to 0.55
    actions = [[1, 0, 1, 0]] * 4
    problems = manifest([[0.0, 0.0], [0.0, 0.8]], [[0.4, 0.0], [0.4, 0.0]], budget=8)
    [latched] = evaluate(problems, {"x": Script(actions, 4)}, PointWorkers(), EvaluateConfig(), progress=False)
    assert latched.success == [True, False] and latched.final_success == [False, False]
    assert latched.steps_to_success == [3, None]
    assert latched.final_distance == pytest.approx([0.4, np.hypot(0.4, 0.8)])
    assert latched.closest_distance == pytest.approx([0.0, 0.8], abs=1e-6)
    [stopped] = evaluate(problems, {"x": Script(actions, 2)}, PointWorkers(), EvaluateConfig(), progress=False)
    assert stopped.final_success == [True, False] and stopped.steps_to_success == [3, None]


@pytest.mark.parametrize(("stop", "asked", "frames"), [(True, [[0, 1], [1], [1], [1]], 2), (False, [[0, 1]] * 4, 5)])
def test_solved_problems_are_not_planned_for(stop, asked, frames):
    problems = manifest([[0.0, 0.0], [0.0, 0.8]], [[0.3, 0.0], [-0.4, 0.0]], budget=8)
    script = Script([[1, 0, 1, 0]] * 4, 1)
    config = EvaluateConfig(stop_when_solved=stop)
    [score] = evaluate(problems, {"x": script}, PointWorkers(), config, progress=False)
    assert script.asked == (asked if not stop else [[0, 1], *asked[1:]])
    assert score.plans == sum(len(rows) for rows in asked)
    assert len(score.frames[0]) == frames and len(score.frames[1]) == 5


def test_history_holds_what_was_seen_and_done():
    problems = manifest([[0.0, 0.0]], [[0.0, 0.9]], budget=7)  # 7 env steps hold 3 model steps
    actions = [[0.5, 0, 0.5, 0], [0, -0.5, 0, -0.5], [0.2, 0, 0.2, 0]]
    script = Script(actions, 2)
    [score] = evaluate(problems, {"x": script}, PointWorkers(), EvaluateConfig(), progress=False)
    assert [history.frames.shape[1] for history in script.seen] == [1, 3]
    assert np.array_equal(script.seen[1].actions[0], np.float32(actions[:2]))
    assert script.seen[1].states[0] == pytest.approx([0.1, -0.1])
    assert np.array_equal(script.seen[1].frames[0, :, 0, 0, :2], [[100, 100], [110, 100], [110, 90]])
    assert score.frames[0].shape == (4, 1, 1, 3) and score.frames[0][3, 0, 0, 0] == 114


def test_every_controller_gets_the_same_seeds_and_another_seed_changes_them():
    problems, seeds = far_manifest(5), {}
    for seed in (0, 0, 1):
        script = Script([[0, 0, 0, 0]], 8)
        evaluate(problems, {"x": script}, PointWorkers(), EvaluateConfig(seed=seed), progress=False)
        assert len(set(script.seeds)) == 5
        assert seeds.setdefault(seed, script.seeds) == script.seeds
    assert set(seeds[0]).isdisjoint(seeds[1])


def test_wrong_workers_and_a_budget_below_one_block_are_refused():
    problems = far_manifest(2)
    workers = PointWorkers()
    workers.image_size = 64
    with pytest.raises(UserError, match=r"toy/Point-v0 at 1 px, .* at 64 px"):
        evaluate(problems, {}, workers, EvaluateConfig())
    with pytest.raises(UserError, match="budget of 1 env steps is shorter than an action block of 2"):
        evaluate(manifest([[0, 0]], [[1, 1]], budget=1), {}, PointWorkers(), EvaluateConfig())


def test_json_of_scores_is_json():
    config = EvaluateConfig(planner=CEMConfig(horizon=2, num_samples=8, iterations=1), mpc=MPCConfig(replan_every=2))
    workers, problems = PointWorkers(), far_manifest(3)
    scores = evaluate(problems, make_controllers(config, BOUNDS, workers, PointCodec()), workers, config, progress=False)
    content = json.loads(json.dumps(scores_to_json(problems, scores, config), allow_nan=False))
    assert content["protocol"]["problems"] == 3 and content["protocol"]["budget"] == 16
    assert content["config"]["planner_kind"] == "CEMConfig" and content["config"]["planner"]["horizon"] == 2
    oracle = content["controllers"][-1]
    assert oracle["name"] == "oracle" and len(oracle["interval_95"]) == 2 and len(oracle["success"]) == 3
    assert "frames" not in oracle


def test_goal_stands_beside_the_frames():
    frames, goal = np.zeros((5, 4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    film = side_by_side(frames, goal, gap=2)
    assert film.shape == (5, 4, 10, 3)
    assert (film[:, :, :4] == 0).all() and (film[:, :, 4:6] == 255).all() and (film[:, :, 6:] == 9).all()


def test_objective_of_the_configuration_is_used():
    future, goal = torch.rand(2, 3, 4, 1, 2), torch.rand(2, 1, 2)
    costs = []
    for objective in (GoalCost("steps", "min"), GoalCost("latents", "final")):
        config = EvaluateConfig(objective=objective)
        oracle = make_controllers(config, BOUNDS, PointWorkers(), PointCodec())["oracle"]
        costs.append(oracle.objective(future, goal))
    torch.testing.assert_close(costs[1], (future[:, :, -1] - goal[:, None]).square().mean((2, 3)))
    nearest = (future - goal[:, None, None]).square().mean((3, 4)).min(dim=2).values
    torch.testing.assert_close(costs[0], nearest / SPEED**2)


def test_negative_numbers_are_refused():
    with pytest.raises(UserError, match="seed is -1"):
        EvaluateConfig(seed=-1)
    with pytest.raises(UserError, match="videos is -2"):
        EvaluateConfig(videos=-2)


def test_executing_more_than_is_planned_is_refused():
    with pytest.raises(UserError, match="replan_every is 6, above the planner's horizon 5"):
        EvaluateConfig(planner=CEMConfig(horizon=5), mpc=MPCConfig(replan_every=6))
