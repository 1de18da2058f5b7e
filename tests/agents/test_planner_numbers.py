"""Which candidates the planners learn from, with costs that the test says."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.agents.toys import BOUNDS
from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.mppi import MPPI, MPPIConfig


class Told:
    """A simulator whose future is the candidate; costs are read from a list, one row an iteration."""

    def __init__(self, costs: list[list[float]]) -> None:
        self.costs, self.seen = costs, list[Tensor]()

    def rollout(self, state: Any, candidates: Tensor) -> Tensor:
        self.seen.append(candidates.clone())
        return candidates[..., None, :]

    def objective(self, future: Tensor, goal: Tensor) -> Tensor:
        return torch.tensor(self.costs[len(self.seen) - 1])[None]


def plan(planner: Any, told: Told) -> None:
    planner.plan(told, None, told.objective, torch.zeros(1, 1, 2), torch.Generator().manual_seed(0))


def test_elites_of_the_cross_entropy_method_stay_in_the_race() -> None:
    told = Told([[9, 9, 0, 9, 9], [5, 4, 5, 5, 5], [7, 7, 7, 7, 7]])
    plan(CEM(CEMConfig(horizon=2, num_samples=5, iterations=3, num_elites=1), BOUNDS), told)
    torch.testing.assert_close(told.seen[2][0, -1], told.seen[0][0, 2])  # the mean of the last round: the best so far
    told = Told([[9, 0, 1, 9, 9], [5, 4, 5, 2, 5], [7, 7, 7, 7, 7]])
    plan(CEM(CEMConfig(horizon=2, num_samples=5, iterations=3, num_elites=3), BOUNDS), told)
    best = torch.stack([told.seen[0][0, 1], told.seen[0][0, 2], told.seen[1][0, 3]])
    torch.testing.assert_close(told.seen[2][0, -1], best.mean(0))


def test_the_better_of_the_elites_pulls_more() -> None:
    told = Told([[9, 0, 1, 9, 9], [7, 7, 7, 7, 7]])
    plan(MPPI(MPPIConfig(horizon=2, num_samples=5, iterations=2, num_elites=2, temperature=0.5), BOUNDS), told)
    best, second = told.seen[0][0, 1], told.seen[0][0, 2]
    weight = torch.softmax(torch.tensor([0.0, -1 / (0.5 * 0.5)]), 0)  # the costs' standard deviation is 0.5
    torch.testing.assert_close(told.seen[1][0, -1], weight[0] * best + weight[1] * second)


@pytest.mark.parametrize(("margin", "wins"), [(0.0, 3), (0.9, 3), (1.1, 0), (4.0, 0)])
def test_a_candidate_must_be_better_than_a_proposal_by_more_than_the_margin(margin: float, wins: int) -> None:
    told, start = Told([[5, 9, 7, 4, 9]]), torch.zeros(1, 2, BOUNDS.dim)
    planner = CEM(CEMConfig(horizon=2, num_samples=5, iterations=1, num_elites=1, margin=margin), BOUNDS)
    generator = torch.Generator().manual_seed(0)
    found = planner.plan(told, None, told.objective, torch.zeros(1, 1, 2), generator, start, torch.full_like(start, 0.3))
    torch.testing.assert_close(found.actions, told.seen[0][:, wins])
    assert found.costs.item() == (4 if wins else 5), "the cost that is told is the simulator's"
    told = Told([[9, 4, 9, 9, 5]])  # the rest of the last plan is the last candidate, and no proposal
    found = planner.plan(told, None, told.objective, torch.zeros(1, 1, 2), generator, start)
    torch.testing.assert_close(found.actions, told.seen[0][:, 1])
