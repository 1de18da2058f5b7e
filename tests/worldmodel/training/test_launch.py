"""Processes that are started from within: they train as one, stop together, and leave nobody behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.waiting import is_running, wait_for
from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG
from tests.worldmodel.runs import run as run_alone
from worldmodel.errors import UserError
from worldmodel.training import launch as launching
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import processes
from worldmodel.training.launch import launch, number_of_processes
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.train import TrainResult, stop_on_signals

SHARED = replace(CONFIG, packing=replace(toys.PACKING, rows=4, data_shards=2), optimizer="muon", sample_every=3)


def told(folder: Path) -> str:
    """Every process leaves a file."""
    with processes("cpu") as these:
        facts = f"{these.rank} of {these.world_size}, {torch.get_num_threads()} threads"
        (folder / str(these.rank)).write_text(facts)
        these.barrier()
    return facts


def train(run_dir: Path, config: TrainConfig = SHARED, signalled: int | None = None) -> TrainResult:
    """The second process is asked to stop in a step."""
    with processes("cpu") as these, stop_on_signals() as stop:
        model = toys.model("moe")
        original, steps = model.loss, iter(range(1, 100))

        def loss(*arguments: object) -> object:
            if next(steps) == signalled and these.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*arguments)  # type: ignore[arg-type]

        model.loss = loss  # type: ignore[method-assign, assignment]
        return run_alone(run_dir, config, model=model, processes=these, stop=stop)


def fail(rank: int, mistake: bool) -> None:
    with processes("cpu") as these:
        if these.rank == rank:
            raise UserError("the disk is full") if mistake else ValueError("it broke")
        these.barrier()


def hang() -> None:
    """The second process says who it is, and waits for the first, which does nothing."""
    with processes("cpu") as these:
        if these.rank:
            print(os.getpid(), flush=True)
            these.barrier()
        time.sleep(600)


def losses(run_dir: Path) -> list[float]:
    return [row[name] for row in read_rows(run_dir / "metrics.jsonl") for name in ("loss/total", "gradient_norm")]


def test_this_process_is_the_first_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert launch(partial(told, tmp_path), 2) == "0 of 2, 2 threads"
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "1").read_text() == "1 of 2, 2 threads"
    assert dict(os.environ) == before and not multiprocessing.active_children()


def test_one_process_is_this_one(tmp_path: Path) -> None:
    assert launch(threading.get_ident, 1) == threading.get_ident()
    assert launch(partial(told, tmp_path), 1).startswith("0 of 1")


@pytest.mark.parametrize("sharding", ["auto", "on"])
def test_two_train_as_one_and_go_on_from_each_other(tmp_path: Path, sharding: str) -> None:
    config = replace(SHARED, sharding=sharding)
    one, two = tmp_path / "one", tmp_path / "two"
    train(one)
    stopped = launch(partial(train, two, config, 4), 2)
    assert (stopped.step, stopped.finished) == (4, False)
    assert launch(partial(train, two, config), 2).finished
    assert len(losses(one)) == 2 * CONFIG.steps
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    stopped = launch(partial(train, tmp_path / "three", config, 3), 2)
    assert not stopped.finished and train(tmp_path / "three").finished
    assert losses(tmp_path / "three") == pytest.approx(losses(one), rel=1e-3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_of_one_is_told_by_this_one(rank: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="^(process 1 ended the run: )?the disk is full$"):
        launch(partial(fail, rank, True), 2)
    assert "Traceback" not in capfd.readouterr().err and not multiprocessing.active_children()


def test_an_error_of_another_has_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="process 1 ended the run: ValueError: it broke"):
        launch(partial(fail, 1, False), 2)
    assert "ValueError: it broke" in capfd.readouterr().err and not multiprocessing.active_children()


class Unreadable:
    def __call__(self) -> None:
        pass

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("no number",)


def test_a_process_that_cannot_begin_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="process 1 could not begin; its own output says why"):
        launch(Unreadable(), 2)
    assert "no number" in capfd.readouterr().err and not multiprocessing.active_children()


def test_others_that_hang_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "SECONDS_TO_END", 0.0)
    launch(partial(_sleep_if, 1), 2)
    assert not multiprocessing.active_children()


def _sleep_if(rank: int) -> None:
    time.sleep(600 if os.environ["RANK"] == str(rank) else 0)


HANGING = """
from tests.worldmodel.training import test_launch
from worldmodel.training.launch import launch
if __name__ == "__main__":
    launch(test_launch.hang, 2)
"""


def test_the_others_end_with_a_process_that_is_killed(root: Path, tmp_path: Path) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, str(program)], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        other = int(process.stdout.readline())
        process.kill()
        wait_for(lambda: not is_running(other), "the end of the other")


@pytest.mark.parametrize(
    ("asked", "data_shards", "threads", "expected"),
    [("auto", 1, 8, 1), ("auto", 4, 1, 1), ("auto", 4, 2, 2), ("auto", 4, 3, 2), ("auto", 4, 8, 4), (3, 4, 1, 3), (1, 4, 4, 1)],
)
def test_by_default_there_are_as_many_as_threads(
    asked: int, data_shards: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    config = TrainConfig(packing=replace(toys.PACKING, rows=8, data_shards=data_shards), device="cpu", processes=asked)  # type: ignore[arg-type]
    assert number_of_processes(config) == expected
    if asked == "auto" and expected == 4:
        assert number_of_processes(replace(config, accumulation=4)) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert number_of_processes(config) == 1


def test_no_process_is_no_number() -> None:
    with pytest.raises(UserError, match="processes must be auto or at least 1, got 0"):
        TrainConfig(processes=0)
