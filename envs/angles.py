"""Angles."""

from typing import Any

import numpy as np


def wrap(angle: Any) -> Any:
    """Wrap an angle in rad, or an array of them, to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
