"""Plans that were carried out, as films: what was seen on the left, the goal on the right, with words above both."""

from collections.abc import Sequence

import numpy as np

from worldmodel.agents.score import Score
from worldmodel.datasets.films import labelled


def plan_film(score: Score, goals: np.ndarray, problems: Sequence[int], block: int) -> np.ndarray:
    """Put films of some problems below each other: uint8 (t, height, width, 3), one frame per model step.

    Args:
        score: of a controller in the first stream, with the frames of these problems.
        goals: frames uint8 (problems, h, w, 3) of all problems.
        problems: their numbers.
        block: env steps of a model step.
    """
    films = [side_by_side(score.frames[i], goals[i]) for i in problems]
    met = score.streams[0].steps_to_success
    return labelled(films, [labels_of(i, met[i], len(film), block) for i, film in zip(problems, films, strict=True)])


def labels_of(problem: int, success: int | None, frames: int, block: int) -> list[tuple[str, str]]:
    """Write what stands above each frame of a problem's film, and above the goal beside it.

    Args:
        problem: its number.
        success: env steps after which the goal was met first.
        frames: how many there are, one after each model step.
        block: env steps of a model step.
    """
    steps = [block * i for i in range(frames)]
    met = [", goal met" if success is not None and step >= success else "" for step in steps]
    return [(f"problem {problem}, step {step}{reached}", "goal") for step, reached in zip(steps, met, strict=True)]


def side_by_side(frames: np.ndarray, goal: np.ndarray, gap: int = 2) -> np.ndarray:
    """Put the goal (h, w, 3) to the right of frames uint8 (t, h, w, 3)."""
    white = np.full((len(frames), frames.shape[1], gap, 3), 255, np.uint8)
    return np.concatenate([frames, white, np.broadcast_to(goal, frames.shape)], axis=2)
