"""`worldmodel benchmark`: the tables, and the arithmetic behind them."""

import json
from pathlib import Path

import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import Refused
from worldmodel.agents import play_speed
from worldmodel.benchmarks import waiting
from worldmodel.benchmarks.throughput import Rates, bare_rate, interleave
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.scripts.cli import run

TASK = "worldmodel/TwoRoom-v0"


def test_interleave_takes_turns_and_turns_round() -> None:
    order: list[str] = []
    rates = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def side(name: str) -> float:
        order.append(name)
        return next(rates)

    found = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": Rates((1.0, 4.0, 5.0)), "b": Rates((2.0, 3.0, 6.0))}
    assert (found["a"].median, found["a"].spread) == (4.0, (1.0, 5.0))


def test_envs_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    flags = ["--task", TASK, "--image-sizes", "32", "--seconds", "0.05", "--repeats", "2", "--episodes", "2", "--workers", "1"]
    assert run(["benchmark", "envs", *flags, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["machine"]["mujoco"]
    (drawing,), collecting = figures["drawing"], figures["collecting"][0]
    for row in (drawing, collecting):
        assert row["ratio"] == pytest.approx(row["frames/s"] / row["its frames/s"])
        assert 0 < row["range"][0] <= row["frames/s"] <= row["range"][1]
    assert drawing["px"] == 32
    printed = capsys.readouterr().out
    assert TASK in printed and "MuJoCo's default" in printed and "bare loop" in printed


def test_demonstrators_table(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert run(["benchmark", "demonstrators", "--task", TASK, "--seeds", "5", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["demonstrators"]
    assert (row["task"], row["seeds"], row["demonstrator"]) == (TASK, 5, 5)
    assert row["random"] <= 3 and row["demonstrator, all factors"] >= 4


def test_data_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, texts = tmp_path / "figures.json", tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": f"The Congress met {n} times, and our economy grew."}) for n in range(40)))
    few = MixtureConfig(corpora=(str(texts),), pictures=0, held_out=0.4)  # the standard texts and pictures take a minute
    monkeypatch.setattr(waiting, "MixtureConfig", lambda: few)
    monkeypatch.setattr(waiting, "VOCABULARY", 400)
    flags = f"--task {TASK} --image-sizes 32 --repeats 1 --episodes 2 --workers 1 --clips 64 --steps 2".split()
    assert run(["benchmark", "data", *flags, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["machine"].keys() >= {"stable_worldmodel", "its JPEG decoder"}
    rows = {(row["file"], row["reader"], row["workers"]): row for row in figures["reading"]}
    ways = [("ClipLoader", 0), ("ClipLoader", 1), ("DataLoader", 0), ("DataLoader", 1), ("in order", 0), ("read", 0)]
    plain = {(name, "ClipLoader", threads) for name in ("tuned h5py", "memmap") for threads in (0, 1)}
    assert {key for key in rows if not key[0].startswith("stable")} == {(file, *way) for file in STORAGES for way in ways} | plain
    for (file, _, _), row in rows.items():
        assert 0 < row["range"][0] <= row["clips/s"] <= row["range"][1]
        for other in ("in order", "read"):
            if file in STORAGES and row["reader"] != other:
                assert row[f"x {other}"] == pytest.approx(row["clips/s"] / rows[file, other, 0]["clips/s"])
    for name, _, threads in plain:
        ratio = rows["lossless", "ClipLoader", threads]["clips/s"] / rows[name, "ClipLoader", threads]["clips/s"]
        assert rows["lossless", "ClipLoader", threads][f"x {name}"] == pytest.approx(ratio)
        assert rows[name, "ClipLoader", threads]["bytes/clip"] > 0
    raw, lossless = (rows[file, "read", 0]["bytes/clip"] for file in ("raw", "lossless"))
    assert raw > 4 * 32 * 32 * 3 > 4 * lossless, "flat colours compress"
    assert [row["data workers"] for row in figures["waiting"]] == [0, 1]
    for row in figures["waiting"]:
        assert 0 <= row["waiting, later"] < 1 and 0.5 < row["filled"] <= 1 and row["ms/step"] > 0
    assert "x lance" in capsys.readouterr().out


def test_a_failing_process_of_the_bare_loop_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="a process of the bare loop failed"):
        bare_rate(CollectConfig("worldmodel/Nowhere-v0", episodes=1, workers=1))
    assert "Nowhere" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["fish"], "fish"),
        (["envs", "--repeats", "0"], "--repeats 0 must be at least 1"),
        (["data", "--clip-frames", "1"], "--clip-frames 1 must be at least 2"),
        (["envs", "--seconds", "0"], "--seconds 0.0 must be more than 0"),
        (["demonstrators", "--task", "worldmodel/TwoRom-v0"], "did you mean 'worldmodel/TwoRoom-v0'"),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", *flags]) == 2
    assert message in capsys.readouterr().err


def test_playing_table(tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["benchmark", "play", "--checkpoint", str(tiny.run), "--steps", "20", "--out"]
    assert run([*flags, str(tmp_path / "measured.json")]) == 0
    (row,) = json.loads((tmp_path / "measured.json").read_text())["playing"]
    assert (row["task"], row["px"]) == (TASK, 64) and 0 < row["key to frames, ms"] <= row["95 %"] and row["steps/s"] > 0
    assert 100 < row["MiB after 2"] <= 1.2 * row["MiB after 20"]

    taken = iter([9.0] * play_speed.WARM_UP + [0.01] * 10 + [0.03] * 10)
    monkeypatch.setattr(play_speed, "_press", lambda controller, step: next(taken))
    monkeypatch.setattr(play_speed, "_memory", lambda: 300 * 2**20)
    assert run([*flags, str(tmp_path / "told.json")]) == 0
    (row,) = json.loads((tmp_path / "told.json").read_text())["playing"]
    assert (row["key to frames, ms"], row["95 %"], row["steps/s"], row["MiB after 2"], row["MiB after 20"]) == (20, 30, 50, 300, 300)
    for wrong in (["play"], ["envs", "--checkpoint", tiny.run]):
        assert "give it --checkpoint, and no other benchmark" in refused("benchmark", *wrong)
