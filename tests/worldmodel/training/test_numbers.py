"""Numbers of a training step that no loss curve would show to be wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, run
from tests.worldmodel.training.test_validation import Few
from worldmodel.batch import unpack
from worldmodel.datasets.mixture.documents import Text
from worldmodel.training import run as running
from worldmodel.training.validation import Validation


def test_a_run_clips_its_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    clip = running.clip_gradients

    def watched(model: nn.Module, limit: float) -> torch.Tensor:
        before = clip(model, limit)
        lengths.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))
        return before

    monkeypatch.setattr(running, "clip_gradients", watched)
    run(tmp_path / "run", replace(CONFIG, steps=2, gradient_clip=0.25))
    assert len(lengths) == 2 and max(lengths) == pytest.approx(0.25, rel=1e-3)


def test_validation_measures_each_held_out_item_once() -> None:
    [fixed] = Validation([Few()], toys.tokenizer(), toys.GRID, 2, toys.PACKING, 5).fixed["few"]
    said = [each.text for document in unpack(fixed.batch, toys.tokenizer()) for each in document if isinstance(each, Text)]
    assert sorted(said) == [f"a red disc number {item}" for item in range(3)]
