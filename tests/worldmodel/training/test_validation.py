"""Held-out losses: fixed, per source and modality, and right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, run
from worldmodel.datasets.mixture.documents import Document, NextActions, Text, goal_document
from worldmodel.losses import NoiseSample
from worldmodel.model import WorldModel
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.validation import Validation


class Few(toys.Sentences):
    name = "few"

    def __len__(self) -> int:
        return 3

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return (Text(f"a red disc number {item}"),)


class Goals(toys.Sentences):
    """Of each, four of six numbers are known."""

    name = "goals"

    def __len__(self) -> int:
        return 3

    def document(self, item: int, rng: np.random.Generator) -> Document:
        now = toys.picture(np.random.default_rng(item))
        return goal_document(now, "a red disc", 5, NextActions(np.full((3, 2), 0.5 + item, np.float32), 4))


def validation(seed: int = 0, batches: int = 2) -> Validation:
    sources = [toys.Videos(), toys.Sentences(), toys.Captions(), toys.Drawings(), Few()]
    return Validation(sources, toys.tokenizer(), toys.GRID, 2, toys.PACKING, batches, seed)


def test_each_source_has_the_losses_that_it_can_have() -> None:
    values = validation().measure(toys.model(), toys.codec())
    by_source = {
        name: {key.split("/")[-1] for key in values if key.startswith(f"validation/{name}/")} for name in ("videos", "sentences")
    }
    assert by_source == {"videos": {"flow", "flow_high_noise"}, "sentences": {"text", "bits_per_byte"}}
    assert "validation/captions/flow" not in values and "validation/captions/bits_per_byte" not in values
    assert "validation/drawings/flow" in values
    means = [values[f"validation/{name}/text"] for name in ("sentences", "captions", "few")]
    assert values["validation/text"] == pytest.approx(np.mean(means))
    assert all(np.isfinite(value) for value in values.values())


def test_error_of_said_actions_is_a_mean_over_their_known_numbers() -> None:
    """Where the model says 0 for all: the mean square of 0.5, 1.5 and 2.5, four times each."""
    model = toys.model(action_horizon=3)
    nn.init.zeros_(model.action_out.weight)
    values = Validation([Goals()], toys.tokenizer(), toys.GRID, 2, toys.PACKING, 3).measure(model, toys.codec())
    assert values["validation/goals/action"] == pytest.approx((0.25 + 2.25 + 6.25) / 3)
    assert values["validation/action"] == values["validation/goals/action"]


def test_batches_have_few_shapes() -> None:
    """Rows of a batch are a power of two or as many as there may be."""
    fixed = validation(batches=2).fixed.values()
    assert {len(each.batch.token_id) for batches in fixed for each in batches} <= {1, 2, toys.PACKING.rows}
    assert {len(each.batch.token_id) for batches in fixed for each in batches} > {toys.PACKING.rows}


def test_the_same_weights_have_the_same_losses_and_others_have_others() -> None:
    first, again = (validation().measure(toys.model(), toys.codec()) for _ in range(2))
    assert first == again
    assert validation().measure(toys.model(seed=1), toys.codec()) != first
    assert validation(seed=1).measure(toys.model(), toys.codec()) != first
    model = toys.model("moe")
    validation(batches=1).measure(model, toys.codec())
    assert not model.trunk.loads().any(), "the use of experts is that of training"


def test_a_model_that_knows_nothing_has_the_loss_of_chance() -> None:
    model = toys.model()
    nn.init.zeros_(model.text_out.weight)
    values = validation().measure(model, toys.codec())
    chance = np.log(toys.tokenizer().vocab_size)
    assert values["validation/text"] == pytest.approx(chance, rel=1e-5)
    (fixed,) = validation().fixed["few"]
    tokens = len(fixed.batch.predicted_positions)
    assert values["validation/few/bits_per_byte"] == pytest.approx(chance * tokens / np.log(2) / fixed.text_bytes, rel=1e-5)


def test_an_item_is_measured_once_at_most() -> None:
    (fixed,) = validation(batches=5).fixed["few"]
    assert int(fixed.batch.document_id.max()) == 2
    assert len(validation(batches=5).fixed["videos"]) == 5
    assert all(len(each.batch.token_id) == toys.PACKING.rows for each in validation(batches=5).fixed["videos"])


def test_high_noise_is_flow_time_below_a_tenth() -> None:
    model, times = toys.model(), []
    original = WorldModel.loss

    def loss(batch: object, latents: torch.Tensor, noise_sample: NoiseSample) -> object:
        times.append(noise_sample.t[~batch.clean])  # type: ignore[attr-defined]
        return original(model, batch, latents, noise_sample)  # type: ignore[arg-type]

    model.loss = loss  # type: ignore[method-assign, assignment]
    Validation([toys.Videos()], toys.tokenizer(), toys.GRID, 2, toys.PACKING, 1).measure(model, toys.codec())
    usual, high = times
    assert high.max() < 0.1 <= usual.max() and len(high.unique()) == len(high)


def test_a_run_measures_its_averaged_model(tmp_path: Path) -> None:
    config = replace(CONFIG, validate_every=4)
    result = run(tmp_path, config, validation=validation(batches=1))
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "validation/text" in row]
    assert [row["step"] for row in rows] == [4, 6]
    assert result.metrics["validation/text"] == rows[-1]["validation/text"]
    from worldmodel.checkpoint import read_checkpoint

    kept = read_checkpoint(result.checkpoint)
    again = validation(batches=1).measure(kept.model, kept.codec)["validation/flow"]
    assert again == pytest.approx(rows[-1]["validation/flow"], rel=1e-6)  # elsewhere in memory sums may round otherwise
    assert kept.card["metrics"]["validation/flow"] == rows[-1]["validation/flow"]
