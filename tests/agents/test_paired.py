"""Differences on the same problems: the published interval, what groups do to it, and how often it covers the truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from worldmodel.agents.paired import digest_of, paired_difference
from worldmodel.studies.scaling_fit import student


def test_without_groups_it_is_the_interval_of_agresti_and_min() -> None:
    first, second = [1.0] * 30 + [0.0] * 20, [1.0] * 25 + [0.0] * 5 + [1.0] * 12 + [0.0] * 8
    found = paired_difference(first, second)
    won, lost, count = 12.5, 5.5, 52
    half = student(49) * np.sqrt((won + lost) - (won - lost) ** 2 / count) / count
    assert found.value == pytest.approx(7 / 50) and (found.better, found.worse) == (12, 5)
    assert (found.low, found.high) == pytest.approx(((won - lost) / count - half, (won - lost) / count + half), abs=0.002)
    assert found.p == binomtest(5, 17).pvalue


def test_the_other_way_round_it_is_the_other_way_round() -> None:
    first, second, groups = [1.0, 0.0, 0.0, 1.0, 0.5], [1.0, 1.0, 0.5, 0.0, 1.0], [0, 0, 1, 1, 2]
    there, back = paired_difference(first, second, groups), paired_difference(second, first, groups)
    assert there.low is not None and there.high is not None
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -(back.high or 0), -(back.low or 0)))
    assert (there.better, there.worse, there.p) == (back.worse, back.better, back.p)


def test_equal_controllers_differ_by_nothing_with_an_interval_that_says_how_sure_that_is() -> None:
    few, many = paired_difference([1.0, 0.0] * 5, [1.0, 0.0] * 5), paired_difference([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert few.value == many.value == 0 and few.p == many.p == 1
    assert few.high is not None and many.high is not None and few.high > 5 * many.high > 0


def test_problems_of_one_episode_count_as_one() -> None:
    first, second = [0.0] * 40, [1.0] * 4 * 5 + [0.0] * 4 * 5
    alone, alike = paired_difference(first, second), paired_difference(first, second, [i // 4 for i in range(40)])
    assert alone.low is not None and alike.low is not None and alone.high is not None and alike.high is not None
    assert 1.7 < (alike.high - alike.low) / (alone.high - alone.low) < 2.6
    assert paired_difference(first, second, [0] * 40).low is None


@pytest.mark.parametrize("alike", [1, 4])
def test_it_covers_the_truth_about_as_often_as_it_says(alike: int) -> None:
    """Also where problems come in groups that share their luck."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        easy = np.repeat(rng.random((24, 1)), alike, axis=1).ravel()  # of each group
        first, second = (easy < 0.5).astype(float), ((easy < 0.65) ^ (rng.random(len(easy)) < 0.1)).astype(float)
        truth = 0.65 * 0.9 + 0.35 * 0.1 - 0.5
        found = paired_difference(first.tolist(), second.tolist(), np.repeat(np.arange(24), alike).tolist())
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 400 <= 0.99


@pytest.mark.parametrize(("first", "second", "groups"), [([], [], None), ([1.0], [1.0, 0.0], None), ([1.0, 0.0], [1.0, 0.0], [0])])
def test_what_is_no_pair_is_refused(first: list[float], second: list[float], groups: list[int] | None) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(first, second, groups)


def test_problems_are_told_by_what_they_are_and_not_by_the_order_of_their_fields() -> None:
    one = {"episode": 0, "start_state": [0.0, 1.5], "variation": {"a": 1, "b": "red"}}
    same = {"variation": {"b": "red", "a": 1}, "start_state": [0.0, 1.5], "episode": 0}
    assert digest_of([one]) == digest_of([same]) != digest_of([one | {"episode": 1}])
    assert digest_of([one, same | {"episode": 1}]) != digest_of([same | {"episode": 1}, one])
