"""`worldmodel evaluate` and `worldmodel plan` on a tiny checkpoint: who is scored, what the tables say, every form of actions."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.score import Outcomes, Score
from worldmodel.checkpoint import Pretrained
from worldmodel.scripts import evaluate as verb
from worldmodel.scripts.cli import run

PLANNER = (
    "--evaluate.mpc.replan-every 1 evaluate.planner:cem-config --evaluate.planner.horizon 2 --evaluate.planner.num-samples 4 "
    "--evaluate.planner.num-elites 2 --evaluate.planner.iterations 1"
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


def test_success_against_seconds_is_drawn_from_the_fastest_on_and_guided_from_the_policy() -> None:
    def scored(name: str, seconds: float, touched: bool) -> Score:
        return Score(name, [Outcomes([touched], [False], [None], [1.0], [1.0])], 1, seconds, 0.1, 1.0)

    alone = [scored("random", 0.0, False), scored("policy", 0.01, False), scored("guided", 0.2, True)]
    assert verb.success_against_seconds(alone) == {}
    more = [scored(verb.swept("guided", 4), 0.05, False), scored("cem", 0.4, True), scored(verb.swept("cem", 9), 0.1, False)]
    assert verb.success_against_seconds([*alone, *more]) == {
        "guided": ([0.01, 0.05, 0.2], [0.0, 0.0, 1.0]),
        "cem": ([0.1, 0.4], [0.0, 1.0]),
    }


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


def test_cells_of_a_row_by_hand() -> None:
    streams = [
        Outcomes([True, False], [True, False], [3, None], [0.1, 0.5], [0.1, 0.4]),
        Outcomes([True, True], [False, False], [4, 9], [0.3, 0.7], [0.1, 0.2]),
    ]
    score = Score("cem", streams, plans=8, seconds_per_plan=0.25, seconds_per_action=0.0125, seconds=3.0)
    assert score.success == [1.0, 0.5] and score.held == [0.5, 0.0]
    [row] = verb.rows([score])
    low, high = score.interval
    assert row == ["cem", "75.0%", f"{low:.1%} - {high:.1%}", "25.0%", *row[4:5], "0.400", "0.25", "0.0125"]
    assert row[4] == "{:.1%} - {:.1%}".format(*score.held_interval)
    assert len(row) == len(verb.HEADERS)


def test_goals_on_the_path_are_as_far_as_the_manifest_says() -> None:
    manifest = Manifest("toy", 16, "x", "path", 25, 50, 3.0, 0.1, 0, 0, 0, 0, ())
    assert verb.goal_steps(manifest) == 25
    assert verb.goal_steps(replace(manifest, goals="elsewhere", goal_offset=0)) is None


@pytest.mark.parametrize(
    ("sources", "taught"), [(["text", "goal"], True), (["spoken goal"], True), (["transition"], False), ([], False)]
)
def test_the_actor_is_there_where_goals_were_trained_on(sources: list[str], taught: bool) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(action_horizon=5))
    actor = verb.actor_of(Pretrained(model, None, None, {"sources": [{"source": "any", "kind": kind} for kind in sources]}))  # type: ignore[arg-type]
    assert (actor is not None) == taught
    assert actor is None or actor.horizon == 5
