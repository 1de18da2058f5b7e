"""What a run writes down."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.worldmodel import toys
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.spike_detection import SkippedBatches, read_skipped
from worldmodel.training.tracking import Tracker


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


def test_no_planted_link_is_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    for name in ("metrics.tmp", "skipped.tmp", "metrics.jsonl"):
        (tmp_path / name).symlink_to(other)
    (tmp_path / "skipped.jsonl").write_text('{"batch": 1}\n')
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"loss/total": 1.0})
    SkippedBatches(tmp_path, toys.packer().mixture, 5)
    assert other.read_text() == "theirs"
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss/total": 1.0}]
    assert read_skipped(tmp_path / "skipped.jsonl") == [{"batch": 1}]


JUNK = {
    "cut short": b'{"step": 2, "loss/to',
    "no JSON": b"Segmentation fault",
    "no text": b"\xff\x00\xfe",
    "nested": b"[" * 100_000,
    "no object": b"[1, 2]",
    "no step": b'{"loss/total": 1.0}',
    "step NaN": b'{"step": NaN, "loss/total": 1.0}',
    "step in words": b'{"step": "two", "loss/total": 1.0}',
    "negative step": b'{"step": -1}',
    "value in words": b'{"step": 2, "loss/total": "high"}',
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_what_is_no_row_is_told_and_the_others_stay(tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path, rows = tmp_path / "metrics.jsonl", [{"step": step, "loss/total": float(step)} for step in (1, 2, 3)]
    first, *others = (json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join([first, junk, *others]) + b"\n")
    assert read_rows(path) == rows
    (said,) = caplog.messages
    assert said.startswith(f"{path}: line 2 holds no row of a run and is left out: ") and len(said) < 400
    with Tracker(tmp_path, start=2) as tracker:
        assert tracker.last == rows[1]
    caplog.clear()
    assert read_rows(path) == rows[:2] and not caplog.messages


def test_losses_that_are_not_finite_are_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Tracker(tmp_path) as tracker:
        tracker.scalars(1, {"validation/text": float("inf"), "loss/total": 1.0})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "validation/text": float("inf"), "loss/total": 1.0}]
    assert not caplog.messages
