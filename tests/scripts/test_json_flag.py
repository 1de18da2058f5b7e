"""`--json`: one document on stdout and nothing else. What each verb puts into it is tested with README's commands."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts.conftest import Tiny
from worldmodel.scripts.cli import run
from worldmodel.scripts.json_flag import JsonFlag, plain, print_found, records


@dataclass(frozen=True)
class Config(JsonFlag):
    name: str


@dataclass(frozen=True)
class Found:
    path: Path
    rates: tuple[float, ...]


def main(config: Config) -> dict[str, Any]:
    print("a table")
    return {"name": config.name, "nothing": float("nan"), 3: Found(Path("a/b"), (1.5, float("inf")))}


def test_a_verb_prints_its_table_or_its_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_found(main, Config("x"))
    assert capsys.readouterr() == ("a table\n", "")
    print_found(main, Config("x", json=True))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "x", "nothing": None, "3": {"path": "a/b", "rates": [1.5, None]}}
    assert printed.err == "a table\n"


def test_arrays_are_lists_of_numbers() -> None:
    value = {"a": np.array([[1.0, np.nan]]), "b": np.float32(0.5), "c": np.bool_(True), "d": {1, 2}.__class__}
    assert plain(value) == {"a": [[1.0, None]], "b": 0.5, "c": True, "d": "<class 'set'>"}
    assert plain({"a": [None, False, 2]}) == {"a": [None, False, 2]} and plain({"a": False})["a"] is False


def test_a_table_is_objects_with_the_names_of_its_columns() -> None:
    assert records([("a", "b"), ("1", "2"), ("3", "4")]) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_data_files(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    found = []
    for words in (["info", str(tiny.data)], ["check", str(tiny.data), str(tiny.small_frames)], ["fetch"]):
        assert run(["datasets", *words, "--json"]) == 0
        found.append(json.loads(capfd.readouterr().out, parse_constant=pytest.fail))
    info, checked, packages = found
    assert (info["episodes"], info["image_size"], info["env_id"]) == (5, 64, "worldmodel/TwoRoom-v0")
    assert info["columns"]["actions"]["min"][0] < info["columns"]["actions"]["mean"][0] < info["columns"]["actions"]["max"][0]
    assert [(each["file"], each["whole"], each["episodes"]) for each in checked] == [
        (str(tiny.data), True, 5),
        (str(tiny.small_frames), True, 5),
    ]
    assert {"name", "licence", "size"} <= packages[0].keys()


def test_a_mistake_prints_no_document(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["datasets", "info", "gone.h5", "--json"]) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and "gone.h5" in printed.err
