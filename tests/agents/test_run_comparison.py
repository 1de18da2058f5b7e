"""Runs side by side: what differs in their settings, what they have in common, and the same problems problem by problem."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.agents import written_runs as made
from worldmodel.agents.comparison_page import pair_rows, score_rows, sections, settings_rows, tables
from worldmodel.agents.paired import digest_of, paired_difference
from worldmodel.agents.report import Curves, TextSection
from worldmodel.agents.run_comparison import Figure, compare, distinct
from worldmodel.errors import UserError

FIRST, SECOND = [1, 0, 0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1, 0, 0]


def test_settings_that_are_equal_are_left_out_and_curves_are_beside_each_other(tmp_path: Path) -> None:
    first, second = made.pretrain(tmp_path / "first"), made.pretrain(tmp_path / "second", [4.0, float("nan"), 1.0], 30, lr=0.2)
    found = compare([first, second])
    assert found.names == ["first", "second"]
    assert found.settings == {"train.steps": [20, 30], "train.lr": [0.1, 0.2]}
    assert found.scores == {"loss/text, last": [Figure(2.0), Figure(1.0)]}, "speeds are no figures"
    assert found.curves == {"loss/text": {"first": ([10, 20], [3.0, 2.0]), "second": ([10, 30], [4.0, 1.0])}}
    assert found.pairs == []
    assert settings_rows(found) == [["train.steps", "20", "30"], ["train.lr", "0.1", "0.2"]]
    assert [type(section) for section in sections(found)][-1] == Curves
    assert isinstance(sections(compare([first, made.pretrain(tmp_path / "third")]))[0], TextSection), "no setting differs"


def test_a_quickstart_and_a_run_of_pretrain_have_training_in_common(tmp_path: Path) -> None:
    quick, run = made.quickstart(tmp_path / "quick"), made.pretrain(tmp_path / "run", lr=0.3)
    found = compare([quick, run])
    assert found.settings["train.lr"] == [0.1, 0.3] and "train.steps" not in found.settings
    assert list(found.scores) == ["loss/text, last"]


def test_quickstarts_on_the_same_problems_are_compared_problem_by_problem(tmp_path: Path) -> None:
    first, second = made.quickstart(tmp_path / "a", {"cem": FIRST}), made.quickstart(tmp_path / "b", {"cem": SECOND}, seed=1)
    found = compare([first, second])
    assert found.settings == {"seed": [0, 1]}
    assert found.scores["cem, touched"] == [Figure(3 / 8, 0.1, 0.9), Figure(5 / 8, 0.1, 0.9)]
    assert found.scores["ranking: rank correlation"][0] == Figure(0.5, 0.3, 0.7)
    assert found.scores["codec, psnr"][0] == Figure(40.0) and found.scores["language: caption, whole"][1] == Figure(0.5, 0.4, 0.6)
    assert not any(name.startswith("result") for name in found.scores), "the controllers say it"
    episodes = [problem["episode"] for problem in made.PROBLEMS]
    assert [(pair.controller, pair.what) for pair in found.pairs] == [("cem", "touched"), ("cem", "held")]
    assert found.pairs[0].difference == paired_difference(FIRST, SECOND, episodes) != paired_difference(FIRST, SECOND)
    held = [[met if not i % 2 else 0 for i, met in enumerate(each)] for each in (FIRST, SECOND)]
    assert found.pairs[1].difference == paired_difference(*held, episodes)
    assert found.scores["cem, held"] == [Figure(2 / 8, 0.0, 0.8)] * 2
    assert (found.pairs[0].difference.value, found.pairs[0].difference.better, found.pairs[0].difference.worse) == (0.25, 3, 1)
    (row, _) = pair_rows(found.pairs)
    assert row[:5] == ["a", "b", "cem", "touched", "+25.0%"] and row[6:] == ["3 / 1", "0.625"]
    assert ["cem, touched", "0.375 [0.1, 0.9]", "0.625 [0.1, 0.9]"] in score_rows(found)
    assert [table.title for table in tables(found)] == ["Settings that differ", "Figures", "On the same problems"]


def test_other_problems_are_no_pairs(tmp_path: Path) -> None:
    digest = digest_of(made.PROBLEMS)
    same = [made.evaluation(tmp_path / name, {"cem": FIRST}, digest) for name in ("a", "b")]
    assert len(compare(same).pairs) == 2
    other = made.evaluation(tmp_path / "c", {"cem": FIRST}, "another")
    unknown = [made.evaluation(tmp_path / name, {"cem": FIRST}) for name in ("d", "e")]
    assert compare([same[0], other]).pairs == compare(unknown).pairs == []
    quick = made.quickstart(tmp_path / "quick", {"cem": FIRST})
    assert len(compare([same[0], quick]).pairs) == 2, "a report that does not say them lies beside its manifest"


def test_of_three_runs_two_are_enough_for_a_figure(tmp_path: Path) -> None:
    runs = [made.evaluation(tmp_path / name, {each: FIRST}) for name, each in (("a", "cem"), ("b", "cem"), ("c", "policy"))]
    assert compare(runs).scores["cem, touched"][2] is None and "policy, touched" not in compare(runs).scores
    assert score_rows(compare(runs))[0][3] == "-"


def test_codecs_and_diagnoses(tmp_path: Path) -> None:
    found = compare([made.codec(tmp_path / "a"), made.codec(tmp_path / "b", kind="vae")])
    assert found.settings == {"codec.kind": ["pixels", "vae"]}
    assert found.scores["codec, probe R^2"] == [Figure(0.75)] * 2
    for name in ("c", "d"):
        made.write(tmp_path / name / "diagnose.json", {"rows": made.LADDER})
    assert list(compare([tmp_path / "c", tmp_path / "d"]).scores) == ["ranking: rank correlation"]


def test_mistakes(tmp_path: Path) -> None:
    run, codec = made.pretrain(tmp_path / "run"), made.codec(tmp_path / "codec")
    with pytest.raises(UserError, match="name two runs at least"):
        compare([run])
    with pytest.raises(UserError, match=r"run \(pretrain\), codec \(codec\) have no figure in common: compare runs of one kind"):
        compare([run, codec])
    with pytest.raises(UserError, match="a run is named twice"):
        compare([run, tmp_path / "." / "run"])
    (tmp_path / "foreign").mkdir()
    with pytest.raises(UserError, match="foreign holds nothing that can be compared: name quickstarts, runs of pretrain"):
        compare([run, tmp_path / "foreign"])
    with pytest.raises(UserError, match=r"gone cannot be compared, it is not whole \(gone: No such file or directory\)"):
        compare([run, tmp_path / "gone"])
    with pytest.raises(UserError, match=r"begun cannot be compared, it is not whole \(report.json: No such file"):
        compare([codec, made.codec(tmp_path / "begun", finished=False)])
    with pytest.raises(UserError, match="young has no figures yet"):
        compare([run, made.pretrain(tmp_path / "young", [])])


@pytest.mark.parametrize(
    ("place", "wrong", "said"),
    [
        (("controllers", 0, "success_rate"), "0.5", "'0.5' is no finite number"),
        (("controllers", 0, "held_interval_95", 0), [], "[] is no finite number"),
        (("controllers", 0, "interval_95", 1), float("nan"), "nan is no finite number"),
        (("controllers", 0, "success_rate"), 10**400, "int too large"),
        (("controllers", 0, "streams", 0, "held"), [True], "held of a controller is [True], no list of 8 times true or false"),
        (("controllers", 0, "streams", 0, "success", 3), 10**400, "no list of 8 times"),
        (("protocol", "episodes"), [1, 2], "its 8 problems are of no 8 episodes"),
    ],
)
def test_records_with_wrong_numbers_are_damaged(place: tuple[Any, ...], wrong: Any, said: str, tmp_path: Path) -> None:
    good, bad = made.evaluation(tmp_path / "good", {"cem": FIRST}, "same"), made.planning({"cem": FIRST}, "same")
    inner = bad
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = wrong
    made.write(tmp_path / "bad" / "report.json", bad)
    for runs in ([good, tmp_path / "bad"], [tmp_path / "bad", good]):
        with pytest.raises(UserError, match=f"bad cannot be compared, it is not whole .*{re.escape(said)}"):
            compare(runs)


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert distinct([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert distinct([Path("/a/x/run"), Path("/b/x/run"), Path("/b/y/run")]) == ["a/x/run", "b/x/run", "b/y/run"]
