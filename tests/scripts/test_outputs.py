"""What verbs write, over what, and on which device: refused at once, before anything is read or computed."""

import dataclasses
import importlib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.toys import write_toy_file
from tests.scripts.refusals import Refused
from worldmodel.agents.protocol import KIND
from worldmodel.datasets.outputs import MARK
from worldmodel.scripts.envs import print_columns

MODEL = ["--checkpoint", "nowhere", "--data"]
WRITERS: dict[str, tuple[list[str], str]] = {
    "plan": (MODEL, "film.mp4"),
    "dream": (MODEL, "film.gif"),
    "evaluate": (MODEL, "out/report.html"),
    "evaluate json": (MODEL, "out/report.json"),
    "evaluate manifest": (MODEL, "out/manifest.json"),
    "diagnose": (MODEL, "out/diagnose.json"),
    "experts": (MODEL, "out/experts.png"),
    "generate": (["--draw", "a disc", *MODEL], "drawn.png"),
    "codecs": (["nowhere", "--data"], "table.json"),
    "codecs picture": (["nowhere", "--data"], "table.png"),
    "benchmark": ([], "figures.json"),
    "datasets mix": (["--data"], "page.html"),
    "datasets preview": ([], "sheet.png"),
    "envs": (["--task", "TwoRoom"], "preview.png"),
}
"""What a verb needs beside its output, and a file that it writes; data come last."""


def flags_of(name: str, folder: Path, data: str) -> tuple[list[str], Path]:
    """The command of a writer, and the file that it would write."""
    needed, file = WRITERS[name]
    out, verb = folder / file, name.split()[0]
    given = folder / "out" if file.startswith("out/") else out.with_suffix(".json") if name == "codecs picture" else out
    inner = name.split()[1:] if verb == "datasets" else []
    flag = "--preview" if verb == "envs" else "--out"
    with_data = [data] if needed[-1:] == ["--data"] or inner == ["preview"] else []
    return [verb, *inner, *needed, *with_data, flag, str(given)], out


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_of_somebody_else_is_replaced(name: str, tmp_path: Path, refused: Refused) -> None:
    flags, out = flags_of(name, tmp_path, "nowhere.h5")
    out.parent.mkdir(exist_ok=True)
    out.write_text("a year of work")
    said = refused(*flags)
    assert f"{out} exists and was not made by worldmodel" in said and "--overwrite" in said
    assert out.read_text() == "a year of work" and [path for path in tmp_path.rglob("*") if path.is_file()] == [out]


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("benchmark", "envs", "experts")])
def test_an_input_is_not_replaced_whatever_it_is_called(name: str, tmp_path: Path, refused: Refused) -> None:
    flags, out = flags_of(name, tmp_path, "DATA")
    out.parent.mkdir(exist_ok=True)
    write_toy_file(tmp_path / "x.h5")
    (tmp_path / "x.h5").rename(out)
    before = out.read_bytes()
    said = refused(*[str(out) if flag == "DATA" else flag for flag in flags], "--overwrite")
    assert f"{out} is read by this command, which would destroy it" in said
    assert out.read_bytes() == before


@pytest.mark.parametrize("verb", ["plan", "dream", "generate", "datasets mix", "datasets preview"])
def test_an_episode_file_given_as_output_stays(verb: str, tmp_path: Path, refused: Refused) -> None:
    write_toy_file(tmp_path / "x.h5")
    before, path = (tmp_path / "x.h5").read_bytes(), str(tmp_path / "x.h5")
    needed = {"generate": ["--draw", "a", *MODEL], "datasets mix": ["--data"], "datasets preview": []}.get(verb, MODEL)
    for more in ([], ["--overwrite"]):
        assert "end" in refused(*verb.split(), *needed, path, "--out", path, *more)
    assert (tmp_path / "x.h5").read_bytes() == before


def test_what_worldmodel_made_is_replaced_without_a_word(tmp_path: Path, refused: Refused) -> None:
    for name in WRITERS:
        flags, out = flags_of(name, tmp_path, "nowhere.h5")
        out.parent.mkdir(exist_ok=True)
        out.write_text(KIND if name == "evaluate manifest" else MARK)
        if name not in ("benchmark", "envs"):  # which would go on to work
            assert "nowhere" in refused(*flags), "the next mistake is told"


def config_of(verb: str) -> type[Any]:
    """What the flags of a verb fill."""
    found = typing.get_type_hints(importlib.import_module(f"worldmodel.scripts.{verb}").main)["config"]
    assert isinstance(found, type)
    return found


COMPUTING = ("codec", "codecs", "dream", "plan", "evaluate", "diagnose", "generate", "experts", "benchmark")
"""Verbs with a device of their own; the others have their preset's."""


@pytest.mark.parametrize("verb", COMPUTING)
def test_what_computes_does_so_on_the_gpu_where_there_is_one(verb: str, refused: Refused) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(config_of(verb))}
    assert defaults["device"] == "auto"
    needed: Sequence[str] = {"codecs": ["x", "--data", "x"], "codec": ["--data", "x"], "benchmark": ["train"]}.get(verb, [*MODEL, "x"])
    more = ["--draw", "a"] if verb == "generate" else []
    assert "unknown device 'abacus'" in refused(verb, *needed, *more, "--device", "abacus")


def test_long_cells_are_broken_and_columns_stay(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([("name", "values"), ("color", ", ".join(f"color{i}" for i in range(100))), ("size", "1 to 2")], 60)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60 and lines[0] == "name   values" and lines[-1] == "size   1 to 2"
    assert all(line.startswith("       ") for line in lines[2:-1]) and lines[1].startswith("color  color0, ")
    assert " ".join(line[7:] for line in lines[1:-1]).split(", ") == [f"color{i}" for i in range(100)]
