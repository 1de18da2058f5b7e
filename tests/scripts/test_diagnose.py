"""`worldmodel diagnose` on a tiny checkpoint: its rows, its page, what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.agents.ladder import LadderRow, Verdict
from worldmodel.rollout import RolloutConfig
from worldmodel.scripts import diagnose
from worldmodel.scripts.cli import run
from worldmodel.scripts.diagnose import sections, task_name

SMALL = (
    "--ladder.reader.steps 2 --ladder.reader.width 8 --ladder.dream.clips 4 --ladder.menu.problems 2 --ladder.menu.candidates 3 "
    "--ladder.workers 0 --ladder.evaluate.mpc.replan-every 1 ladder.evaluate.planner:cem-config --ladder.evaluate.planner.horizon 2 "
    "--ladder.evaluate.planner.num-samples 4 --ladder.evaluate.planner.num-elites 2 --ladder.evaluate.planner.iterations 1"
).split()


def flags(tiny: Tiny, out: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(tiny.run), "--data", str(tiny.data), "--out", str(out), *PROBLEMS, *more]


def test_every_rung_is_measured_printed_and_written(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnose", *flags(tiny, tmp_path, "--task", "TwoRoom", "--seed", "4", *SMALL)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    record = json.loads((tmp_path / "diagnose.json").read_text())
    rows = record["rows"]
    assert all(set(row) == {"task", "seed", "rung", "name", "value", "control"} for row in rows)
    assert all((row["task"], row["seed"]) == ("TwoRoom", 4) for row in rows)
    assert list(dict.fromkeys(row["rung"] for row in rows)) == ["codec", "dynamics", "ranking", "search", "result"]
    names = [row["name"] for row in rows]
    assert {"R^2, small network, goal's disc.x", "R^2, linear, disc.y", "state error, steps ahead: 1"} <= set(names)
    assert {"rank correlation, dreamt futures", "touched, true simulator, true distance", "held, cem", "touched, oracle"} <= set(names)
    assert len(set(names)) == len(names)
    for row in rows:
        assert f"{row['value']:.3f}" in printed and f"{row['value']:.3f}" in page
    assert record["verdict"] in printed and record["weakest"] in ("codec", "dynamics", "ranking", "search", "result", None)


def test_a_file_of_another_task_is_refused(tiny: Tiny, refused: Refused, tmp_path: Path) -> None:
    assert refused("diagnose", *flags(tiny, tmp_path, "--task", "PushT")) == f"{tiny.data} holds episodes of TwoRoom, not of PushT"


def test_names_of_tasks() -> None:
    assert task_name("worldmodel/PushT-v0") == "PushT" and task_name("dm_control/walker-walk-v0") == "dm_control/walker-walk-v0"


def test_a_report_opens_with_what_is_weakest() -> None:
    rows = [
        LadderRow("Point", 0, "dynamics", "state error, steps ahead: 1", 0.25, 0.5),
        LadderRow("Point", 0, "dynamics", "state error, steps ahead: 2", 0.75, 1.0),
        LadderRow("Point", 0, "search", "touched", 1.0, None),
    ]
    verdict, table, curves = sections(rows, Verdict("search", "search is broken"))
    assert verdict.text == "search is broken"  # type: ignore[union-attr]
    assert table.rows[-1] == ["search", "touched", "1.000", ""]  # type: ignore[union-attr]
    assert curves.curves == {"dream": ([1, 2], [0.25, 0.75]), "copying the last frame": ([1, 2], [0.5, 1.0])}  # type: ignore[union-attr]


def test_a_jump_predicts_the_last_frame_from_all_actions_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Leaping:
        def __init__(self, model: Any, tokenizer: Any, config: RolloutConfig, describe: Any) -> None:
            asked.append(config)
            self.config, self.describe = config, describe

        def encode(self, frames: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
            return frames, between

        def rollout(self, state: tuple[Tensor, Tensor], candidates: Tensor, generator: torch.Generator) -> Tensor:
            assert state[1].shape[1] == state[0].shape[1] - 1
            return state[0][:, -1:, None].flip(0).expand(-1, -1, 2, -1, -1) + torch.arange(2.0)[:, None, None]  # (b, 1, 2, n, c)

    monkeypatch.setattr(diagnose, "Rollout", Leaping)
    frames, trained = torch.rand(3, 2, 4, 5), SimpleNamespace(model=None, tokenizer=None)
    rollout = Leaping(None, None, RolloutConfig(num_steps=3), None)
    reached = diagnose.jump_of(trained, rollout)(frames, torch.zeros(3, 1, 2), torch.zeros(3, 6, 2))  # type: ignore[arg-type]
    torch.testing.assert_close(reached, frames[:, -1].flip(0) + 1)
    assert asked[-1] == RolloutConfig(num_steps=3, jump=6)
