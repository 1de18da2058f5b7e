"""Building blocks of the scripted policies: they look at true positions, never at pixels."""

import numpy as np


def move_towards(position: np.ndarray, target: np.ndarray, reach: float, speed: float) -> np.ndarray:
    """The velocity command that goes straight to a target and slows down near it.

    Args:
        position: (a,) now.
        target: (a,) wanted.
        reach: Distance that a command of length 1 covers in one step.
        speed: Largest length of the command, in (0, 1].

    Returns:
        float32 (a,) of length at most `speed`.
    """
    command = (target - position) / reach
    length = float(np.linalg.norm(command))
    return (command * min(1.0, speed / max(length, 1e-9))).astype(np.float32)


def through_door(position: np.ndarray, goal: np.ndarray, door_y: float, clearance: float) -> np.ndarray:
    """The next way point (2,) from one side of a wall at x = 0 to the other, through a door.

    Args:
        position: (2,) now.
        goal: (2,) wanted in the end.
        door_y: Height of the door's centre.
        clearance: Distance from the wall's plane at which the body is clear of it.
    """
    side = np.sign(position[0]) or 1.0
    near, far = abs(position[0]) < clearance, abs(goal[0]) < clearance
    same_side = np.sign(goal[0]) == side
    in_line = abs(position[1] - door_y) < 0.05
    if same_side and not (near and far):
        return goal
    if near or in_line:
        return goal if same_side or far else np.array([-side * clearance * 1.2, door_y])
    return np.array([side * clearance * 1.2, door_y])
