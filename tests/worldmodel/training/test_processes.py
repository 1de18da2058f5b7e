"""What a process on a GPU does not wait for; the rest of what several processes do is in test_distributed.py."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import PrefixStore, TCPStore

from tests.waiting import PATIENCE, wait_for
from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, run
from worldmodel.training import run as training_run
from worldmodel.training.distributed import abort_on_peer_exit, clip_gradients
from worldmodel.training.step import read_losses


def notes() -> PrefixStore:
    return PrefixStore("ended", TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))


def test_who_waits_is_let_go_when_another_ended() -> None:
    told, given_up = notes(), threading.Event()
    with abort_on_peer_exit(told, SimpleNamespace(abort=given_up.set), period=0.01) as aborted:  # type: ignore[arg-type]
        assert not given_up.wait(0.1)
        told.set("why", "1 it broke")
        assert given_up.wait(PATIENCE) and aborted.is_set()


def test_nothing_is_given_up_and_no_thread_stays_when_all_went_well() -> None:
    given_up = threading.Event()
    with abort_on_peer_exit(notes(), SimpleNamespace(abort=given_up.set), period=0.01) as aborted:  # type: ignore[arg-type]
        assert watchers()
    wait_for(lambda: not watchers(), "the watching thread to end")
    assert not given_up.is_set() and not aborted.is_set()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "abort on peer exit"]


def test_clipping_waits_for_nothing() -> None:
    model = toys.model("moe").to("meta")  # of numbers that nobody can read
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    assert clip_gradients(model, 1.0).shape == ()


def test_a_step_reads_its_numbers_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient's norm comes with the losses, and is what a step logs."""
    found: list[tuple[list[str], list[float]]] = []

    def read(names: list[str], sums: torch.Tensor, *arguments: Any) -> Any:
        found.append((names, sums.tolist()))
        return read_losses(names, sums, *arguments)

    monkeypatch.setattr(training_run, "read_losses", read)
    result = run(tmp_path, CONFIG)
    names, numbers = found[-1]
    assert len(found) == CONFIG.steps and len(names) == len(numbers)
    assert result.metrics["gradient_norm"] == numbers[names.index("norm")]
    assert "loss/norm" not in result.metrics
