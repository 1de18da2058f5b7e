"""On which episodes the rungs of the ladder are measured, and over what their intervals are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.test_ladder import CONFIG, HELD_OUT, TRAINING, Codec, store  # noqa: F401  a fixture
from tests.agents.toys import BOUNDS, PointActor, PointDynamics, PointWorkers, far_manifest
from worldmodel.agents import rungs
from worldmodel.agents.controllers import Parts
from worldmodel.agents.ladder import DREAMT_FUTURES, TRUE_FUTURES
from worldmodel.agents.reader import ReaderConfig
from worldmodel.agents.rungs import Marked, MenuConfig
from worldmodel.agents.score import Outcomes, Score
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.evaluation import DreamErrors, by_horizon


def test_the_codec_rung_reads_held_out_frames(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    read, trained = [], []
    determination, train_reader = rungs.determination, rungs.train_reader

    def watched(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
        read.append(truth)
        return determination(found, truth)

    def trained_on(grids: Any, variables: np.ndarray, episode: np.ndarray, config: Any) -> Any:
        trained.append(set(episode.tolist()))
        return train_reader(grids, variables, episode, config)

    monkeypatch.setattr(rungs, "determination", watched)
    monkeypatch.setattr(rungs, "train_reader", trained_on)
    codec: Any = Codec()
    rungs.codec_rung(Marked("Point", 0), codec, store, TRAINING, HELD_OUT, ReaderConfig(steps=2, width=8))
    held_out = store.column("features")[store.frame_rows(HELD_OUT)]
    assert len(read) == 3 and all(np.array_equal(truth, held_out) for truth in read)
    assert len(trained) == 2 and all(episodes == set(TRAINING) for episodes in trained)


def test_rank_correlations_of_one_episode_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    of_episode = [0, 0, 0, 1, 2, 2]
    problems = far_manifest(6)
    told = tuple(replace(problem, episode=episode) for problem, episode in zip(problems.problems, of_episode, strict=True))
    problems = replace(problems, problems=told)
    correlations = np.array([0.9, 0.8, 0.7, 0.1, 0.5])
    true = np.tile(np.linspace(0, 1, 8), (6, 1))
    true[3] = 0.5  # no order in the fourth problem
    monkeypatch.setattr(rungs, "costs", lambda *asked: true)
    monkeypatch.setattr(rungs, "rank_correlations", lambda found, true, least: correlations)
    parts = Parts(BOUNDS, PointWorkers(), Codec(), PointDynamics(), PointActor(), goal_steps=10)  # type: ignore[arg-type]
    marked = Marked("Point", 0)
    rungs.ranking_rung(marked, problems, parts, CONFIG, MenuConfig(problems=6, candidates=8))
    rows = {row.name: row for row in marked.rows}
    [(mean, half)] = by_horizon(torch.from_numpy(correlations)[:, None], np.array([0, 0, 0, 2, 2]))
    for name in (TRUE_FUTURES, DREAMT_FUTURES):
        assert rows[name].value == pytest.approx(mean) == pytest.approx((0.8 + 0.3) / 2)
        assert rows[f"{name}, half of the 95 % interval"].value == pytest.approx(half)
    assert rows[DREAMT_FUTURES].control == pytest.approx(mean)


def test_rows_are_the_numbers_that_they_are_called() -> None:
    latent = {"learned": [(0.2, 0.0)], "shuffled_actions": [(0.5, 0.0)], "copy_last_frame": [(0.3, 0.0)]}
    state = {
        "learned": [(0.11, 0.0), (0.12, 0.0)],
        "shuffled_actions": [(0.31, 0.0), (0.32, 0.0)],
        "copy_last_frame": [(0.21, 0.0), (0.22, 0.0)],
        "true_frames": [(0.05, 0.0), (0.06, 0.0)],
    }
    nothing, marked = np.zeros((1, 1, 1, 1, 3), np.uint8), Marked("Point", 0)
    rungs.dynamics_rung(marked, DreamErrors(latent, {}, nothing, nothing, state), {2: 0.13})
    for name, touched, held in (("policy", [True] * 4, [True] * 3 + [False]), ("random", [True, False] * 2, [True] + [False] * 3)):
        outcomes = Outcomes(touched, held, [1] * 4, [0.0] * 4, [0.0] * 4)
        rungs.result_rung(marked, [Score(name, [outcomes], 4, 0.1, 0.1, 1.0)])
    assert {row.name: (row.value, row.control) for row in marked.rows} == {
        "state error, steps ahead: 1": (0.11, 0.21),
        "state error, steps ahead: 2": (0.12, 0.22),
        "state error, true frames": (0.05, None),
        "shuffled / true actions, 1 step ahead": (2.5, 1.0),
        "state error, 2 steps at once": (0.13, 0.12),
        "touched, policy": (1.0, None),
        "held, policy": (0.75, None),
        "touched, random": (0.5, 0.5),
        "held, random": (0.25, 0.25),
    }
