"""Planners on a point mass: they reach goals, stay in bounds, are repeatable and batch-independent."""

import itertools

import pytest
import torch

from tests.agents.toys import BOUNDS, SPEED, PointActor, PointCodec, PointMass, problem
from worldmodel.agents import objective
from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.mppi import MPPI, MPPIConfig
from worldmodel.agents.objective import GoalCost, make_objective
from worldmodel.agents.planner import ActionBounds, correlated_noise, shift
from worldmodel.agents.random_shooting import RandomShooting, RandomShootingConfig
from worldmodel.agents.simulator import CopyLastFrame

PLANNERS = {
    "random_shooting": RandomShooting(RandomShootingConfig(horizon=4, num_samples=128), BOUNDS),
    "cem": CEM(CEMConfig(horizon=4, num_samples=32, iterations=4, num_elites=5), BOUNDS),
    "mppi": MPPI(MPPIConfig(horizon=4, num_samples=32, iterations=4), BOUNDS),
}
FINAL = make_objective(GoalCost("latents", "final"), PointCodec())
STARTS = [[-0.5, -0.5], [0.5, 0.3], [0.0, 0.0]]
GOALS = [[0.1, -0.2], [0.0, 0.6], [0.4, 0.4]]


def seeds(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def run(planner, simulator, starts=STARTS, goals=GOALS, generator=None, warm_start=None, start_std=None):
    history, goal_frames = problem(starts, goals)
    return planner.plan(
        simulator,
        simulator.encode(history),
        FINAL,
        simulator.encode_goal(goal_frames),
        generator or seeds(len(starts)),
        warm_start,
        start_std,
    )


@pytest.mark.parametrize("name", PLANNERS)
def test_plan_reaches_the_goal(name):
    simulator = PointMass()
    plan = run(PLANNERS[name], simulator)
    end = simulator.rollout(torch.tensor(STARTS), plan.actions[:, None])[:, 0, -1, 0]
    distance = (end - torch.tensor(GOALS)).norm(dim=-1)
    assert distance.max() < (0.2 if name == "random_shooting" else 0.06)  # starts are 0.56 to 0.67 away
    assert plan.candidates == 128
    assert (plan.costs < 0.1 * plan.first_costs).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_all_candidates_stay_in_bounds_and_use_them(name):
    simulator = PointMass()
    run(PLANNERS[name], simulator)
    candidates = torch.cat([each.flatten() for each in simulator.seen])
    assert candidates.min() == -1 and candidates.max() == 1


@pytest.mark.parametrize("name", PLANNERS)
def test_same_seed_same_plan_and_neighbours_do_not_matter(name):
    together = run(PLANNERS[name], PointMass())
    again = run(PLANNERS[name], PointMass())
    alone = run(PLANNERS[name], PointMass(), STARTS[2:], GOALS[2:], seeds(3)[2:])
    assert torch.equal(together.actions, again.actions)
    torch.testing.assert_close(together.actions[2:], alone.actions)  # sums may run in another order
    other = run(PLANNERS[name], PointMass(), generator=[torch.Generator().manual_seed(9)] * 3)
    assert not torch.equal(together.actions, other.actions)


@pytest.mark.parametrize("name", PLANNERS)
def test_cost_of_the_plan_is_the_simulators(name):
    simulator = PointMass()
    plan = run(PLANNERS[name], simulator)
    future = simulator.rollout(torch.tensor(STARTS), plan.actions[:, None])
    goal = torch.tensor(GOALS)[:, None]
    torch.testing.assert_close(FINAL(future, goal)[:, 0], plan.costs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", PLANNERS)
def test_warm_start_is_tried(name):
    good = run(PLANNERS["cem"], PointMass())
    plan = run(PLANNERS[name], PointMass(), generator=torch.Generator().manual_seed(5), warm_start=good.actions)
    assert (plan.costs <= good.costs + 1e-9).all()


def test_warm_start_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"warm_start has shape \(3, 2, 4\), expected \(3, 4, 4\)"):
        run(PLANNERS["cem"], PointMass(), warm_start=torch.zeros(3, 2, 4))


@pytest.mark.parametrize("name", PLANNERS)
def test_a_start_with_a_spread_is_what_is_searched_around(name):
    simulator = PointMass()
    mean = torch.full((3, 4, BOUNDS.dim), 0.5)
    std = torch.linspace(0, 0.1, BOUNDS.dim).expand(3, 4, -1)
    run(PLANNERS[name], simulator, warm_start=mean, start_std=std)
    first = simulator.seen[0]
    assert torch.equal(first[:, 0], mean), "the proposal is a candidate"
    others = first[:, 1:] - 0.5
    torch.testing.assert_close(others.mean((0, 1, 2)), torch.zeros(BOUNDS.dim), atol=0.03, rtol=0)
    torch.testing.assert_close(others.std((0, 1, 2)), std[0, 0], atol=0.03, rtol=0)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_proposal_wins_where_no_candidate_is_better(name):
    class Flat(PointMass):
        def rollout(self, state, candidates):
            return super().rollout(state, candidates) * 0

    mean = torch.rand(3, 4, BOUNDS.dim)
    plan = run(PLANNERS[name], Flat(), warm_start=mean, start_std=torch.full_like(mean, 0.1))
    assert torch.equal(plan.actions, mean)


def test_a_spread_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"start_std has shape \(3, 4\), expected \(3, 4, 4\)"):
        run(PLANNERS["cem"], PointMass(), warm_start=torch.zeros(3, 4, 4), start_std=torch.ones(3, 4))


