"""Wilson intervals against published values and by coverage."""

import numpy as np
import pytest

from worldmodel.agents.intervals import wilson


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
