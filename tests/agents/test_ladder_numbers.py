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
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.evaluation import by_horizon


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