@pytest.mark.parametrize("planner", ["cem", "mppi"])
def test_more_iterations_find_lower_costs(planner):
    kind, config = {"cem": (CEM, CEMConfig), "mppi": (MPPI, MPPIConfig)}[planner]
    costs = [run(kind(config(horizon=4, num_samples=32, iterations=i), BOUNDS), PointMass()).costs.mean() for i in (1, 2, 4)]
    assert all(later < earlier for earlier, later in itertools.pairwise(costs))


def test_a_simulator_that_predicts_nan_is_named():
    class Broken(PointMass):
        def rollout(self, state, candidates):
            return super().rollout(state, candidates) * float("nan")

    with pytest.raises(ValueError, match="not finite"):
        run(PLANNERS["cem"], Broken())


def test_copy_last_frame_executes_a_sample_of_the_proposal():
    class Codec:
        def encode(self, frames):
            return frames.flatten(1)[:, None]

        def decode(self, latents):
            return latents.unflatten(-1, (3, 1, 1))[:, 0]

    plan = run(PLANNERS["cem"], CopyLastFrame(Codec()))
    noise = correlated_noise(seeds(3), 3, 32, 4, BOUNDS, PLANNERS["cem"].config.noise_correlation)
    assert torch.equal(plan.actions, BOUNDS.clamp(noise[:, 0]))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_noise_has_unit_variance_and_the_asked_correlation(correlation):
    noise = correlated_noise(torch.Generator().manual_seed(0), 4, 2000, 3, BOUNDS, correlation)
    steps = noise.unflatten(-1, (BOUNDS.block, 2)).flatten(2, 3)  # (b, s, 6 env steps, 2)
    assert noise.shape == (4, 2000, 3, 4)
    torch.testing.assert_close(steps.std(dim=(0, 1)), torch.ones(6, 2), atol=0.05, rtol=0)
    neighbours = (steps[:, :, 1:] * steps[:, :, :-1]).mean(dim=(0, 1))
    torch.testing.assert_close(neighbours, torch.full((5, 2), correlation), atol=0.05, rtol=0)


def test_shift_drops_what_was_done_and_repeats_the_end():
    plan = torch.arange(4.0).reshape(1, 4, 1)
    assert shift(plan, 3).flatten().tolist() == [3, 3, 3, 3]
    assert shift(plan, 1).flatten().tolist() == [1, 2, 3, 3]


def test_goal_cost_reductions_by_hand():
    future = torch.tensor([2.0, 1.0, 3.0]).reshape(1, 1, 3, 1, 1) * torch.ones(1, 1, 3, 2, 5)

    def cost(reduction, **settings):
        return make_objective(GoalCost("latents", reduction, **settings), PointCodec())(future, torch.zeros(1, 2, 5)).item()

    assert cost("final") == 9
    assert cost("min") == 1
    assert cost("min_with_time_penalty", time_penalty=0.0) == 1
    assert cost("min_with_time_penalty", time_penalty=0.5) == pytest.approx(1 + 0.5 * (4 + 1 + 1) / 3)
    assert cost("mean") == pytest.approx(14 / 3)
    assert cost("geometric") == pytest.approx((4 + 2 * 1 + 4 * 9) / 7)
    assert cost("geometric", geometric_ratio=1.0) == pytest.approx(14 / 3)


