"""What the model says of the way to a goal: actions and the number of steps, and how both are weighed in the loss."""

import numpy as np
import pytest
import torch

from tests.worldmodel import toys
from worldmodel.datasets.mixture.documents import NextActions, goal_document, text_document
from worldmodel.errors import UserError
from worldmodel.losses import NoiseSample
from worldmodel.model import SPREAD_RANGE


@torch.no_grad()
def test_the_error_of_said_actions_is_that_of_the_known_numbers() -> None:
    """By hand: the model says mean 0.5 and spread exp(-1) everywhere; of 3 x 2 numbers four are known."""
    model = toys.model(action_horizon=4)
    model.action_out.weight.zero_()
    model.action_out.bias.copy_(torch.tensor([0.5] * 8 + [-1.0] * 8))
    answers = np.array([[0.5, 1.5], [-0.5, 0.25], [9, 9]], np.float32)
    document = goal_document(toys.picture(np.random.default_rng(0)), "a red disc", 2, NextActions(answers, 4))
    batch = toys.pack([document])
    square, surprise = model.action_error(batch, torch.randn(96, 32))
    assert square.item() == pytest.approx(0 + 1 + 1 + 0.0625)
    assert surprise.item() == pytest.approx(0.5 * 2.0625 * np.exp(2) + 4 * -1)
    assert batch.known_numbers == 4
    short = toys.model(action_horizon=1)  # says fewer model steps than are asked for
    short.action_out.weight.zero_()
    short.action_out.bias.zero_()
    assert short.action_error(batch, torch.randn(96, 32))[0].item() == pytest.approx(0.25 + 2.25)


@torch.no_grad()
def test_a_number_of_steps_counts_as_several_words() -> None:
    """By hand: of two goals and a text only the two numbers of steps count more, as often as they are weighted."""
    rng, tokenizer = np.random.default_rng(0), toys.tokenizer()
    answers = NextActions(np.zeros((3, 2), np.float32), 6)
    picture, other = toys.picture(rng), toys.picture(rng)
    documents = [
        goal_document(picture, "a red disc", 2, answers),
        goal_document(picture, other, 5, answers),
        text_document("a red disc"),
    ]
    batch, plain, weighed = toys.pack(documents), toys.model(), toys.model(steps_weight=4.0)
    z, noise_sample = (
        toys.random_latents(len(batch.frames)),
        NoiseSample(torch.ones(len(batch.frames)), toys.random_latents(len(batch.frames), 1)),
    )
    hidden, _ = plain(batch, plain.see(z, noise_sample.t), noise_sample.t)
    chances = plain.logits(hidden.flatten(0, 1)).log_softmax(-1)
    numbers = (batch.token_id.flatten() == tokenizer.steps_id + 2) | (batch.token_id.flatten() == tokenizer.steps_id + 5)
    at = numbers.nonzero()[:, 0] - 1
    expected = -chances[at, batch.token_id.flatten()[at + 1]].sum()
    assert len(at) == 2
    torch.testing.assert_close(plain.steps_loss(batch, hidden.flatten(0, 1)), expected)
    (before, parts), (after, same) = (model.loss(batch, z, noise_sample) for model in (plain, weighed))
    torch.testing.assert_close(after - before, plain.config.text_weight * 3 * expected / len(batch.predicted_positions))
    assert parts["text"] == same["text"], "what is told stays the mean over all words"
    with pytest.raises(UserError, match="steps_weight is -1"):
        toys.model(steps_weight=-1.0)


def test_no_action_is_said_so_surely_that_one_mistake_outweighs_a_batch() -> None:
    model = toys.model()
    with torch.no_grad():
        model.action_out.bias.fill_(-100.0)
        mean, spread = model.next_actions(torch.zeros(3, model.config.trunk.width))
    assert (mean == -100).all() and (spread == SPREAD_RANGE[0]).all()
    assert 0.5 * torch.exp(-2 * spread).max() < 30  # the weight of a squared error in the likelihood
