"""The evaluator on a point in the plane: planners succeed, controls do not, and the bookkeeping is right."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from tests.agents.toys import (
    BOUNDS,
    SPEED,
    PointActor,
    PointCodec,
    PointDynamics,
    PointWorkers,
    far_manifest,
    manifest,
    problem,
    to_positions,
)
from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.controllers import EvaluateConfig, GuidedConfig, Parts, make_controllers, usual_controllers, with_candidates
from worldmodel.agents.evaluate import BAR, SearchProgress, evaluate, scores_to_json
from worldmodel.agents.intervals import wilson, wilson_of_shares
from worldmodel.agents.mpc import MPCConfig
from worldmodel.agents.mppi import MPPIConfig
from worldmodel.agents.objective import GoalCost
from worldmodel.agents.oracle import OracleSimulator
from worldmodel.agents.policy import PolicyConfig
from worldmodel.agents.random_shooting import RandomShootingConfig
from worldmodel.errors import UserError


def parts(**changes):
    given = dict(
        bounds=BOUNDS, workers=PointWorkers(), codec=PointCodec(), dynamics=PointDynamics(), actor=PointActor(), goal_steps=10
    )
    return Parts(**given | changes)


class Script:
    """Plays fixed actions (model steps, a), `every` at a time, and records what it saw; `seeds` is a list of each reset's."""

    def __init__(self, actions, every):
        self.actions, self.every, self.seen, self.seeds = np.asarray(actions, np.float32), every, [], []

    def reset(self, goals, seeds):
        self.goals = goals
        self.seeds.append(seeds)

    def act(self, history):
        step = history.frames.shape[1] - 1
        self.seen.append(history)
        part = self.actions[step : step + self.every]
        part = np.concatenate([part, np.zeros((self.every - len(part), part.shape[1]), np.float32)])
        return np.broadcast_to(part, (len(history), *part.shape)).copy()


@pytest.mark.parametrize("planner", [CEMConfig(horizon=4), MPPIConfig(horizon=4), RandomShootingConfig(horizon=4)])
def test_planning_solves_what_controls_do_not(planner):
    config = EvaluateConfig(planner=planner, mpc=MPCConfig(replan_every=2, context=2))
    controllers = make_controllers(config, parts(actor=None))
    scores = {score.name: score for score in evaluate(far_manifest(), controllers, PointWorkers(), config, progress=False)}
    assert list(scores) == ["random", "random_held", "copy_last_frame", config.search, "oracle"]
    assert scores["oracle"].success_rate == 1 and scores[config.search].success_rate == 1
    assert scores["random"].success_rate <= 0.25 and scores["copy_last_frame"].success_rate <= 0.5
    assert scores["oracle"].interval[0] > scores["random"].interval[1]
    assert all(distance <= 0.35 for distance in scores["oracle"].final_distance)
    assert scores["oracle"].plans == 12 * 4 and scores["random"].plans == 12 * 2  # all act to the end


def test_policy_and_guided_search_go_straight_to_the_goal():
    config = EvaluateConfig()
    names = ["policy", "guided", "cem", "mppi", "random_shooting", "learned_shuffled_actions", "oracle_true_distance", "oracle_guided"]
    controllers = make_controllers(config, parts(), names)
    scores = {score.name: score for score in evaluate(far_manifest(), controllers, PointWorkers(), config, progress=False)}
    assert list(scores) == names
    for name in ("policy", "guided", "oracle_guided"):
        assert scores[name].success_rate == scores[name].held_rate == 1
        assert max(scores[name].streams[0].steps_to_success) <= 7  # 0.7 away at 0.1 a step, met at 0.15
    assert max(scores["policy"].final_distance) < 0.01
    assert scores["oracle_true_distance"].success_rate == 1
    assert scores["learned_shuffled_actions"].success_rate < scores["cem"].success_rate
    assert scores["policy"].plans == scores["cem"].plans == 12 * 8  # looks after each of 8 model steps
    for score in scores.values():
        assert score.seconds_per_action == pytest.approx(score.seconds_per_plan * score.plans / (12 * 16))
    assert scores["policy"].seconds_per_plan < scores["cem"].seconds_per_plan


