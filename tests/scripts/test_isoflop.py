"""The verb `isoflop` on models that train for a few steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.conftest import TINY_MODEL, Tiny
from worldmodel.scripts import isoflop
from worldmodel.scripts.console import run_verb

Isoflop = Callable[..., int]
TRUNK = {"hidden": 32, "width": 32, "heads": 4, "kv-heads": 4, "moe.num-experts": 4}
SMALL = [part for name, value in TRUNK.items() for part in (f"--model.trunk.{name}", str(value))]


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Isoflop:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))

    def run(*flags: str, out: str = "study", preset: tuple[str, ...] = ()) -> int:
        where = ["--data", str(tiny.data), "--codec", str(tiny.codec), "--out", str(tmp_path / out), "--vocab-size", "400"]
        grid = ["--min-steps", "1", "--replicates", "20", "--batches", "1", *tiny.mixture]
        return run_verb("isoflop", lambda: isoflop.main, [*where, *grid, *flags, *TINY_MODEL, *SMALL, *preset])

    return run


def test_a_plan_trains_nothing(study: Isoflop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--plan", "--sizes", "1", "2", "--budgets", "2e8", "4e8", "--min-steps", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["model", "size", "width", "depth"] and len(lines) == 1 + 8 + 1
    assert any("left out: too few steps" in line for line in lines) and lines[-1].startswith("all")
    assert not (tmp_path / "study").exists()


def test_a_killed_study_goes_on_and_ends_with_fits_and_a_picture(
    study: Isoflop, tmp_path: Path, killed_third: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = killed_third
    flags = ["--sizes", "1", "2", "3", "--budgets", "6e8", "--kinds", "dense"]
    assert study(*flags) == 130
    points = json.loads((tmp_path / "study" / "points.json").read_text())
    assert [p["point"]["size"] for p in points] == [1.0, 2.0]
    assert study(*flags, "--plan") == 0
    assert study(*flags) == 0
    assert len(trained) == 4 and trained[2] == trained[3], "finished points are not trained again"
    points = json.loads((tmp_path / "study" / "points.json").read_text())
    assert [p["point"]["size"] for p in points] == [1.0, 2.0, 3.0]
    for p in points:
        assert p["losses"]["language"] > 0 and p["losses"]["vision"] > 0 and 0 < p["step_seconds"] < p["seconds"]
    fits = json.loads((tmp_path / "study" / "fits.json").read_text())
    assert set(fits["fits"]) == {"dense/language", "dense/vision"} and 0 < fits["timing"]["share_in_steps"] < 1
    assert all("inconclusive" in line for line in fits["findings"]) and len(fits["findings"]) == 2
    assert (tmp_path / "study" / "isoflop.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "study" / "runs").glob("*/checkpoints")), "weights of measured points go"
    said = capsys.readouterr().out
    assert "steps took" in said and "fewer than two budgets have an optimum" in said
    before = list(trained)
    assert study(*flags[:-2], "--kinds", "dense", "moe", "--sizes", "1") == 0
    assert trained == [*before, "moe_size1_6e+08"], "a study may grow"


def test_usual_budgets_give_every_size_enough_steps(study: Isoflop, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("--plan", "--sizes", "1", "2", "--kinds", "dense", "--min-steps", "5") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    steps = {size: [int(row[9]) for row in rows if row[1] == size] for size in ("1", "2")}
    assert steps["2"] == pytest.approx([10, 20, 40], abs=1) and all(
        few < many for few, many in zip(steps["2"], steps["1"], strict=True)
    )


def test_mistakes_in_a_grid(study: Isoflop, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*flags: str, preset: tuple[str, ...] = ()) -> str:
        capfd.readouterr()
        assert study(*flags, preset=preset) == 2
        return capfd.readouterr().err.splitlines()[-1]

    assert "sizes are (1.0, 1.0); give positive numbers, each once" in refused("--sizes", "1", "1")
    assert "budgets are (-1.0,)" in refused("--budgets", "-1")
    assert "no budget gives any size 20 steps: take budgets of at least " in refused("--budgets", "1e7", "--min-steps", "20")
    assert "are the same model of width" in refused("--sizes", "1", "1.1")
    no_stem = ("--model.stem.tokens", "0")
    assert "size 0.25: the model's width 8 is below the latents' 16 channels" in refused("--sizes", "0.25", preset=no_stem)
    assert study("--sizes", "1", "--budgets", "3e8", "--kinds", "dense") == 0, capfd.readouterr().err
    assert "holds a run with other settings" in refused("--sizes", "1", "--budgets", "3e8", "--kinds", "dense", "--batches", "2")
