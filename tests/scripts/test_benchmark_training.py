"""`worldmodel benchmark train`: the tables."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worldmodel import presets
from worldmodel.benchmarks import training
from worldmodel.benchmarks.steps import BenchmarkRow, Ratio, Training
from worldmodel.scripts.cli import run


def test_tables_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = presets.tiny()
    packing = replace(small.train.packing, rows=2)
    small = replace(small, train=replace(small.train, packing=packing))
    small = replace(small, model=replace(small.model, trunk=replace(small.model.trunk, depth=1)))
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: small)
    for module in ("benchmarks.training", "flops"):
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

    monkeypatch.setattr(training, "attention", fails)
    monkeypatch.setattr(training, "precision", works)
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

    monkeypatch.setattr(training, "choose_onednn", lambda device: onednn)
    monkeypatch.setattr(training, "checks", look)
    assert run(["benchmark", "train", "--parts", "checks", "--device", "cpu", "--out", str(tmp_path / "train.json")]) == 0
    assert found == ["bf16" if onednn else before]
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", "train", "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' is not there" in capsys.readouterr().err
