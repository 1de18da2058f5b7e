"""The arithmetic behind the benchmark of training steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from worldmodel import presets
from worldmodel.benchmarks import steps
from worldmodel.benchmarks.checks import relative_error
from worldmodel.benchmarks.steps import Ratio, Training, made_up_batches, ratio, run_interleaved
from worldmodel.flops import Uses, training_flops

CPU = torch.device("cpu")


def training(name: str = "tiny") -> Training:
    preset = presets.PRESETS[name]()
    return Training(preset, CPU, rounds=3, seconds=0.0, steps=2, episodes=2, workers=1)


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_dense_and_experts_cost_the_same_but_for_the_router(name: str) -> None:
    found = training(name)
    dense, moe = found.model("dense"), found.model("moe")
    (batch,) = made_up_batches(dense, replace(found.preset.train.packing, rows=2, data_shards=1), 1)
    tokens = Uses.of(batch, dense.frame_tokens).tokens
    router = 3 * 2 * tokens * dense.trunk.width * moe.trunk.moe.num_experts * dense.trunk.depth
    assert training_flops(moe, batch) - training_flops(dense, batch) == pytest.approx(router)
    assert batch.filled > 0.9 and len(batch.actions) and not batch.clean.all()


def test_ratios_are_taken_round_by_round() -> None:
    found = ratio([2.0, 9.0, 4.0, 8.0, 5.0], [1.0, 3.0, 1.0, 8.0, 1.0], 10.0)
    assert found == Ratio((20.0, 30.0, 40.0, 10.0, 50.0))
    assert (found.median, found.quartiles, found.spread) == (30.0, (20.0, 40.0), pytest.approx(2 / 3))


def test_sides_take_turns_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def side(seconds: float) -> Callable[[], None]:
        def work() -> None:
            nonlocal now
            now += seconds
            order.append(seconds)

        return work

    order: list[float] = []
    monkeypatch.setattr(steps.time, "perf_counter", lambda: now)
    found = run_interleaved({"a": side(2.0), "b": side(5.0)}, rounds=2, seconds=5.0, device=CPU)
    assert found == {"a": [2.0, 2.0], "b": [5.0, 5.0]}
    assert order[4:] == [2.0, 2.0, 2.0, 5.0, 5.0, 2.0, 2.0, 2.0], "behind two calls each to warm up"


def test_a_busy_machine_reports_nothing_and_targets_are_judged() -> None:
    found = training()
    assert found.row("x", Ratio((1.0, 1.0, 1.1)), ">= 1.05")["reached"] == "no"
    assert found.row("x", Ratio((1.0, 1.0, 1.1)), "<= 1.05")["reached"] == "yes"
    noisy = found.row("x", Ratio((1.0, 2.0, 3.0)), ">= 0.5")
    assert (noisy["median"], noisy["reached"]) == (None, "") and "the quartiles lie 50% apart" in noisy["note"]
    assert found.row("x", None, ">= 0.5", "no such device")["note"] == "no such device"


def test_relative_error_is_the_largest_and_nan_never_passes() -> None:
    one = torch.ones(4)
    assert relative_error([one, 1.5 * one], [one, one]) == pytest.approx(0.5)
    assert relative_error([one * float("nan")], [one]) == float("inf")