def test_goal_cost_in_steps_uses_the_codecs_goal_features():
    future, goal = torch.rand(3, 4, 5, 1, 2), torch.rand(3, 1, 2)
    steps = make_objective(GoalCost("slow_features", "mean"), PointCodec())(future, goal)
    latents = make_objective(GoalCost("latents", "mean"), PointCodec())(future, goal)
    assert steps.shape == (3, 4)
    torch.testing.assert_close(steps, latents / SPEED**2)


def test_steps_to_go_of_copies_of_one_frame_are_told_once():
    """A world that stands still is the same for all candidates and steps: a control must not take as long as a search."""
    asked = []

    class Counting:
        def steps_to_go(self, frames, goal):
            asked.append(len(frames))
            return (goal - frames)[:, 0].abs().sum(-1)

    objective = make_objective(GoalCost("steps_to_go", "mean"), PointCodec(), Counting())
    latents, goal = torch.tensor([[[0.1, 0.2]], [[0.5, 0.0]], [[1.0, 1.0]]]), torch.zeros(3, 1, 2)
    for shape, seen in (((3, 5, 4, 1, 2), 3), ((3, 5, 1, 1, 2), 3)):
        costs = objective(latents[:, None, None].expand(shape), goal)
        torch.testing.assert_close(costs, torch.tensor([0.3, 0.5, 2.0])[:, None].expand(3, 5))
        assert asked.pop() == seen and not asked
    objective(latents[:, None, None].repeat(1, 5, 4, 1, 1), goal)
    assert asked == [60]
    steps = torch.arange(4.0)[None, None, :, None, None] + latents[:, None, None]  # the same for all candidates, but it moves
    torch.testing.assert_close(objective(steps.expand(3, 5, 4, 1, 2), goal)[:, 3], torch.tensor([3.3, 3.5, 5.0]))
    assert asked == [60, 12]


def test_goal_cost_in_steps_to_go_asks_the_actor_of_each_frame_and_its_own_goal(monkeypatch):
    monkeypatch.setattr(objective, "FRAMES_AT_ONCE", 7)  # 2 x 3 x 4 frames in four parts
    future, goal = torch.rand(2, 3, 4, 1, 2), torch.rand(2, 1, 2)
    steps = (future[..., 0, :] - goal[:, None, None, 0]).abs().amax(-1) / SPEED  # (b, s, h)
    for reduction in ("final", "mean", "min_with_time_penalty"):
        config = GoalCost("steps_to_go", reduction)
        costs = make_objective(config, PointCodec(), PointActor())(future, goal)
        torch.testing.assert_close(costs, config.reduce(steps))
    with pytest.raises(ValueError, match="steps_to_go needs a model that tells steps to go"):
        make_objective(config, PointCodec())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CEMConfig(num_samples=32, num_elites=40), "num_elites 40 is above num_samples 32"),
        (lambda: CEMConfig(iterations=0), "CEMConfig.iterations is 0"),
        (lambda: MPPIConfig(temperature=0.0), "temperature is 0.0"),
        (lambda: RandomShootingConfig(noise_correlation=1.5), "noise_correlation is 1.5"),
        (lambda: ActionBounds((1.0,), (-1.0,)), "must be below"),
        (lambda: ActionBounds((-1.0,), (float("inf"),)), "must be finite"),
        (lambda: ActionBounds((-1.0,), (1.0,), block=0), "block is 0"),
        (lambda: GoalCost(reduction="median"), "unknown reduction 'median': use final, mean"),
        (lambda: GoalCost(space="pixels"), "unknown space 'pixels': use auto, slow_features, latents, steps_to_go"),
        (lambda: GoalCost(geometric_ratio=0.0), "geometric_ratio is 0.0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_cost_is_steps_to_go_where_an_actor_tells_them_and_the_codecs_features_else() -> None:
    class Teller:
        def steps_to_go(self, frames, goal):
            return torch.full((len(frames),), 7.0)

    class Features:
        def goal_features(self, latents):
            return latents.flatten(-2)

    future, goal = torch.zeros(1, 2, 3, 1, 2), torch.ones(1, 1, 2)
    cost = GoalCost(reduction="final")
    assert make_objective(cost, Features(), Teller())(future, goal).tolist() == [[7.0, 7.0]]  # type: ignore[arg-type]
    assert make_objective(cost, Features())(future, goal).tolist() == [[1.0, 1.0]]  # type: ignore[arg-type]