def test_usual_controllers_are_what_the_parts_suffice_for():
    config, controls = EvaluateConfig(planner=MPPIConfig()), ["random", "random_held", "copy_last_frame"]
    workers = PointWorkers()
    workers.restorable = False
    assert usual_controllers(config, parts()) == [*controls, "policy", "guided", "mppi", "oracle"]
    assert usual_controllers(config, parts(actor=None, dynamics=None)) == [*controls, "oracle"]
    assert usual_controllers(config, parts(actor=None, dynamics=None, workers=workers)) == controls
    with pytest.raises(UserError, match="toy/Point-v0 does not restore its state exactly"):
        make_controllers(config, parts(workers=workers), ["oracle_true_distance"])
    for name in ("policy", "guided"):
        with pytest.raises(UserError, match=f"controller {name} needs a model that puts out actions"):
            make_controllers(config, parts(actor=None), [name])
    with pytest.raises(UserError, match="steps_to_go needs a model that tells steps to go"):
        make_controllers(EvaluateConfig(objective=GoalCost("steps_to_go")), parts(actor=None), ["oracle"])


@pytest.mark.parametrize(("asked", "known", "searched"), [(4, 3, 3), (2, 5, 2)])
def test_guided_search_looks_no_further_than_is_asked_and_proposed(asked, known, searched):
    config = EvaluateConfig(guided=GuidedConfig(CEMConfig(horizon=asked)))
    guided = make_controllers(config, parts(actor=PointActor(horizon=known)), ["guided"])["guided"]
    assert guided.planner.config.horizon == guided.proposals.horizon == searched


def test_other_numbers_of_candidates_change_nothing_else():
    config = EvaluateConfig(planner=CEMConfig(horizon=5, num_elites=6), guided=GuidedConfig(CEMConfig(iterations=1, num_elites=4)))
    few = with_candidates(config, 3)
    assert few.planner == CEMConfig(horizon=5, num_samples=3, num_elites=3)
    assert few.guided == GuidedConfig(CEMConfig(iterations=1, num_samples=3, num_elites=3))
    assert with_candidates(config, 90).planner == CEMConfig(horizon=5, num_samples=90, num_elites=6)
    assert with_candidates(EvaluateConfig(planner=RandomShootingConfig()), 9).planner == RandomShootingConfig(num_samples=9)
    with pytest.raises(UserError, match="num_samples"):
        with_candidates(config, 0)


def test_each_search_takes_its_own_settings_and_guided_the_horizon_of_the_proposals():
    config = EvaluateConfig(planner=CEMConfig(horizon=5), guided=GuidedConfig(CEMConfig(num_samples=7), 0.25, 2))
    made = make_controllers(config, parts(actor=PointActor(horizon=3)), ["cem", "mppi", "copy_last_frame", "guided"])
    assert made["cem"].planner.config == made["copy_last_frame"].planner.config == CEMConfig(horizon=5)
    assert made["mppi"].planner.config == MPPIConfig()
    assert made["guided"].planner.config == CEMConfig(horizon=3, num_samples=7)
    assert made["guided"].proposals.spread == 0.25
    true = make_controllers(config, parts(actor=PointActor(horizon=3)), ["oracle_guided"])["oracle_guided"]
    assert true.planner.config == made["guided"].planner.config and true.proposals.spread == 0.25
    assert isinstance(true.simulator, OracleSimulator) and true.simulator.jump == 1
    jumping = make_controllers(config, replace(parts(actor=PointActor(horizon=3)), jump=2), ["oracle", "oracle_guided"])
    assert [controller.simulator.jump for controller in jumping.values()] == [2, 2]
    made = make_controllers(EvaluateConfig(guided=GuidedConfig(near=2.5)), parts(actor=PointActor(horizon=3)), ["guided", "cem"])
    assert made["guided"].near == 2.5 * BOUNDS.block and made["cem"].near == 0
    close, goal = torch.tensor([[[[[0.02, 0.0]], [[0.2, 0.0]]]]]), torch.zeros(1, 1, 2)  # 0.4 and 4 env steps away, 2.5 blocks are 5
    assert made["guided"].objective(close, goal) == pytest.approx(1.3 * 5) and made["cem"].objective(close, goal) < 1
    made = make_controllers(config, parts(actor=PointActor(horizon=3)), ["cem", "guided"])
    assert made["guided"].config.replan_every == 2 and made["cem"].config.replan_every == 1


