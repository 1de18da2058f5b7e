"""What a run writes down."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.training.tracking import Tracker, read_rows


def test_numbers_and_pictures_are_in_both_places(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"loss/total": 0.1})
        tracker.scalars(2, {"loss/total": 1 / 3})
        tracker.images(2, "samples", torch.rand(4, 3, 16, 16))
        tracker.video(2, "film", np.random.default_rng(0).integers(0, 256, (5, 16, 20, 3), dtype=np.uint8))
        tracker.scalars(2, {"dream": 3.0})
        assert tracker.last == {"step": 2, "loss/total": 1 / 3, "dream": 3.0}
    rows = [{"step": 1, "loss/total": 0.1}, {"step": 2, "loss/total": 1 / 3}, {"step": 2, "dream": 3.0}]
    assert read_rows(tmp_path / "metrics.jsonl") == rows
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss/total")] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(1 / 3)),
    ]
    assert len(board.Images("samples")) == 1
    assert iio.imread(board.Images("film")[0].encoded_image_string).shape == (5, 16, 20, 3)


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.scalars(step, {"loss/total": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss/to')  # killed while writing
    with Tracker(tmp_path, start=2) as tracker:
        assert tracker.last == {"step": 2, "loss/total": 2.0}
        tracker.scalars(3, {"loss/total": 30.0})
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss/total"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    with Tracker(tmp_path):
        assert read_rows(tmp_path / "metrics.jsonl") == []
