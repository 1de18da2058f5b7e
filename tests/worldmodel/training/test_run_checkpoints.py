"""Checkpoints of a run on the disk: damage and a full disk are told in one sentence, and what was whole stays."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worldmodel.runs import CONFIG, run
from worldmodel.errors import UserError


def test_a_damaged_state_is_named_and_without_it_the_run_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path)
    (shard,) = (first.checkpoint / "training").iterdir()
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match="step_000006 is damaged .*: remove it to go on from the checkpoint before it"):
        run(tmp_path)
    (first.checkpoint / "progress.json").unlink()
    with pytest.raises(UserError, match="step_000006/progress.json is missing: .*, remove it to go on from the checkpoint before"):
        run(tmp_path)
    first.checkpoint.rename(tmp_path / "damaged")
    again = run(tmp_path)
    assert again.checkpoint == first.checkpoint and again.metrics["loss/total"] == first.metrics["loss/total"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    (state,) = (first.checkpoint / "training").iterdir()
    model = (first.checkpoint / "model.safetensors").stat().st_size
    for room in (model // 2, (model + state.stat().st_size) // 2):  # for neither file, for the first
        with pytest.raises(UserError, match="the disk of .*full is full: make room, and the same command goes on from the last"):
            with largest_file(room):
                run(tmp_path / "full")
        assert list((tmp_path / "full" / "checkpoints").iterdir()) == [], "nothing half written"
    assert run(tmp_path / "full", CONFIG).metrics["loss/total"] == first.metrics["loss/total"]
