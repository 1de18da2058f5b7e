"""Tables and films of dreams, by hand."""

import numpy as np

from worldmodel.dream_film import film, table
from worldmodel.evaluation import DreamErrors


def test_table_by_hand() -> None:
    latent = {"learned": [(0.5, 0.1)], "shuffled_actions": [(1.25, 0.2)], "copy_last_frame": [(0.75, 0.3)]}
    state = {"learned": [(0.4, 0.01)], "true_frames": [(0.125, 0.02)]}
    nothing = np.zeros((2, 1, 4, 4, 3), np.uint8)
    lines = table(DreamErrors(latent, {}, nothing, nothing, state, episodes=7)).splitlines()
    assert lines[0].endswith("over 7 episodes)")
    assert lines[2].split() == "1 0.5000 +- 0.1000 1.2500 +- 0.2000 0.7500 +- 0.3000".split()
    assert lines[6].split() == "1 0.4000 +- 0.0100 0.1250 +- 0.0200".split()
    assert lines[-1] == "shuffled / true actions one step ahead: 2.50 (1: the actions do not matter)"


def test_the_film_says_what_is_given_and_what_is_dreamt() -> None:
    truth, dream = np.full((2, 4, 8, 8, 3), 200, np.uint8), np.full((2, 2, 8, 8, 3), 40, np.uint8)
    frames = film(truth, dream)
    height = 18 + 8 * 48
    assert frames.shape == (4, 2 * height, 768, 3), "two clips side by side, enlarged"
    assert (frames[:, 18:height] == 200).all() and (frames[:2, height + 18 :] == 200).all() and (frames[2:, height + 18 :] == 40).all()
    lines = frames[:, height : height + 18]
    assert (lines[0] == lines[1]).all() and (lines[1] != lines[2]).any() and (lines[2] != lines[3]).any(), "given, given, 1, 2 ahead"
