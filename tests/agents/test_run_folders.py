"""What lies in a folder is told from its JSON, and nothing that lies there ends the list."""

import os
from pathlib import Path

import pytest

from tests.agents import written_runs as made
from worldmodel.agents.run_folders import Success, best, describe, list_folders
from worldmodel.datasets.atomic import locked_folder


def test_a_training_run_tells_its_progress_its_task_and_its_newest_losses(tmp_path: Path) -> None:
    found = describe(made.pretrain(tmp_path / "run"))
    assert (found.kind, found.state, found.tasks, found.done, found.asked) == ("pretrain", "finished", ("TwoRoom",), 20, 20)
    assert found.losses == {"text": 2.0} and found.success is None
    assert found.size == sum(path.stat().st_size for path in found.path.rglob("*") if path.is_file())
    half = describe(made.pretrain(tmp_path / "half", [3.0, 2.5], steps=40))
    assert (half.state, half.done, half.asked, half.losses) == ("interrupted", 20, 40, {"text": 2.5})
    (tmp_path / "half" / "checkpoints" / "step_000030").mkdir(parents=True)
    assert describe(tmp_path / "half").done == 30, "what was saved counts where the metrics were lost"


def test_losses_that_are_not_finite_are_none(tmp_path: Path) -> None:
    assert describe(made.pretrain(tmp_path, [float("nan"), float("inf")])).losses == {}


def test_a_quickstart_is_finished_with_its_report(tmp_path: Path) -> None:
    begun = describe(made.quickstart(tmp_path / "begun"))
    assert (begun.kind, begun.state, begun.done, begun.success) == ("quickstart", "interrupted", 20, None)
    controllers = {"oracle": [1] * 8, "policy": [1, 0] * 4, "cem": [1, 1, 1, 0] * 2, "random_held": [1] * 8}
    done = describe(made.quickstart(tmp_path / "done", controllers))
    assert (done.state, done.tasks, done.success) == ("finished", ("TwoRoom",), Success("cem", 0.75, 0.5)), (
        "controls are not the model"
    )


def test_of_controllers_that_touch_as_many_goals_the_one_that_holds_more_is_the_best() -> None:
    names = ("cem", "guided, 16 candidates", "policy")
    scores = [{"name": name, "success_rate": 0.5, "held_rate": held} for name, held in zip(names, (0.1, 0.4, 0.2), strict=True)]
    assert best(scores) == Success("guided, 16 candidates", 0.5, 0.4)
    assert best([{"name": "random", "success_rate": 1.0, "held_rate": 1.0}]) is None


def test_numbers_without_end_are_damage_or_no_row(tmp_path: Path) -> None:
    run = made.pretrain(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss/text": 1' + "0" * 400 + "}\n")
    assert describe(run).losses == {"text": 2.0}
    record = made.planning({"cem": [1] * 8})
    record["controllers"][0]["held_rate"] = 10**400
    made.write(tmp_path / "scored" / "report.json", record)
    assert describe(tmp_path / "scored").state == "damaged"


