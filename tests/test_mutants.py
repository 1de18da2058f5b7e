"""The list of planted errors fits the tree, some of it is killed in every run of the tests, and the runner tells what is not."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import run
from tests.mutants.run import Outcome, PlantedError, planted, read_errors, why_stale

SECONDS = 12
"""For the sample: no error of it is planted later."""
AREAS = {
    "metrics": "worldmodel/evaluation.py",
    "controls": "agents/simulator.py",
    "intervals": "agents/intervals.py",
    "held-out selection": "worldmodel/unseen.py",
    "alignment": "datasets/episodes/store.py",
    "schedule": "worldmodel/flow.py",
    "packing": "worldmodel/packing.py",
    "oracle": "agents/oracle.py",
}


def commit(root: Path) -> str:
    """The commit of the checkout, or of what has none the package's version."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else "no commit"


def test_every_entry_fits_the_tree(root: Path) -> None:
    errors = read_errors()
    assert len(errors) >= 60
    stale = {error.name: why for error in errors if (why := why_stale(error, root))}
    assert not stale, "change the old text, or the names of the tests, in tests/mutants/errors.toml"
    for area, file in AREAS.items():
        assert any(error.file == file for error in errors), f"no planted error is about {area}"
    assert all(error.guards.endswith(".") and len(error.guards) > 15 for error in errors)


def test_a_sample_drawn_by_the_commit_is_killed(root: Path) -> None:
    command = [sys.executable, "-m", "tests.mutants.run", "--sample", commit(root), "--seconds", str(SECONDS), "--jobs", "1"]
    result = subprocess.run([*command, "--only-planted"], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 survived, 0 stale, 0 broken" in result.stdout and not result.stdout.startswith("0 planted")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with a module and its tests."""
    (tmp_path / "tree" / "worldmodel").mkdir(parents=True)
    tree = tmp_path / "tree"
    (tree / "worldmodel" / "__init__.py").write_text("def half(x):\n    return x / 2\n")
    (tree / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    tests = "from worldmodel import half\n\n\ndef test_half():\n    assert half(4) == 2\n\n\ndef test_nothing():\n    pass\n"
    (tree / "test_half.py").write_text(tests)
    return tree


HALF = PlantedError("half", "worldmodel/__init__.py", "x / 2", "x / 3", ("test_half.py::test_half",), "Halves are halves.")


RUN = """
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tests.mutants import run
tree, folder, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
errors = [run.PlantedError(**{**each, "tests": tuple(each["tests"])}) for each in json.loads(sys.argv[4])]
print(repr(run.unchanged(errors[:2], tree, folder)))
print(asdict(run.run_all(errors, [tree], folder, seconds, verbose=False)))
"""
"""Prints what the tests say without any error, and what comes of each."""


def tried(errors: list[PlantedError], root: Path, tree: Path, folder: Path, seconds: float = 60.0) -> tuple[str, dict[str, Any]]:
    """In a process of its own: pytest must not be forked while it runs."""
    given = json.dumps([asdict(error) for error in errors])
    command = [sys.executable, "-c", RUN, str(tree), str(folder), str(seconds), given]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    said, *_, outcome = result.stdout.splitlines()
    return ast.literal_eval(said), ast.literal_eval(outcome)


def test_what_is_not_noticed_is_told_from_what_is(root: Path, tree: Path, tmp_path: Path) -> None:
    errors = [
        HALF,
        replace(HALF, name="blind", tests=("test_half.py::test_nothing",)),
        replace(HALF, name="gone", old="x // 2"),
        replace(HALF, name="no syntax", new="x /"),
    ]
    before = (tree / HALF.file).read_text()
    said, outcome = tried(errors, root, tree, tmp_path)
    assert said == "" and outcome["killed"] == ["half"] and outcome["survived"] == ["blind"]
    assert outcome["stale"] == {"gone": "its old text stands 0 times in worldmodel/__init__.py, not once"}
    assert list(outcome["broken"]) == ["no syntax"], "tests that cannot run notice nothing"
    assert (tree / HALF.file).read_text() == before
    (tree / "test_half.py").write_text("def test_half():\n    assert False\n\n\ndef test_nothing():\n    pass\n")
    said, outcome = tried(errors, root, tree, tmp_path, -1.0)
    assert "assert False" in said and outcome["left"] == 4 and outcome["killed"] == []
    assert (
        Outcome().good
        and not Outcome(survived=["x"]).good
        and not Outcome(stale={"x": ""}).good
        and not Outcome(broken={"x": ""}).good
    )


def test_entries_that_do_not_fit_are_named(tree: Path) -> None:
    for change, why in (
        ({"file": "no.py"}, "no.py does not exist"),
        ({"old": "\n"}, "stands 2 times"),
        ({"new": HALF.old}, "its new text is its old one"),
        ({"tests": ("test_half.py::test_third",)}, "there is no test test_half.py::test_third"),
        ({"tests": ("test_third.py::test_half",)}, "there is no test"),
        ({"tests": ()}, "it names no test"),
    ):
        assert why in why_stale(replace(HALF, **change), tree)  # type: ignore[arg-type]
    assert why_stale(HALF, tree) == ""
    assert why_stale(replace(HALF, tests=("test_half.py::test_half[a-1]",)), tree) == "", "of a test with parameters, one"


def test_a_planted_error_leaves_nothing_behind(tree: Path) -> None:
    path = tree / HALF.file
    about = os.stat(path)
    with planted(HALF, tree):
        assert "x / 3" in path.read_text() and os.stat(path).st_mtime_ns != about.st_mtime_ns
    assert os.stat(path).st_mtime_ns == about.st_mtime_ns and "x / 2" in path.read_text()


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    text = run.LIST.read_text()
    first = text.index("[[error]]")
    second = text.index("[[error]]", first + 1)
    (tmp_path / "twice.toml").write_text(text + text[first:second])
    with pytest.raises(ValueError, match="two planted errors have the name"):
        read_errors(tmp_path / "twice.toml")


def test_the_sample_depends_on_the_commit() -> None:
    errors = read_errors()
    one, other = ([error.name for error in run.drawn(errors, word)] for word in ("a", "b"))
    assert sorted(one) == sorted(other) and one[:5] != other[:5] and one == [error.name for error in run.drawn(errors, "a")]
