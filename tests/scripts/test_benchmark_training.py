"""`worldmodel benchmark train`: the tables, and the arithmetic behind them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldmodel import presets
from worldmodel.flops import Uses, training_flops
from worldmodel.scripts import benchmark_steps, benchmark_training
from worldmodel.scripts.benchmark_checks import relative_error
from worldmodel.scripts.benchmark_steps import BenchmarkRow, Ratio, Training, made_up_batches, ratio, run_interleaved
from worldmodel.scripts.cli import run

CPU = torch.device("cpu")


def training(name: str = "tiny") -> Training:
    preset = presets.PRESETS[name]()
    return Training(preset, CPU, rounds=3, seconds=0.0, steps=2, episodes=2, workers=1)


def test_tables_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = presets.tiny()
    packing = replace(small.train.packing, rows=2)
    small = replace(small, train=replace(small.train, packing=packing))
    small = replace(small, model=replace(small.model, trunk=replace(small.model.trunk, depth=1)))
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: small)
    for module in ("scripts.benchmark_training", "flops"):
        monkeypatch.setattr(f"worldmodel.{module}.MEDIUM", 64)
    out = tmp_path / "train.json"
    flags = "--repeats 2 --seconds 0.01 --parts checks speed attention optimizers precision --device cpu".split()
    assert run(["benchmark", "train", *flags, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["machine"]["torch"] == torch.__version__ and figures["machine"]["device"] == "cpu"
    for row in figures["checks"]:
        assert row["equal"] == ("" if row["relative error"] is None else "yes")
    dense, moe = figures["steps"]
    assert dense["active"] < moe["active"] < moe["weights"], "the router is all that a token visits more"
    assert 1 < moe["GFLOP/step"] / dense["GFLOP/step"] < 1.03
    for row in (dense, moe):
        assert row["GFLOP/s"] == pytest.approx(row["GFLOP/step"] / row["ms/step"] * 1000)
    names = [row["ratio"] for row in figures["speed"]]
    assert names == ["dense FLOP/s / matmul", "MoE FLOP/s / matmul", "MoE tokens/s / dense, with AdamW", "mask / MoE step"]
    reasons = {row["ratio"]: row["note"] for part in ("attention", "precision") for row in figures[part]}
    assert reasons["FlexAttention speed / dense-mask SDPA"] == "FlexAttention has no backward on a CPU"
    for row in [row for part in ("speed", "attention", "optimizers", "precision") for row in figures[part]]:
        assert (row["reached"] != "") == (row["median"] is not None and row["target"] != "")
        assert row["median"] is not None or row["note"], "a figure or why there is none"
    assert "MoE tokens/s / dense, with Muon" in capsys.readouterr().out


def test_a_part_that_fails_is_recorded_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
        yield "attention", [run.row("before", Ratio((1.0,)))]
        raise torch.OutOfMemoryError("no\nmemory")

    def works(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
        yield "attention", [run.row("after", Ratio((2.0,)))]

    monkeypatch.setattr(benchmark_training, "attention", fails)
    monkeypatch.setattr(benchmark_training, "precision", works)
    out = tmp_path / "train.json"
    flags = ["--parts", "attention", "precision", "--device", "cpu", "--out", str(out)]
    assert run(["benchmark", "train", *flags]) == 2
    figures = json.loads(out.read_text())
    assert [row["ratio"] for row in figures["attention"]] == ["before", "after"]
    assert figures["failed"] == [{"part": "attention", "error": "OutOfMemoryError: no memory"}]
    assert "attention could not be measured" in capsys.readouterr().err


@pytest.mark.parametrize("onednn", [False, True])
def test_float32_products_go_where_training_sends_them(onednn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = torch.backends.mkldnn.matmul.fp32_precision, []

    def look(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
        found.append(torch.backends.mkldnn.matmul.fp32_precision)
        yield from ()

    monkeypatch.setattr(benchmark_training, "choose_onednn", lambda device: onednn)
    monkeypatch.setattr(benchmark_training, "checks", look)
    assert run(["benchmark", "train", "--parts", "checks", "--device", "cpu", "--out", str(tmp_path / "train.json")]) == 0
    assert found == ["bf16" if onednn else before]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", "train", "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' is not there" in capsys.readouterr().err


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
    monkeypatch.setattr(benchmark_steps.time, "perf_counter", lambda: now)
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
