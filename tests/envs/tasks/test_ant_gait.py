"""Gaits: what the trot asks of the legs."""

import numpy as np
import pytest

from worldmodel.envs.tasks.ant.gait import LEG_ANGLES, LEG_SIDES, trot

CYCLE = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)


def cycle(direction: tuple[float, float], turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Hips (64, 4) and knees (64, 4) over one cycle."""
    actions = np.stack([trot(phase, np.array(direction), turn) for phase in CYCLE])
    assert actions.dtype == np.float32 and np.abs(actions).max() <= 1.0
    return actions[:, :4], actions[:, 4:]


def feet_sweep(hips: np.ndarray, knees: np.ndarray) -> np.ndarray:
    """By how much the feet that are low move over a cycle, seen from the body: its walk backwards, (2,)."""
    tangents = LEG_SIDES * np.array([-np.sin(LEG_ANGLES), np.cos(LEG_ANGLES)])
    steps = np.roll(hips, -1, axis=0) - hips
    low = knees < knees.mean(axis=0)
    return ((steps * low) @ tangents.T).sum(axis=0)


@pytest.mark.parametrize("angle", np.radians(np.arange(0, 360, 30)))
def test_low_feet_push_against_the_asked_direction(angle: float) -> None:
    direction = np.array([np.cos(angle), np.sin(angle)])
    sweep = feet_sweep(*cycle((0.6 * direction[0], 0.6 * direction[1])))
    assert sweep @ direction < -1.0
    np.testing.assert_allclose(sweep / np.linalg.norm(sweep), -direction, atol=1e-6)


def test_diagonal_legs_lift_together_and_the_pairs_take_turns() -> None:
    _, knees = cycle((1.0, 0.0))
    assert np.array_equal(knees[:, 0], knees[:, 3]) and np.array_equal(knees[:, 1], knees[:, 2])
    assert np.corrcoef(knees[:, 0], knees[:, 1])[0, 1] < -0.5


def test_legs_swing_forward_alike_when_it_goes_ahead() -> None:
    hips, _ = cycle((0.5, 0.0))
    np.testing.assert_allclose(np.ptp(hips, axis=0), np.ptp(hips[:, 0]), rtol=1e-5)
    assert np.array_equal(hips[:, 0], hips[:, 3])


def test_a_turn_sweeps_the_low_feet_to_the_right_on_all_sides() -> None:
    hips, knees = cycle((0.0, 0.0), turn=0.5)
    steps = LEG_SIDES * (np.roll(hips, -1, axis=0) - hips)  # counterclockwise, seen from above
    low = knees < knees.mean(axis=0)
    assert ((steps * low).sum(axis=0) < -0.5).all()


def test_no_direction_steps_on_the_spot() -> None:
    hips, knees = cycle((0.0, 0.0))
    assert not hips.any() and np.ptp(knees) > 0.5
