"""Way points and velocity commands."""

import numpy as np

from worldmodel.envs.demonstrators import move_towards


def test_move_towards_is_limited_and_slows_down() -> None:
    zero = np.zeros(2)
    np.testing.assert_allclose(move_towards(zero, np.array([3.0, 4.0]), 0.1, 0.5), [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(move_towards(zero, np.array([0.05, 0.0]), 0.1, 1.0), [0.5, 0.0], rtol=1e-6)
    assert move_towards(zero, zero, 0.1, 1.0).tolist() == [0.0, 0.0]