def test_codecs_evaluations_diagnoses_and_studies(tmp_path: Path) -> None:
    assert describe(made.codec(tmp_path / "codec")).state == "finished"
    assert describe(made.codec(tmp_path / "begun", finished=False)).state == "interrupted"
    scored = describe(made.evaluation(tmp_path / "scored", {"guided": [1, 0] * 4}))
    assert (scored.kind, scored.state, scored.tasks, scored.success) == (
        "evaluate",
        "finished",
        ("TwoRoom",),
        Success("guided", 0.5, 0.5),
    )
    made.write(tmp_path / "drawn" / "manifest.json", {"kind": "worldmodel.manifest", "env_id": made.TASK})
    assert (describe(tmp_path / "drawn").kind, describe(tmp_path / "drawn").state) == ("evaluate", "interrupted")
    made.write(tmp_path / "ladder" / "diagnose.json", {"rows": made.LADDER})
    assert (describe(tmp_path / "ladder").kind, describe(tmp_path / "ladder").tasks) == ("diagnose", ("TwoRoom",))
    made.write(tmp_path / "study" / "config.json", {"kind": "run", "study": "ablate"})
    made.write(tmp_path / "study" / "results.json", {"runs": [{}, {}]})
    assert (describe(tmp_path / "study").state, describe(tmp_path / "study").done) == ("interrupted", 2)
    (tmp_path / "study" / "results.md").write_text("tables")
    assert describe(tmp_path / "study").state == "finished"
    os.utime(tmp_path / "study" / "results.md", (0, 0))
    assert describe(tmp_path / "study").state == "interrupted", "more was measured since"
    made.write(tmp_path / "grid" / "config.json", {"kind": "run", "study": "isoflop"})
    made.write(tmp_path / "grid" / "points.json", [{}])
    assert (describe(tmp_path / "grid").kind, describe(tmp_path / "grid").done) == ("isoflop", 1)
    made.write(tmp_path / "weights" / "config.json", {"kind": "worldmodel"})
    made.write(tmp_path / "weights" / "card.json", {"tasks": {made.TASK: []}, "step": 7})
    assert (describe(tmp_path / "weights").kind, describe(tmp_path / "weights").done) == ("checkpoint", 7)


def test_a_run_whose_folder_is_held_is_running(tmp_path: Path) -> None:
    run = made.pretrain(tmp_path / "run", steps=40)
    with locked_folder(run):
        assert describe(run).state == "running"
    assert describe(run).state == "interrupted"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", "{", "config.json is damaged: "),
        ("config.json", "[1]", "config.json holds no JSON object"),
        ("config.json", '{"kind": "run", "train": {}}', "there is no 'steps' in its JSON"),
        ("config.json", '{"kind": "run", "train": 3}', "'int' object"),
        ("config.json", '{"kind": "run", "study": ["a"]}', ""),
        ("config.json", '{"kind": "worldmodel"}', "card.json: No such file"),
        ("report.json", '{"controllers": 1}', "there is no 'protocol'"),
        ("diagnose.json", '{"rows": [1]}', "'int' object"),
        ("run.json", "{}", "there is no 'config'"),
        ("config.json", "[" * 100_000, "config.json is damaged"),
    ],
)
def test_what_is_damaged_is_said_with_its_reason(tmp_path: Path, file: str, content: str, reason: str) -> None:
    made.pretrain(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / file).write_text(content)
    first, second = list_folders([tmp_path])
    assert first.state == "finished"
    assert (second.path.name, second.state) == ("b", "damaged" if reason else "interrupted") and reason in second.reason


def test_what_is_somebody_elses_is_said_to_be(tmp_path: Path) -> None:
    made.write(tmp_path / "foreign" / "config.json", {"model_type": "bert"})
    made.write(tmp_path / "other" / "report.json", {"whatever": 1})
    made.write(tmp_path / "problems" / "manifest.json", {"name": "an app"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "film.mp4").write_bytes(b"")
    found = list_folders([tmp_path])
    assert [each.path.name for each in found] == ["empty", "foreign", "other", "problems"]
    assert {(each.state, each.reason) for each in found} == {("foreign", "holds nothing that a verb of worldmodel wrote")}


def test_a_folder_that_may_not_be_read_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.pretrain(tmp_path / "a")
    (tmp_path / "b").mkdir()
    listed = Path.iterdir

    def closed(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    assert [(each.state, each.reason) for each in list_folders([tmp_path])] == [("finished", ""), ("damaged", "b: Permission denied")]


def test_a_run_that_is_named_is_not_opened_further(tmp_path: Path) -> None:
    made.quickstart(tmp_path / "quick")
    made.pretrain(tmp_path / "quick" / "codec")
    assert [each.path for each in list_folders([tmp_path / "quick"])] == [tmp_path / "quick"]
    assert [each.path.name for each in list_folders([tmp_path])] == ["quick"]
    assert list_folders([]) == []
    (tmp_path / "nothing").mkdir()
    assert list_folders([tmp_path / "nothing"]) == []


def test_a_pipe_that_is_called_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(made.pretrain(tmp_path / "run") / "lock")
    assert describe(tmp_path / "run").state == "finished"