def test_touched_is_latched_and_held_is_at_the_end_of_the_budget():
    # 0.1 per env step, two env steps per model step; the goal at x = 0.4 is met from x = 0.25 to 0.55
    actions = [[1, 0, 1, 0]] * 4
    problems = manifest([[0.0, 0.0], [0.0, 0.8], [-0.4, 0.0]], [[0.4, 0.0], [0.4, 0.0], [0.4, 0.0]], budget=8)
    for every in (1, 2, 4):  # whoever looks often acts on as well
        [score] = evaluate(problems, {"x": Script(actions, every)}, PointWorkers(), EvaluateConfig(), progress=False)
        [stream] = score.streams
        assert stream.success == [True, False, True] and stream.held == [False, False, True]
        assert stream.steps_to_success == [3, None, 7]
        assert stream.final_distance == pytest.approx([0.4, np.hypot(0.4, 0.8), 0.0], abs=1e-6)
        assert stream.closest_distance == pytest.approx([0.0, 0.8, 0.0], abs=1e-6)
        assert score.success_rate == pytest.approx(2 / 3) and score.held_rate == pytest.approx(1 / 3)
        assert score.interval == wilson(2, 3) and score.held_interval == wilson(1, 3)
        told = score.to_json()
        assert (told["interval_95"], told["held_interval_95"]) == ([*wilson(2, 3)], [*wilson(1, 3)])
        assert (told["success_rate"], told["held_rate"]) == (score.success_rate, score.held_rate)
        assert score.plans == 3 * 4 // every and len(score.frames[0]) == 5


class Lucky(Script):
    """Goes right in the streams whose first seed is in `lucky`."""

    def act(self, history):
        going = self.seeds[-1][0] in self.lucky
        return super().act(history) * going


def test_streams_repeat_the_problems_with_other_seeds_and_average_each_problem():
    problems = manifest([[0.0, 0.0], [0.0, 0.8]], [[0.4, 0.0], [0.4, 0.0]], budget=8)
    script = Lucky([[1, 0, 1, 0]] * 2, 1)
    config = EvaluateConfig(streams=3, videos=1)
    script.lucky = set()
    evaluate(problems, {"x": script}, PointWorkers(), config, progress=False)
    assert len(script.seeds) == 3 and len({seed for seeds in script.seeds for seed in seeds}) == 6
    alone = Script([[0, 0, 0, 0]], 1)
    evaluate(problems, {"x": alone}, PointWorkers(), EvaluateConfig(), progress=False)
    assert alone.seeds == script.seeds[:1]  # the first stream is that of a single one
    script.lucky, script.seeds = {script.seeds[1][0], script.seeds[2][0]}, []
    [score] = evaluate(problems, {"x": script}, PointWorkers(), config, progress=False)
    assert [stream.success for stream in score.streams] == [[False, False], [True, False], [True, False]]
    assert score.success == pytest.approx([2 / 3, 0.0]) and score.held == pytest.approx([2 / 3, 0.0])
    assert score.success_rate == pytest.approx(1 / 3)
    assert score.interval == wilson_of_shares(score.success, 3)
    assert score.final_distance == pytest.approx([0.4 / 3, np.hypot(0.4, 0.8) / 3 + 0.8 * 2 / 3], abs=1e-6)
    assert score.plans == 3 * 2 * 4
    assert set(score.frames) == {0} and (to_positions(score.frames[0])[..., 0] == 0).all()  # of the first stream


def test_history_holds_what_was_seen_and_done():
    problems = manifest([[0.0, 0.0]], [[0.0, 0.9]], budget=7)  # 7 env steps hold 3 model steps
    actions = [[0.5, 0, 0.5, 0], [0, -0.5, 0, -0.5], [0.2, 0, 0.2, 0]]
    script = Script(actions, 2)
    [score] = evaluate(problems, {"x": script}, PointWorkers(), EvaluateConfig(), progress=False)
    assert script.seen[1].goal_states[0] == pytest.approx([0.0, 0.9])
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
        assert len(set(script.seeds[0])) == 5
        assert seeds.setdefault(seed, script.seeds[0]) == script.seeds[0]
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
    problems = far_manifest(3)
    scores = evaluate(problems, make_controllers(config, parts()), PointWorkers(), config, progress=False)
    content = json.loads(json.dumps(scores_to_json(problems, scores, config), allow_nan=False))
    assert content["protocol"]["problems"] == 3 and content["protocol"]["budget"] == 16
    assert content["config"]["planner_kind"] == "CEMConfig" and content["config"]["planner"]["horizon"] == 2
    oracle = content["controllers"][-1]
    assert oracle["name"] == "oracle" and len(oracle["interval_95"]) == len(oracle["held_interval_95"]) == 2
    assert set(oracle) >= {"success_rate", "held_rate", "seconds_per_plan", "seconds_per_action"}
    [stream] = oracle["streams"]
    assert all(len(stream[key]) == 3 for key in ("success", "held", "steps_to_success", "final_distance", "closest_distance"))
    assert "frames" not in oracle


