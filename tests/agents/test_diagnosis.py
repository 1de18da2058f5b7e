"""The diagnosis of a trained model: names, report and jumps by hand."""

from typing import Any

import torch
from torch import Tensor

from worldmodel.agents import diagnosis
from worldmodel.agents.diagnosis import sections
from worldmodel.agents.ladder import LadderRow, Verdict
from worldmodel.envs import short_name
from worldmodel.rollout import RolloutConfig


def test_names_of_tasks() -> None:
    assert short_name("worldmodel/PushT-v0") == "PushT" and short_name("dm_control/walker-walk-v0") == "dm_control/walker-walk-v0"


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


def test_a_jump_predicts_the_last_frame_from_all_actions_ahead() -> None:
    asked: list[Any] = []

    class Leaping:
        def __init__(self, config: RolloutConfig) -> None:
            asked.append(config)
            self.config = config

        def with_config(self, config: RolloutConfig) -> "Leaping":
            return Leaping(config)

        def encode(self, frames: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
            return frames, between

        def rollout(self, state: tuple[Tensor, Tensor], candidates: Tensor, generator: torch.Generator) -> Tensor:
            assert state[1].shape[1] == state[0].shape[1] - 1
            return state[0][:, -1:, None].flip(0).expand(-1, -1, 2, -1, -1) + torch.arange(2.0)[:, None, None]  # (b, 1, 2, n, c)

    frames = torch.rand(3, 2, 4, 5)
    rollout = Leaping(RolloutConfig(num_steps=3))
    reached = diagnosis.jump_of(rollout)(frames, torch.zeros(3, 1, 2), torch.zeros(3, 6, 2))  # type: ignore[arg-type]
    torch.testing.assert_close(reached, frames[:, -1].flip(0) + 1)
    assert asked[-1] == RolloutConfig(num_steps=3, jump=6)
