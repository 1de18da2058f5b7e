"""The loop of all trainings: what it does in a step, in which order, and what it leaves."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from worldmodel.training.loop import Gradient, Loop, not_finite
from worldmodel.training.optimizer import Ema, build_adamw


@dataclass(frozen=True)
class Slope(Gradient):
    value: float


class Line(Loop[nn.Linear, Slope]):
    """Moves a weight against a slope of 1; a step whose number is in `bad` is passed over once."""

    name, steps, warmup_steps, final_lr_share = "line", 5, 2, 0.1

    def __init__(self, bad: tuple[int, ...] = (), stop_at: int | None = None) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizers = [build_adamw([{"params": [self.model.weight], "weight_decay": 0.0, "peak": 0.5}], 0.5, (0.9, 0.95))]
        self.average = Ema(self.model, 0.9)
        self.bad, self.stop_at, self.count = list(bad), stop_at, 0
        self.calls: list[str] = []

    @property
    def done(self) -> int:
        return self.count

    def between_steps(self, finished: bool, last: bool) -> None:
        self.calls.append(f"between {self.count}{' finished' * finished}{' last' * last}")

    def gradient(self) -> Slope:
        self.model.weight.grad = torch.ones(1, 1)
        return Slope(self.count == self.stop_at, 1.0)

    def check(self, found: Slope) -> str | None:
        return "it is bad" if self.count in self.bad else None

    def reject(self, found: Slope, reason: str) -> None:
        self.bad.remove(self.count)
        self.calls.append(f"reject {reason}")

    def rebalance(self, found: Slope) -> None:
        self.average_before = self.average.model.weight.item()

    def accept(self, found: Slope, share: float) -> None:
        assert self.average.model.weight.item() != self.average_before  # averaged behind the rebalancing
        self.calls.append(f"accept {share:.2f}")
        self.count += 1

    def newest_losses(self) -> dict[str, float]:
        return {"slope": 1.0}


def test_steps_follow_the_schedule_and_what_is_due_comes_between_them() -> None:
    loop = Line()
    assert loop.run()
    shares = ["0.50", "1.00", "1.00", "0.55", "0.10"]
    steps = [entry for step, share in enumerate(shares) for entry in (f"between {step}", f"accept {share}")]
    assert loop.calls == [*steps, "between 5 finished last"]
    assert loop.model.weight.item() == pytest.approx(-0.5 * sum(map(float, shares)), rel=1e-4)  # a slope of 1: AdamW takes its rate
    assert loop.average.model.weight.item() > loop.model.weight.item()


def test_a_rejected_step_moves_nothing_and_is_not_counted() -> None:
    plain, loop = Line(), Line(bad=(0, 3))
    assert plain.run() and loop.run()
    assert [entry for entry in loop.calls if entry.startswith("reject")] == 2 * ["reject it is bad"]
    assert torch.equal(loop.model.weight, plain.model.weight) and torch.equal(loop.average.model.weight, plain.average.model.weight)


def test_a_training_ends_behind_the_step_that_is_asked_to_be_the_last() -> None:
    loop = Line(stop_at=1)
    assert not loop.run()
    assert loop.calls[-1] == "between 2 last" and loop.count == 2
    asked = Line()
    assert not asked.run(stopped=True) and asked.calls == ["between 0 last"]


def test_the_first_value_that_is_not_finite_is_named() -> None:
    assert not_finite({"loss": 1.0, "norm": 2.0}) is None
    assert not_finite({"loss": 1.0, "norm": math.inf, "other": math.nan}) == "norm"
