import json

import numpy as np

from tests.datasets.toys import make_episode
from worldmodel.datasets.collection.coverage import ASCII_BARS, BARS, BINS, Coverage, coverage_table

FACTORS = {"disc.color": {"choices": ["red", "blue"]}, "door.width": {"low": 0.0, "high": 10.0}, "light": {"low": 0.0, "high": 1.0}}


def seen(values: list[tuple[float, float]], actions: list[float], block: int = 1, **changes: object) -> dict:
    coverage = Coverage(["x", "y"], ["dx"], FACTORS)
    rows = len(values)
    variation = {"disc.color": "blue", "door.width": 9.99, "light": 0.5}
    episode = make_episode(
        num_actions=rows - 1,
        features=np.array(values, np.float32),
        actions=np.array(actions, np.float32).reshape(rows - 1, block),
        **({"variation": variation, "success": np.zeros(rows, np.bool_)} | changes),
    )
    coverage.add(episode)
    coverage.add(episode)
    return coverage.report()


def test_counts_are_those_of_the_episodes() -> None:
    report = seen([(-1.0, 1.0), (0.01, 1.3), (0.99, -5.0)], [0.5, -1.0])
    assert (report["episodes"], report["frames"]) == (2, 6)
    x, y = (np.array(report["features"][name]["counts"]) for name in ("x", "y"))
    assert np.flatnonzero(x).tolist() == [0, BINS // 2, BINS - 1] and x.sum() == 6
    assert y[BINS - 1] == 4 and y[0] == 2  # outside counts in the outermost bin
    assert report["features"]["x"]["visited"] == 3 / BINS
    joint = np.array(report["joint"]["counts"])
    assert joint[0, BINS - 1] == 2 and joint.sum() == 6 and report["joint"]["visited"] == round(3 / BINS**2, 4)
    assert np.flatnonzero(report["actions"]["dx"]["counts"]).tolist() == [0, 15]
    assert report["factors"]["disc.color"] == {"counts": [0, 2], "visited": 0.5}
    assert report["factors"]["door.width"]["counts"] == [0] * 9 + [2]
    assert json.loads(json.dumps(report)) == report


def test_every_action_of_a_block_counts() -> None:
    report = seen([(0.0, 0.0), (0.0, 0.0)], [-1.0, 0.0, 1.0], block=3)
    assert sum(report["actions"]["dx"]["counts"]) == 6
    assert np.flatnonzero(report["actions"]["dx"]["counts"]).tolist() == [0, BINS // 2, BINS - 1]


def test_success_and_policies() -> None:
    coverage = Coverage(["x", "y"], ["a", "b"], {})
    for index, (policy, reached) in enumerate([("play", True), ("play", False), ("random", False), ("random", False)]):
        success = np.zeros(6, np.bool_)
        success[3] = reached
        coverage.add(make_episode(index, policy=policy, success=success))
    report = coverage.report()
    assert report["success"] == 0.25
    assert report["policies"] == {"play": {"episodes": 2, "success": 0.5}, "random": {"episodes": 2, "success": 0.0}}


def test_table_shows_what_was_seen() -> None:
    report = seen([(-1.0, 1.0), (0.0, 1.0), (0.0, -1.0)], [0.5, -1.0])
    text = coverage_table(report)
    assert "0% of 2 episodes reached their goal, 6 frames" in text
    (row,) = [line for line in text.splitlines() if line.startswith("  x ") and "cells" not in line]
    assert "10%" in row and row.index(BARS[-1]) > row.index(BARS[4])
    assert "factors that did not vary: 3 of 3" in text and "door.width" not in text
    assert coverage_table(report, ASCII_BARS).isascii()
    varied = Coverage(["x"], ["a", "b"], FACTORS)
    for index in range(4):
        varied.add(make_episode(index, features=np.zeros((6, 1), np.float32)))
    text = coverage_table(varied.report())
    assert "  door.width" in text and "disc.color" not in text and "of the cells" not in text


def test_what_is_no_number_counts_as_zero() -> None:
    report = seen([(float("nan"), float("inf")), (0.0, 0.0)], [0.5])
    assert np.flatnonzero(report["features"]["x"]["counts"]).tolist() == [BINS // 2]
    assert np.flatnonzero(report["features"]["y"]["counts"]).tolist() == [BINS // 2, BINS - 1]