def test_objective_of_the_configuration_is_used():
    future, goal = torch.rand(2, 3, 4, 1, 2), torch.rand(2, 1, 2)
    costs = []
    for objective in (GoalCost("slow_features", "min"), GoalCost("latents", "final")):
        config = EvaluateConfig(objective=objective)
        oracle = make_controllers(config, parts())["oracle"]
        costs.append(oracle.objective(future, goal))
    torch.testing.assert_close(costs[1], (future[:, :, -1] - goal[:, None]).square().mean((2, 3)))
    nearest = (future - goal[:, None, None]).square().mean((3, 4)).min(dim=2).values
    torch.testing.assert_close(costs[0], nearest / SPEED**2)


def test_negative_numbers_are_refused():
    with pytest.raises(UserError, match="seed is -1"):
        EvaluateConfig(seed=-1)
    with pytest.raises(UserError, match="videos is -2"):
        EvaluateConfig(videos=-2)
    with pytest.raises(UserError, match="streams is 0"):
        EvaluateConfig(streams=0)
    with pytest.raises(UserError, match=r"guided.replan_every is 0"):
        GuidedConfig(replan_every=0)
    with pytest.raises(UserError, match=r"guided.spread is 0.0"):
        GuidedConfig(spread=0.0)
    with pytest.raises(UserError, match=r"guided.near is -1"):
        GuidedConfig(near=-1)
    with pytest.raises(UserError, match=r"floor is -1"):
        GoalCost(floor=-1)


def test_executing_more_than_is_planned_is_refused():
    with pytest.raises(UserError, match="mpc.replan_every is 6, above planner.horizon 5"):
        EvaluateConfig(planner=CEMConfig(horizon=5), mpc=MPCConfig(replan_every=6))
    with pytest.raises(UserError, match=r"guided.replan_every is 5, above guided.search.horizon 4"):
        GuidedConfig(replan_every=5)
    with pytest.raises(UserError, match=r"policy.replan_every is 5, above the 4 steps of a proposal"):
        make_controllers(EvaluateConfig(policy=PolicyConfig(replan_every=5)), parts(), ["policy"])


def test_a_bar_moves_while_a_search_takes_long_and_keeps_its_length(monkeypatch):
    monkeypatch.setattr("worldmodel.agents.evaluate.BETWEEN", 0.0)
    written = io.StringIO()
    with tqdm(total=40, desc="learned_shuffled_actions", unit="step", bar_format=BAR, file=written, ncols=80, mininterval=0) as bar:
        told = SearchProgress(bar, 100)
        told.futures(3000)
        told.futures(2000)
        told.solved(7)
    said = [line for line in written.getvalue().replace("\r", "\n").splitlines() if "futures" in line]
    assert "solved 0/100, 3,000 futures" in said[0] and "solved 7/100, 5,000 futures" in said[-1]
    assert all(re.search(r"\|.{12}\|", line) for line in said) and max(map(len, said)) <= 90


def test_a_search_tells_the_futures_it_looks_at_and_plans_the_same():
    plans, told = [], []
    for tell in (None, told.append):
        config = EvaluateConfig(planner=CEMConfig(horizon=4, num_samples=16, iterations=2), objective=GoalCost("latents", "final"))
        controller = make_controllers(config, parts(), ["cem"])["cem"]
        controller.on_futures = tell
        history, goals = problem([[0.0, 0.0], [0.2, 0.2]], [[0.5, 0.0], [0.0, 0.0]])
        controller.reset(goals, [0, 1])
        plans.append(controller.act(history))
    assert np.array_equal(*plans) and sum(told) == 2 * 2 * 16
