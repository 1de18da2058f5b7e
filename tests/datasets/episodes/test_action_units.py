"""Units of actions: what lies in -1 to 1 stays, all else is brought there and back."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from worldmodel.datasets.episodes.action_units import ActionUnits

PIXELS = np.random.default_rng(0).uniform(64, 448, (600, 1)).astype(np.float32)
USUAL = np.random.default_rng(1).uniform(-1, 1, (600, 1)).astype(np.float32)


def test_numbers_that_use_the_range_stay_and_others_become_two_standard_deviations() -> None:
    still, small = np.full((600, 1), 7, np.float32), 0.01 * USUAL
    taken = np.concatenate([USUAL, PIXELS, still, small], axis=1)
    units = ActionUnits.of([taken[:100], taken[100:]])
    assert units.center[0] == units.center[2] == 0 and units.scale[0] == units.scale[2] == 1 and not units.are_own
    seen = units.to_model(taken)
    assert_allclose(seen[:, 0], taken[:, 0])
    assert_allclose(seen[:, 1].mean(), 0, atol=1e-5)
    assert_allclose(seen[:, [1, 3]].std(axis=0), 0.5, rtol=1e-5)  # as numbers between -1 and 1 have, about
    assert np.abs(seen[:, :2]).max() < 1.1
    assert_allclose(seen[:, 2], 7)


def test_blocks_repeat_the_units_of_an_action() -> None:
    units = ActionUnits((1.0, 10.0), (2.0, 5.0))
    assert_allclose(units.to_model(np.array([[3, 20, 1, 15]], np.float32)), [[1, 2, 0, 1]])
    assert units.to_model(np.zeros((1, 4), np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="3 numbers are no whole actions of 2"):
        units.blocks(3)


def test_usual_actions_are_given_back_as_they_are() -> None:
    units = ActionUnits.of([USUAL])
    assert units.are_own and units.to_model(USUAL) is USUAL


def test_missing_actions_do_not_count() -> None:
    holes = PIXELS.copy()
    holes[::2] = np.nan
    assert ActionUnits.of([holes]) == ActionUnits.of([PIXELS[1::2]])
    assert ActionUnits.of([np.full((3, 2), np.nan, np.float32)]).are_own


@pytest.mark.parametrize(("center", "scale"), [((0.0,), ()), ((0.0,), (0.0,)), ((0.0,), (np.nan,)), ((0.0,), (np.inf,))])
def test_units_without_a_scale_are_refused(center: tuple[float, ...], scale: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one scale above 0"):
        ActionUnits(center, scale)
