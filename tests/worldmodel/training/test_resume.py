"""Training states: what is written comes back bit for bit, in files that are no pickles, and what is not whole is refused."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel import toys
from worldmodel.datasets.atomic import temporary_beside
from worldmodel.errors import UserError
from worldmodel.training import resume
from worldmodel.training.distributed import single
from worldmodel.training.optimizer import Ema, build_optimizers
from worldmodel.training.resume import (
    Progress,
    State,
    locked_run_folder,
    prune,
    read_progress,
    read_state,
    release,
    shared_folder,
    write_state,
)

ALONE = single(torch.device("cpu"))


def state(seed: int, steps: int = 0) -> State:
    """Of a model, after some steps on a made-up loss."""
    model = toys.model("moe", seed=seed)
    average = Ema(model, 0.9)
    optimizers = build_optimizers(model, "muon", 1e-2, 0.02, 0.1, (0.9, 0.95))
    for step in range(steps):
        model.zero_grad()
        torch.stack([(p - 1).square().sum() for p in model.parameters()]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        average.update(model, step)
    return State(model, average.model, optimizers, Progress(steps, {"videos": 12}, 0.5))


@pytest.mark.parametrize("size", [2**30, 50_000])
def test_what_is_written_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(resume, "FILE_BYTES", size)
    written, found = state(0, steps=3), state(1)
    write_state(tmp_path, written)
    read_state(tmp_path, found)
    assert found.progress == written.progress
    expected = written.tensors()
    for name, tensor in found.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    files = list((tmp_path / "training").iterdir())
    assert {path.suffix for path in files} == {".safetensors"}, "nothing that would be unpickled"
    assert (len(files) > 5) == (size < 2**30)


def remove_one(training: Path) -> None:
    min(training.iterdir()).unlink()


def remove_all(training: Path) -> None:
    for path in training.iterdir():
        path.unlink()
    training.rmdir()


def cut_short(training: Path) -> None:
    path = max(training.iterdir())
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [remove_one, remove_all, cut_short])
def test_a_damaged_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]) -> None:
    monkeypatch.setattr(resume, "FILE_BYTES", 200_000)
    write_state(tmp_path, state(0))
    damage(tmp_path / "training")
    with pytest.raises(UserError, match=f"{tmp_path} is damaged .*: remove it to go on from the checkpoint before it"):
        read_state(tmp_path, state(1))


def test_a_part_that_a_process_wrote_is_missed(tmp_path: Path) -> None:
    """Loading by itself would leave the rows of that part as they were."""
    write_state(tmp_path, state(0))
    metadata = resume.dcp.HuggingFaceStorageReader(str(tmp_path / "training")).read_metadata()
    resume.check_parts(metadata)
    entry = metadata.state_dict_metadata["model.text_out.weight"]
    assert isinstance(entry, resume.dcp.metadata.TensorStorageMetadata)
    entry.chunks[0] = type(entry.chunks[0])(torch.Size([1, 0]), torch.Size([entry.size[0] - 1, entry.size[1]]))
    with pytest.raises(ValueError, match="of the .* numbers of model.text_out.weight"):
        resume.check_parts(metadata)


def test_progress_comes_back(tmp_path: Path) -> None:
    progress = Progress(7, {"videos": 12}, 0.5, [2, 5], [5], [1.0, 2.0], [3.0, 4.0], 1, 6)
    (tmp_path / "progress.json").write_text(json.dumps(asdict(progress)))
    assert read_progress(tmp_path) == progress


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"wings": 2}, "has the unknown wings; it was written by another version of worldmodel"),
        ({"step": "7"}, "step is '7', expected int"),
        ({"step": True}, "step is True, expected int"),
        ({"step": -1}, "step is -1, must not be negative"),
        ({"seconds": float("nan")}, "seconds is nan, expected float"),
        ({"seconds": -0.5}, "seconds is -0.5, must not be negative"),
        ({"positions": [12]}, "positions is .12., expected dict"),
        ({"positions": {"videos": "many"}}, "positions.videos is 'many', expected int"),
        ({"positions": {"videos": -12}}, "positions of videos is -12, must not be negative"),
        ({"skipped": [5, 2]}, "skipped is .5, 2., must be rising numbers from 0 and below 9"),
        ({"skipped": [2, 2]}, "skipped is .2, 2., must be rising"),
        ({"skipped": [2, 900]}, "skipped is .2, 900., must be rising"),
        ({"suspects": [4]}, "suspects is .4., must be of those skipped"),
        ({"losses": [1.0]}, "there are 1 losses and 2 norms"),
        ({"rollbacks": None}, "rollbacks is None, expected int"),
    ],
)
def test_damaged_progress_is_one_sentence(tmp_path: Path, damage: dict[str, Any], words: str) -> None:
    progress = asdict(Progress(7, {"videos": 12}, 0.5, [2, 5], [5], [1.0, 2.0], [3.0, 4.0], 1, 6))
    (tmp_path / "progress.json").write_text(json.dumps(progress | damage))
    with pytest.raises(UserError, match=f"^{tmp_path}/progress.json: progress.*{words}.*: remove it to go on from"):
        read_progress(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{" * 100_000, b"\xff", b'{"step": 3}'])
def test_files_that_are_no_progress(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(content)
    with pytest.raises(UserError, match="^.*progress.json.*: remove it to go on from the checkpoint before it") as refusal:
        read_progress(tmp_path)
    assert str(refusal.value).count("remove it to go on") == 1


@pytest.mark.parametrize("name", ["thesis.tex", ".git", "metrics.jsonl", "checkpoints"])
def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"^{tmp_path} holds '{name}' and is no run's folder: name an empty folder"):
        with locked_run_folder(tmp_path, {"lr": 1}):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == [name]


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            locked_run_folder(tmp_path / "run", {"lr": 1}),
            pytest.raises(UserError, match="is in use"),
            locked_run_folder(tmp_path / "run", {"lr": 1}),
        ):
            pass
    with pytest.raises(UserError, match="lr was 1 and is now 2"), locked_run_folder(tmp_path / "run", {"lr": 2}):
        pass


def test_what_a_process_left_that_was_killed_at_once_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    temporary_beside(tmp_path / "config.json").touch()
    with locked_run_folder(tmp_path, {"lr": 1}):
        assert (tmp_path / "config.json").exists()


def test_a_folder_that_was_released_is_free_for_other_settings(tmp_path: Path) -> None:
    with locked_run_folder(tmp_path, {"lr": 1}):
        (tmp_path / "episodes.h5").touch()
        release(tmp_path)
    with locked_run_folder(tmp_path, {"lr": 2}):
        pass
    with pytest.raises(UserError, match="lr was 2 and is now 1"), locked_run_folder(tmp_path, {"lr": 1}):
        pass


def test_pruning_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("step_000001", "step_000002", ".step_000003.77.tmp", "notes"):
        (folder / name).mkdir(parents=True)
    (folder / ".listing").touch()
    prune(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == [".listing", "notes", "step_000002"]


def test_a_shared_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), shared_folder(tmp_path / "new", ALONE) as beside:
        (beside / "half").write_text("x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with shared_folder(tmp_path / "new", ALONE) as beside:
        (beside / "whole").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "whole"]
