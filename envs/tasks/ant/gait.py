"""Walking: an open-loop trot of a four-legged body, in any direction of its own frame and with any turn."""

import numpy as np

LEGS = ("front left", "front right", "back left", "back right")
LEG_ANGLES = np.radians([45.0, -45.0, 135.0, -135.0])
"""Where `LEGS` point, seen from above, counterclockwise from ahead."""
LEG_SIDES = np.array([-1.0, 1.0, -1.0, 1.0])
"""The sense in which a hip turns to swing its leg forward: clockwise (-1) on the left, counterclockwise (1) on the right."""
CADENCE = 2.8
"""Full cycles per second at which the gait walks well."""

_LEG_PHASES = np.array([0.0, np.pi, np.pi, 0.0])
"""Diagonal legs step together."""
_SWINGS = LEG_SIDES * np.array([-np.sin(LEG_ANGLES), np.cos(LEG_ANGLES)])
"""Column i: the direction in which leg i's foot moves when it swings forward, (2, 4)."""
_STRIDE, _KNEE_MIDDLE, _KNEE_SWING, _KNEE_LAG = 1.17, 0.68, 0.5, 0.88
"""Sizes of the swings of hips and knees in units of the joints' range, and by how much knees lag behind hips, in rad.

Found by random search for the highest speed in the slowest of four directions, for light and heavy bodies, weak and
strong joints, slippery and rough floors.
"""


def trot(phase: float, direction: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """Compute where hips and knees should be at one moment of a trot.

    A hip moves its foot along a circle, so a diagonal pair can push along one line only: the two lines cross at
    right angles, and how far each pair swings decides the direction of the walk. No turn is needed to go sideways.

    Args:
        phase: Place in the gait's cycle in rad, of a cycle of 2 pi.
        direction: (2,) where to go in the body's frame (ahead, left); its length in [0, 1] is that of the steps.
        turn: Turn to the left per step, in [-1, 1].

    Returns:
        float32 (8,) in [-1, 1]: four hips (1 = swung fully forward), then four knees (1 = foot fully lifted),
        in the order of `LEGS`.
    """
    phases = phase + _LEG_PHASES
    swings = _STRIDE * (np.asarray(direction) @ _SWINGS + turn * LEG_SIDES)
    hips = -np.cos(phases) * swings
    knees = _KNEE_MIDDLE + _KNEE_SWING * np.sin(phases - _KNEE_LAG)
    return np.clip(np.concatenate([hips, knees]), -1.0, 1.0).astype(np.float32)
