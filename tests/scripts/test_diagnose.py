"""`worldmodel diagnose` on a tiny checkpoint: its rows, its page, what it refuses."""

import json
from pathlib import Path

import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.scripts.cli import run

SMALL = (
    "--ladder.reader.steps 2 --ladder.reader.width 8 --ladder.dream.clips 4 --ladder.menu.problems 2 --ladder.menu.candidates 3 "
    "--workers 0 --evaluate.mpc.replan-every 1 --planner.horizon 2 "
    "--planner.num-samples 4 --planner.num-elites 2 --planner.iterations 1"
).split()


def flags(tiny: Tiny, out: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(tiny.run), "--data", str(tiny.data), "--out", str(out), *PROBLEMS, *more]


def test_every_rung_is_measured_printed_and_written(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", *flags(tiny, tmp_path, "--task", "TwoRoom", "--seed", "4", *SMALL)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    record = json.loads((tmp_path / "diagnose.json").read_text())
    rows = record["rows"]
    assert all(set(row) == {"task", "seed", "rung", "name", "value", "control"} for row in rows)
    assert all((row["task"], row["seed"]) == ("TwoRoom", 4) for row in rows)
    assert list(dict.fromkeys(row["rung"] for row in rows)) == ["codec", "dynamics", "ranking", "search", "result"]
    names = [row["name"] for row in rows]
    assert {"R^2, small network, goal's disc.x", "R^2, linear, disc.y", "state error, steps ahead: 1"} <= set(names)
    assert {"rank correlation, dreamt futures", "touched, true simulator, true distance", "held, cem", "touched, oracle"} <= set(names)
    assert len(set(names)) == len(names)
    for row in rows:
        assert f"{row['value']:.3f}" in printed and f"{row['value']:.3f}" in page
    assert record["verdict"] in printed and record["weakest"] in ("codec", "dynamics", "ranking", "search", "result", None)


def test_a_file_of_another_task_is_refused(tiny: Tiny, refused: Refused, tmp_path: Path) -> None:
    assert (
        refused("diagnose", *flags(tiny, tmp_path, "--task", "PushT"))
        == f"{tiny.data} holds episodes of TwoRoom, not of PushT: name another file"
    )
