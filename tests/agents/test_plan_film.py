"""Films of plans: frames beside their goal, and words that say which is which and when the goal was met."""

import numpy as np

from worldmodel.agents.plan_film import labels_of, plan_film, side_by_side
from worldmodel.agents.score import Outcomes, Score
from worldmodel.datasets.films import STRIP, labelled


def test_goal_stands_beside_the_frames() -> None:
    frames, goal = np.zeros((5, 4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    film = side_by_side(frames, goal, gap=2)
    assert film.shape == (5, 4, 10, 3)
    assert (film[:, :, :4] == 0).all() and (film[:, :, 4:6] == 255).all() and (film[:, :, 6:] == 9).all()


def test_labels_say_when_the_goal_was_met() -> None:
    said = ["problem 2, step 0", "problem 2, step 3", "problem 2, step 6, goal met", "problem 2, step 9, goal met"]
    assert labels_of(2, 4, 4, 3) == [(each, "goal") for each in said]
    assert labels_of(0, None, 2, 3) == [("problem 0, step 0", "goal"), ("problem 0, step 3", "goal")]


def test_each_problem_has_its_own_goal_and_words() -> None:
    frames = {i: np.full((3, 32, 32, 3), 10 * i, np.uint8) for i in range(3)}
    goals = np.stack([np.full((32, 32, 3), 100 + i, np.uint8) for i in range(3)])
    outcomes = Outcomes([True, False, True], [False] * 3, [4, None, 2], [0.0] * 3, [0.0] * 3)
    film = plan_film(Score("cem", [outcomes], 3, 0.1, 0.1, 1.0, frames=frames), goals, [2, 0], block=2)
    side = 6 * 32  # of 66 pixels 396 are made
    assert film.shape == (3, 2 * (STRIP + side), 396, 3)
    for row, problem in enumerate((2, 0)):
        picture = film[:, row * (STRIP + side) + STRIP : (row + 1) * (STRIP + side)]
        assert (picture[:, :, :side] == 10 * problem).all() and (picture[:, :, -side:] == 100 + problem).all()
    expected = labelled([film[:, STRIP : STRIP + side]], [labels_of(2, 2, 3, 2)])
    assert (film[:, :STRIP] == expected[:, :STRIP]).all() and (film[0, :STRIP] != film[1, :STRIP]).any()
    assert film[0, :STRIP, 198:].min() < 100, "the goal is named"
