"""One model of two tasks, whose actions have different sizes: each verb is asked about one of them by name, `evaluate` about all."""

import json
import shutil
from pathlib import Path

import pytest

from tests.scripts.conftest import TINY_MODEL, Tiny
from tests.scripts.refusals import PROBLEMS, READERS, Refused
from worldmodel.checkpoint import read_card
from worldmodel.scripts.cli import run

FEW = [*PROBLEMS, "--workers", "0", "--controller", "random", "policy"]


@pytest.fixture(scope="module")
def of_two(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on TwoRoom and Cube for two steps; the episodes lie beside it."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copy(tiny.data, folder / "rooms.h5")
    collect = ["collect", "--task", "Cube", "--episodes", "5", "--max-steps", "12", "--workers", "1"]
    assert run([*collect, "--out", str(folder / "cubes.h5")]) == 0
    files = ["--data", str(folder / "rooms.h5"), str(folder / "cubes.h5"), "--codec", str(tiny.codec)]
    where = ["--out", str(folder / "run"), "--vocab-size", "400"]
    assert run(["pretrain", *files, *where, *tiny.mixture, *TINY_MODEL]) == 0
    return folder / "run"


def test_all_tasks_are_scored_in_one_command(of_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--checkpoint", str(of_two), "--task", "all", "--out", str(tmp_path / "all"), *FEW]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "all" / "report.json").read_text())["tasks"]
    assert list(record) == ["TwoRoom", "Cube"]
    for name, found in record.items():
        folder = tmp_path / "all" / name
        assert json.loads((folder / "report.json").read_text()).items() >= found.items()
        assert json.loads((folder / "manifest.json").read_text())["env_id"] == f"worldmodel/{name}-v0"
        assert [score["name"] for score in found["controllers"]] == ["random", "policy"]
        rates = [f"{100 * score['success_rate']:.0f} / {100 * score['held_rate']:.0f}" for score in found["controllers"]]
        assert [line.split("  ") for line in printed.splitlines() if line.startswith(f"{name} ")][-1][-1].strip() == rates[-1]
        assert "".join(rates) in "".join((tmp_path / "all" / "report.html").read_text().replace("</td><td>", "").split("\n"))


def test_one_task_is_named(of_two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--checkpoint", str(of_two), "--task", "Cube", "--out", str(tmp_path / "cube"), *FEW]) == 0
    assert json.loads((tmp_path / "cube" / "manifest.json").read_text())["env_id"] == "worldmodel/Cube-v0"
    for verb in ("dream", "plan"):
        film = tmp_path / f"{verb}.mp4"
        flags = ["--checkpoint", str(of_two), "--task", "Cube", "--out", str(film), "--json", *READERS[verb]]
        capsys.readouterr()
        assert run([verb, *flags]) == 0 and film.stat().st_size > 0
        assert json.loads(capsys.readouterr().out)
    card = read_card(of_two)
    assert {name: (each["size"], each["block"]) for name, each in card["actions"].items()} == {
        "worldmodel/TwoRoom-v0": (2, 3),
        "worldmodel/Cube-v0": (4, 3),
    }


def test_what_does_not_fit_a_task_is_refused(of_two: Path, refused: Refused, tmp_path: Path) -> None:
    given = ["--checkpoint", of_two, "--out", tmp_path / "x"]
    for verb in ("evaluate", "diagnose"):
        assert "was trained on worldmodel/TwoRoom-v0, worldmodel/Cube-v0, so it is not asked about Reacher" in refused(
            verb, *given, "--task", "Reacher"
        )
    rooms = of_two.parent / "rooms.h5"
    assert "are of one task; leave them out" in refused("evaluate", *given, "--task", "all", "--data", rooms)
    assert "holds episodes of TwoRoom, not of worldmodel/Cube-v0" in refused("evaluate", *given, "--task", "Cube", "--data", rooms)
    (tmp_path / "x" / "Cube").mkdir(parents=True)
    (tmp_path / "x" / "Cube" / "report.html").write_text("mine")
    assert "report.html" in refused("evaluate", *given, "--task", "all", *FEW)
    assert not (tmp_path / "x" / "TwoRoom").exists()  # it is said before anything is scored
