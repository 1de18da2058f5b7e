"""The loop of everything that is trained: the model (`run.py`) and each stage of a codec (`worldmodel/codec/training_loop.py`).

A step is a gradient, a look at whether it can be trained on, the rate that the schedule says, the optimizers, and the average of the
weights. Before the first and after each there is time for what is due: to measure, to save.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from tqdm import tqdm

from worldmodel.training.distributed import Model
from worldmodel.training.optimizer import Ema, schedule, set_rate


@dataclass(frozen=True)
class Gradient:
    """What is known of a step whose gradient has been computed and clipped, before any weight moves."""

    stopped: bool
    """Whether the training was asked to end behind this step."""


Found = TypeVar("Found", bound=Gradient)


class Loop(ABC, Generic[Model, Found]):
    """A training, from where it stands to its last step.

    Attributes:
        name: of it, in the progress bar.
        quiet: whether there is no bar; None: where the output is no terminal.
        model: whose weights move.
        optimizers: that move them; each group of theirs has its peak rate under `peak`.
        average: of the weights, if they are averaged.
        steps: optimizer steps in all.
        warmup_steps: of them with a rising rate.
        final_lr_share: rate of the last step, as a share of the peak.
    """

    name: str
    quiet: bool | None = None
    model: Model
    optimizers: list[torch.optim.Optimizer]
    average: Ema[Model] | None
    steps: int
    warmup_steps: int
    final_lr_share: float

    @property
    @abstractmethod
    def done(self) -> int:
        """Optimizer steps done."""

    @abstractmethod
    def between_steps(self, finished: bool, last: bool) -> None:
        """Do what is due: called before the first step and after each one; `finished`: all are done, `last`: no more will follow."""

    @abstractmethod
    def gradient(self) -> Found:
        """Draw the next batch, and compute and clip the gradient of the weights."""

    @abstractmethod
    def check(self, found: Found) -> str | None:
        """Say why the weights must not move along this gradient; None if there is no reason."""

    @abstractmethod
    def reject(self, found: Found, reason: str) -> None:
        """Pass over the batch, or raise."""

    @abstractmethod
    def accept(self, found: Found, share: float) -> None:
        """Count a step that was made at this share of the peak rate."""

    @abstractmethod
    def rebalance(self, found: Found) -> None:
        """Adjust what depends on a step beside the weights, before these are averaged."""

    def run(self, stopped: bool = False) -> bool:
        """Train until the last step, or until a step is asked to be the last; returns whether all are done.

        Args:
            stopped: it was asked for before the first step.
        """
        bar = tqdm(total=self.steps, initial=self.done, unit="step", desc=self.name, mininterval=1.0, disable=self.quiet)
        with bar:
            while True:
                finished = self.done >= self.steps
                self.between_steps(finished, finished or stopped)
                if finished or stopped:
                    return finished
                stopped = self.step()
                bar.update(self.done - bar.n)
                bar.set_postfix({name: f"{value:.3f}" for name, value in self.newest_losses().items()}, refresh=False)

    def step(self) -> bool:
        """Train on the next batch, or pass over it; returns whether the training was asked to end."""
        found = self.gradient()
        reason = self.check(found)
        if reason is not None:
            self.reject(found, reason)
            return found.stopped
        share = schedule(self.done, self.steps, self.warmup_steps, self.final_lr_share)
        set_rate(self.optimizers, share)
        for optimizer in self.optimizers:
            optimizer.step()
        self.rebalance(found)
        if self.average is not None:
            self.average.update(self.model, self.done)
        self.accept(found, share)
        return found.stopped

    @abstractmethod
    def newest_losses(self) -> dict[str, float]:
        """Return what the bar shows beside the steps."""


def not_finite(values: Mapping[str, float]) -> str | None:
    """Return the name of the first value that is not finite, if there is one."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)
