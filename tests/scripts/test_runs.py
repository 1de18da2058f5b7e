"""The verbs `runs` and `compare` on what the verbs of training wrote."""

import json
from pathlib import Path

import pytest

from tests.agents import written_runs as made
from tests.scripts.conftest import Tiny
from tests.scripts.refusals import Refused
from worldmodel.scripts.cli import run

Capture = pytest.CaptureFixture[str]


def test_trained_runs_are_listed_with_what_is_no_run(tiny: Tiny, capsys: Capture) -> None:
    assert run(["runs", str(tiny.run), str(tiny.codec)]) == 0
    header, trained, codec, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "kind", "task", "steps"]
    assert trained.split()[:6] == [str(tiny.run), "pretrain", "TwoRoom", "2", "of", "2"] and "loss" not in trained
    assert "text " in trained and "flow " in trained and trained.endswith("finished")
    assert codec.split()[:2] == [str(tiny.codec), "codec"] and codec.endswith("finished")


def test_by_default_the_home_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path))
    assert run(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    made.quickstart(tmp_path / "runs" / "quick", {"cem": [1, 1, 1, 0] * 2})
    made.codec(tmp_path / "checkpoints" / "codec")
    (tmp_path / "runs" / "foreign").mkdir()
    assert run(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].rpartition("/")[2] for line in lines[1:4]] == ["foreign", "quick", "codec"]
    assert lines[1].endswith("foreign: holds nothing that a verb of worldmodel wrote") and "75% / 50% cem" in lines[2]
    assert run(["runs", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [each["state"] for each in found] == ["foreign", "finished", "finished"] and "quick" in printed.err
    assert found[1]["success"] == {"controller": "cem", "touched": 0.75, "held": 0.5} and found[1]["modified"].startswith("20")


def test_a_comparison_is_a_table_a_page_and_a_document(tmp_path: Path, capsys: Capture) -> None:
    first, second = (made.quickstart(tmp_path / name, {"cem": [1, 0] * 4}, seed=i) for i, name in enumerate("ab"))
    out = tmp_path / "out"
    assert run(["compare", str(first), str(second), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.index("Settings that differ") < said.index("cem, touched") < said.index("On the same problems")
    page = (out / "report.html").read_text()
    assert "<title>Comparison of a, b</title>" in page and page.count("class='plot'") == 1 and "loss/text" in page
    assert run(["compare", str(first), str(second), "--out", str(out), "--json"]) == 0, "what it wrote it may write over"
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"seed": [0, 1]} and found["pairs"][0]["difference"]["value"] == 0
    assert json.loads((out / "report.json").read_text()) == {"generator": "made by worldmodel", **found}


def test_mistakes_are_told_in_one_sentence(tmp_path: Path, refused: Refused) -> None:
    assert "there is no folder" in refused("runs", tmp_path / "gone")
    assert "name two runs at least" in refused("compare", made.pretrain(tmp_path / "run"))
    report = made.evaluation(tmp_path / "scored", {"cem": [1] * 8})
    assert "is read by this command" in refused("compare", report, tmp_path / "run", "--out", report)
