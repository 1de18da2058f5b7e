"""Wilson intervals against published values and by coverage, of single tries and of repeated ones."""

import numpy as np
import pytest

from worldmodel.agents.intervals import _wilson, wilson, wilson_of_shares


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_known_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(0).binomial(56, 0.15, 4000)
    covered = [low <= 0.15 <= high for low, high in (wilson(int(k), 56) for k in draws)]
    assert 0.93 < np.mean(covered) < 0.98


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="impossible"):
        wilson(successes, trials)


def test_one_try_of_each_problem_is_wilson():
    assert wilson_of_shares([1.0, 0.0, 0.0, 1.0, 0.0]) == wilson(2, 5)
    assert wilson_of_shares([0.0] * 8, 3) == wilson(0, 8), "what never succeeds has not been tried 24 times"


def test_tries_count_as_much_as_they_differ():
    assert wilson_of_shares([1.0, 0.0] * 10, 4) == pytest.approx(wilson(10, 20)), "equal tries add nothing"
    shares = [0.25, 0.5, 0.5, 0.75] * 5
    assert wilson_of_shares(shares, 4) == pytest.approx(wilson(40, 80)), "the spread of independent tries: all count"
    between = wilson_of_shares([0.0, 0.5, 0.5, 1.0] * 5, 4)
    assert wilson(20, 40)[0] > between[0] > wilson(10, 20)[0], "they spread as two tries of each would, which few problems tell"


def test_problems_of_one_group_count_as_much_as_they_differ():
    shares = [1.0, 1.0, 0.0, 0.0] * 10
    alike, mixed = [i // 2 for i in range(40)], [i % 20 for i in range(0, 40)]
    assert wilson_of_shares(shares, groups=alike) == pytest.approx(wilson(10, 20)), "of each group all or none: as many as groups"
    assert wilson_of_shares(shares, groups=list(range(40))) == wilson(20, 40) == wilson_of_shares(shares)
    assert wilson_of_shares([1.0, 0.0] * 20, groups=alike) == pytest.approx(wilson(20, 40)), "groups that do not differ change nothing"
    assert wilson_of_shares(shares, groups=mixed) == pytest.approx(wilson(10, 20))
    assert wilson_of_shares([1.0] * 12, groups=[0, 0, 1, 1, 2, 2] * 2) == wilson(3, 3), "what never fails in three groups"
    assert wilson_of_shares([1.0, 0.0, 1.0, 0.0], groups=[7] * 4) == pytest.approx(_wilson(0.5, 1.0, 1.959964)), "one group is one try"
    with pytest.raises(ValueError, match="2 shares have 3 groups"):
        wilson_of_shares([0.5, 0.5], groups=[1, 2, 3])


@pytest.mark.parametrize(("rate", "alike"), [(0.5, 1.0), (0.15, 1.0), (0.15, 50.0), (0.85, 3.0)])
def test_covers_the_truth_when_tries_of_a_problem_are_alike(rate, alike):
    rng, problems, streams = np.random.default_rng(0), 56, 3
    covered = []
    for _ in range(500):
        of_problem = rng.beta(rate * alike, (1 - rate) * alike, problems)  # small `alike`: a problem succeeds always or never
        low, high = wilson_of_shares((rng.binomial(streams, of_problem) / streams).tolist(), streams)
        covered.append(low <= rate <= high)
    assert 0.92 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize(("shares", "repeats"), [([], 1), ([0.5], 0), ([1.5], 1), ([-0.1], 2)])
def test_impossible_shares_are_refused(shares, repeats):
    with pytest.raises(ValueError, match="impossible"):
        wilson_of_shares(shares, repeats)
