"""Quickstarts gathered into one record, and the table that pages show of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.refusals import Refused
from worldmodel.agents.ladder import SHUFFLED
from worldmodel.errors import UserError
from worldmodel.scripts import results
from worldmodel.scripts.console import run_verb


def report(task: str, seed: int, policy: float) -> dict[str, Any]:
    score = {
        "name": "policy",
        "success_rate": policy,
        "interval_95": [0.1, 0.9],
        "held_rate": policy / 2,
        "held_interval_95": [0, 0.5],
    }
    return {
        "config": {"task": f"worldmodel/{task}-v0", "seed": seed},
        "planning": {
            "protocol": {"goals": "path", "goal_offset": 25, "budget": 50, "min_distance": 3.0, "seed": seed, "problems": 100},
            "controllers": [score | {"seconds_per_plan": 0.002}],
        },
        "ladder": {"rows": [{"task": task, "seed": seed, "rung": "dynamics", "name": SHUFFLED, "value": 1.5, "control": 1.0}]},
        "seconds": {"collect": 60.0, "plan": 90.0},
    }


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = []
    for task, seed, policy in (("TwoRoom", 0, 0.9), ("PushT", 1, 0.3)):
        folder = tmp_path / f"{task}-{seed}"
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report(task, seed, policy)))
        found.append(folder)
    return found


def test_one_row_for_each_controller_of_each_run(runs: list[Path]) -> None:
    record = results.gather(runs)
    assert [(row["task"], row["seed"], row["success"], row["held"]) for row in record["rows"]] == [
        ("TwoRoom", 0, 0.9, 0.45),
        ("PushT", 1, 0.3, 0.15),
    ]
    assert record["minutes"][0]["minutes"] == 2.5 and len(record["ladder"]) == 2
    drawn = results.table(record).splitlines()
    assert drawn[2] == "| TwoRoom, 0 |  |  | 90 / 45 |  |  |  | 1.50 | 2.5 |"
    assert drawn[0].count("|") == drawn[1].count("|") == drawn[3].count("|")


def test_the_table_of_a_page_is_drawn_anew_and_nothing_else(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    assert run_verb("results", lambda: results.main, [*map(str, runs), "--out", str(tmp_path / "all.json"), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| PushT, 1 |" in text
    assert run_verb("results", lambda: results.main, [str(tmp_path / "all.json"), "--page", str(page)]) == 0
    assert page.read_text() == text


def test_what_is_no_finished_quickstart_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert "holds no report.json" in refused("results", tmp_path)
    with pytest.raises(UserError, match="no place for the table"):
        results.with_table("nothing", "", tmp_path)
