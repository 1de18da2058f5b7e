"""What is said of the way to a goal, from a decoding state, is what the packed forward pass over `goal_document` says."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.acting import Acting
from worldmodel.batch import PackedBatch
from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.mixture.documents import NextActions, goal_document
from worldmodel.model import WorldModel
from worldmodel.tokenizer import STEP_COUNTS

MODELS: list[Callable[..., WorldModel]] = [toys.model, toys.stem_model]
SENTENCES = ["a red disc", "it is near the top left of the blue room", "right"]


def problems(model: WorldModel, b: int, t: int) -> tuple[Tensor, Tensor]:
    """Latents of b histories of t frames, and of b goals."""
    latents = toys.random_latents(b * (t + 1), grid=model.config.latent_grid).unflatten(0, (b, t + 1))
    return latents[:, :t], latents[:, t]


def packed(model: WorldModel, goal: str | None, steps: int) -> PackedBatch:
    """The document of a goal (None: a frame) as it is trained on, every picture another."""
    now, other = (toys.picture(np.random.default_rng(i)) for i in range(2))
    document = goal_document(now, goal or other, steps, NextActions(np.zeros((2, 2), np.float32), 4))
    config = replace(toys.PACKING, references=model.config.references)
    return toys.pack([document], config=config, grid=model.config.grid)


def hidden_of(model: WorldModel, batch: PackedBatch, latents: Sequence[Tensor]) -> Tensor:
    """Hidden states (n, d) of a document from the latents (l, c) of its pictures, in the order of the document."""
    given, frames = [torch.stack(list(part)) if part else latents[0][None][:0] for part in split(batch, latents)]
    return toys.hidden(model, batch, frames, torch.ones(len(frames)), given)[0]


def split(batch: PackedBatch, latents: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The latents of the pictures that have no room, and of the others."""
    return latents[: len(batch.given)], latents[len(batch.given) :]


@torch.no_grad()
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("history", [1, 2, 4])
def test_actions_are_those_of_the_packed_document(make: Callable[..., WorldModel], said: bool, history: int) -> None:
    model = make(seed=1)
    frames, goals = problems(model, 3, history)
    steps = torch.tensor([1.0, 17.4, 40.0])
    acting = Acting(model, toys.tokenizer(), at_once=2)
    mean, spread = acting.propose(frames, torch.zeros(3, history - 1, 2), SENTENCES if said else goals, steps)
    assert mean.shape == spread.shape == (3, acting.horizon, 2) and acting.horizon == model.config.action_horizon
    for i in range(3):
        now = frames[i, -1]
        batch = packed(model, SENTENCES[i] if said else None, int(steps[i].round()))
        hidden = hidden_of(model, batch, [now] if said else [now, goals[i]])
        expected, logarithm = model.next_actions(hidden[batch.question_positions])
        torch.testing.assert_close(mean[i], expected[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(spread[i], logarithm[0].exp(), atol=1e-5, rtol=1e-4)
    assert (mean[0] - mean[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("make", MODELS)
def test_the_number_of_steps_is_the_mean_of_what_the_packed_document_predicts(make: Callable[..., WorldModel]) -> None:
    model = make(seed=1)
    model.text_out.weight.mul_(3)  # so that some numbers are likelier than others
    frames, goals = problems(model, 3, 1)
    found = Acting(model, toys.tokenizer(), at_once=2).steps_to_go(frames[:, 0], goals)
    batch = packed(model, None, 9)
    place = batch.predicted_positions
    assert batch.text_target.flatten()[place].tolist() == [toys.tokenizer().steps_id + 9]
    for i in range(3):
        hidden = hidden_of(model, batch, [frames[i, 0], goals[i]])
        numbers = model.logits(hidden[place])[0, 4 : 4 + 64].softmax(-1)
        torch.testing.assert_close(found[i], sum(k * chance for k, chance in enumerate(numbers)), atol=1e-4, rtol=1e-4)
    assert found.shape == (3,) and found.std() > 0.1


@torch.no_grad()
def test_more_steps_than_there_are_numbers_for_are_the_most() -> None:
    model = toys.stem_model(seed=1)
    frames, goals = problems(model, 1, 2)
    acting = Acting(model, toys.tokenizer())

    def said(steps: float) -> Tensor:
        return acting.propose(frames, torch.zeros(1, 1, 2), goals, torch.tensor([steps]))[0]

    most = float(STEP_COUNTS - 1)
    assert torch.equal(said(1000.0), said(most)) and torch.equal(said(-3.0), said(0.0)) and torch.equal(said(4.6), said(5.0))
    assert not torch.equal(said(most), said(most - 1)) and not torch.equal(said(0.0), said(1.0))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2])
def test_actions_are_said_in_the_units_of_the_environment(size: int) -> None:
    model = toys.stem_model(seed=1)
    frames, goals = problems(model, 3, 1)
    given = frames, torch.zeros(3, 0, 2), goals, torch.tensor([1.0, 17.0, 40.0])
    units = ActionUnits((256.0, 10.0)[:size], (128.0, 4.0)[:size])
    mean, spread = Acting(model, toys.tokenizer()).propose(*given)
    said, unsure = Acting(model, toys.tokenizer(), units).propose(*given)
    center, scale = (torch.tensor(each * (2 // size)) for each in (units.center, units.scale))
    torch.testing.assert_close(said, mean * scale + center)
    torch.testing.assert_close(unsure, spread * scale)
