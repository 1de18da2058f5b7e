"""Quickstarts gathered into one record, and the table that pages show of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scripts.refusals import Refused
from worldmodel.agents import quickstart_results as results
from worldmodel.agents.ladder import SHUFFLED, STEP_AHEAD, TRUE_FRAMES
from worldmodel.errors import UserError
from worldmodel.scripts import results as verb
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
        "ladder": {
            "rows": [
                {"task": task, "seed": seed, "rung": "dynamics", "name": name, "value": value, "control": control}
                for name, value, control in (
                    (SHUFFLED, 1.5, 1.0),
                    (f"{STEP_AHEAD}1", 0.1, 0.3),
                    (f"{STEP_AHEAD}2", 0.2, 0.4),
                    (TRUE_FRAMES, 0.07, None),
                )
            ]
        },
        "language": [{"name": "caption, color", "right": 9, "total": 10, "chance": 0.2, "rate": 0.9}],
        "seconds": {"collect": 60.0, "plan": 90.0},
        "made_by": {"command": f"worldmodel quickstart --task {task}", "commit": "0123abc"},
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
    assert record["runs"][0] == {"task": "TwoRoom", "seed": 0, "minutes": 2.5} | report("TwoRoom", 0, 0.9)["made_by"]
    assert len(record["ladder"]) == 8
    assert [(row["task"], row["seed"], row["right"]) for row in record["language"]] == [("TwoRoom", 0, 9), ("PushT", 1, 9)]
    drawn = results.table(record).splitlines()
    assert drawn[2] == "| TwoRoom, 0 |  |  | 90 / 45 |  |  |  | 1.50 | 0.07 | 0.10 (0.30) |  | 2.5 |"
    assert drawn[0].count("|") == drawn[1].count("|") == drawn[3].count("|")


def test_the_picture_shows_the_first_dream_of_each_run(runs: list[Path], tmp_path: Path) -> None:
    for i, run in enumerate(runs):
        strip = np.full((12 * 8, 5 * 8, 3), 10 * (i + 1), np.uint8)
        strip[16:] = 255  # further clips
        Image.fromarray(strip).save(run / "dream.png")
        (run / "manifest.json").write_text(json.dumps({"image_size": 8}))
    assert run_verb("results", lambda: verb.main, [*map(str, runs), "--picture", str(tmp_path / "dreams.png")]) == 0
    with Image.open(tmp_path / "dreams.png") as picture:
        pixels = np.asarray(picture)
    assert [int((pixels == value).all(2).sum()) // 100 for value in (10, 20)] == [2 * 8 * 5 * 8] * 2  # ten times as large
    (runs[1] / "dream.png").unlink()
    with pytest.raises(UserError, match="PushT-1 has no picture of dreams"):
        results.dreams(runs)


def test_the_table_of_a_page_is_drawn_anew_and_nothing_else(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    assert run_verb("results", lambda: verb.main, [*map(str, runs), "--out", str(tmp_path / "all.json"), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "| PushT, 1 |" in text
    assert run_verb("results", lambda: verb.main, [str(tmp_path / "all.json"), "--page", str(page)]) == 0
    assert page.read_text() == text


def test_only_what_worldmodel_made_is_replaced(runs: list[Path], tmp_path: Path, refused: Refused) -> None:
    out, page = tmp_path / "all.json", tmp_path / "page.md"
    out.write_text('{"thesis": "three years of work"}')
    page.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "all.json exists and was not made by worldmodel" in refused("results", *runs, "--out", out, "--page", page)
    assert "is read by this command" in refused("results", *runs, "--out", runs[1] / "report.json", "--overwrite")
    assert "must end in .json" in refused("results", *runs, "--out", page)
    assert "is read by this command" in refused("results", *runs, "--page", runs[0] / "report.json")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for extra in (["--overwrite"], []):  # and what it made itself
        assert run_verb("results", lambda: verb.main, [*map(str, runs), "--out", str(out), *extra]) == 0
    assert "is read by this command" in refused("results", out, "--out", out, "--overwrite")


def test_a_run_replaces_what_a_record_says_of_its_task_and_seed(runs: list[Path], tmp_path: Path) -> None:
    record = tmp_path / "all.json"
    assert run_verb("results", lambda: verb.main, [*map(str, runs), "--out", str(record)]) == 0
    better = tmp_path / "better"
    better.mkdir()
    (better / "report.json").write_text(json.dumps(report("TwoRoom", 0, 1.0)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.json").write_text(json.dumps(report("TwoRoom", 1, 0.8)))
    found = results.gather([record, better, other])
    assert [(row["task"], row["seed"], row["success"]) for row in found["rows"]] == [
        ("TwoRoom", 0, 1.0),
        ("PushT", 1, 0.3),
        ("TwoRoom", 1, 0.8),
    ]
    assert len(found["ladder"]) == 12 and len(found["runs"]) == len(found["language"]) == 3
    assert results.gather([record]) == results.gather(runs)


@pytest.mark.parametrize("page", ["nothing", f"{results.END}{results.BEGIN}", f"{results.BEGIN}", 2 * results.BEGIN + results.END])
def test_a_page_without_a_place_is_told_before_anything_is_written(
    page: str, runs: list[Path], tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "page.md").write_text(page)
    assert "has no place for the table" in refused("results", *runs, "--out", tmp_path / "all.json", "--page", tmp_path / "page.md")
    assert not (tmp_path / "all.json").exists() and (tmp_path / "page.md").read_text() == page


def test_a_page_that_is_no_text_or_not_there(runs: list[Path], tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "page.md").write_bytes(b"\xff\x00")
    for name in ("page.md", "other.md"):
        assert f"cannot read {tmp_path / name}" in refused("results", *runs, "--page", tmp_path / name)


def test_damaged_records_and_reports_are_one_sentence(runs: list[Path], tmp_path: Path, refused: Refused) -> None:
    record = results.gather(runs)
    for damage in ({"rows": 5}, {"rows": [{}]}, {"runs": []}, {"rows": record["rows"] + [record["rows"][0] | {"held": "much"}]}):
        (tmp_path / "all.json").write_text(json.dumps(record | damage))
        assert "all.json is damaged or no record of results" in refused("results", tmp_path / "all.json")
    for content in ({}, {"config": []}, report("TwoRoom", 0, 0.5) | {"ladder": None}):
        (runs[1] / "report.json").write_text(json.dumps(content))
        assert f"{runs[1] / 'report.json'} is damaged or of another version" in refused("results", *runs)


def test_what_is_no_finished_quickstart_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert "holds no report.json" in refused("results", tmp_path)
    with pytest.raises(UserError, match="no place for the table"):
        results.with_table("nothing", "", tmp_path)
