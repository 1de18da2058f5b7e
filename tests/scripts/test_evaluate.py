"""`worldmodel evaluate` and `worldmodel plan` on a tiny checkpoint: who is scored, what the tables say, every form of actions."""

import json
import re
from pathlib import Path

import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.scripts.cli import run

PLANNER = (
    "--evaluate.mpc.replan-every 1 --planner.horizon 2 --planner.num-samples 4 --planner.num-elites 2 --planner.iterations 1"
).split()


def flags(tiny: Tiny, *more: str) -> list[str]:
    return ["--checkpoint", str(tiny.run), "--data", str(tiny.data), *PROBLEMS, *more]


def test_both_rates_stand_in_table_page_and_record(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["random", "cem", "learned_shuffled_actions"]
    more = ["--evaluate.streams", "2", "--controller", *chosen, "--workers", "0", "--out", str(tmp_path), *PLANNER]
    assert run(["evaluate", *flags(tiny, *more)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "success over 1 held-out problems, each tried 2 times" in printed
    record = json.loads((tmp_path / "report.json").read_text())
    assert [score["name"] for score in record["controllers"]] == chosen
    assert record["config"]["streams"] == 2 and record["config"]["planner_kind"] == "CEMConfig"
    for score in record["controllers"]:
        assert [len(stream["held"]) for stream in score["streams"]] == [1, 1]
        for rate, interval in (("success_rate", "interval_95"), ("held_rate", "held_interval_95")):
            low, high = score[interval]
            assert low <= score[rate] <= high
            assert f"{low:.1%} - {high:.1%}" in printed and f"{low:.1%} - {high:.1%}" in page
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{score['name']} "))
        assert re.split(r"\s{2,}", line)[1::2][:2] == [f"{score['success_rate']:.1%}", f"{score['held_rate']:.1%}"]


def test_searches_run_with_each_number_of_candidates(tiny: Tiny, tmp_path: Path) -> None:
    more = ["--controller", "random", "cem", "--candidates", "3", "1", "--workers", "0", "--out", str(tmp_path), *PLANNER]
    assert run(["evaluate", *flags(tiny, *more)]) == 0
    record = json.loads((tmp_path / "report.json").read_text())
    names = ["random", "cem", "cem, 3 candidates", "cem, 1 candidates"]
    assert [score["name"] for score in record["controllers"]] == names
    assert "Success against seconds" in (tmp_path / "report.html").read_text()


def test_actions_as_text_in_blocks(tiny: Tiny, tmp_path: Path) -> None:
    """The block of three actions is written as three."""
    more = ["--rollout.action-form", "text", "--controller", "cem", "--workers", "0", "--out", str(tmp_path), *PLANNER]
    assert run(["evaluate", *flags(tiny, *more)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["controllers"][0]["name"] == "cem"


def test_a_plan_is_filmed_to_the_end_of_the_budget(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "plan.mp4"
    assert run(["plan", *flags(tiny, "--controller", "oracle", "--out", str(film), *PLANNER)]) == 0
    printed = capsys.readouterr().out
    assert film.stat().st_size > 0
    assert re.search(r"problem 0: (did not reach the goal|reached the goal after \d env steps and (held|lost) it); distance", printed)
    assert re.search(r"oracle: \S+ s per plan, \S+ s per action", printed)


@pytest.mark.parametrize("name", ["evaluate", "plan"])
def test_an_unknown_controller_is_refused(tiny: Tiny, refused: Refused, tmp_path: Path, name: str) -> None:
    assert "genius" in refused(name, *flags(tiny, "--controller", "genius"), "--out", tmp_path / "x.mp4")
