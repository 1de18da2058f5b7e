"""The joint loss's weights: fixed, or following the losses."""

import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.errors import UserError
from worldmodel.losses import LossCounts, centered_weights, moving_average, readable
from worldmodel.model import WorldModel


def loss_of(model: WorldModel) -> tuple[Tensor, dict[str, Tensor]]:
    batch = toys.packer().batch(0)
    draw = model.draw(batch.clean, torch.Generator().manual_seed(0))
    return model.loss(batch, toys.random_latents(len(batch.frames)), draw)


def test_centered_weights_bring_both_losses_to_one_size() -> None:
    average = torch.tensor([6.0, 0.5])
    assert (centered_weights(average, 0.5) * average).tolist() == pytest.approx([3.25, 3.25])
    assert (centered_weights(average, 1.0) * average).tolist() == pytest.approx([0.5, 0.5])


def test_averages_begin_with_what_comes_first() -> None:
    average = moving_average(torch.zeros(2), (4.0, None), 0.9)
    assert average.tolist() == [4.0, 0.0]
    average = moving_average(average, (torch.tensor(2.0), 1.0), 0.9)
    assert average.tolist() == pytest.approx([3.8, 1.0])


def test_loss_centering_starts_fixed_and_then_follows_the_steps_before() -> None:
    model = toys.model(loss_balance="centered", balance_alpha=0.25, balance_decay=0.5)
    first, parts = loss_of(model)
    torch.testing.assert_close(first, parts["text"] + 3 * parts["flow"])
    for text, flow in ((4.0, 2.0), (2.0, None)):
        model.update_loss_balance(text, None if flow is None else torch.tensor(flow))
    assert model.loss_average.tolist() == [3.0, 2.0]
    loss, again = loss_of(model)
    centre = 0.75 * 3.0 + 0.25 * 2.0
    torch.testing.assert_close(loss, centre / 3.0 * again["text"] + centre / 2.0 * again["flow"])
    assert torch.equal(again["flow"], parts["flow"])  # what is reported has no weight
    assert "loss_average" in model.state_dict()  # a run that is continued goes on with it


def test_fixed_weights_follow_nothing() -> None:
    model = toys.model()
    before, _ = loss_of(model)
    model.update_loss_balance(1.0, 100.0)
    assert torch.equal(loss_of(model)[0], before)
    assert "loss_average" not in model.state_dict()
    with pytest.raises(UserError, match=r"balance_alpha is 2\.0"):
        toys.model_config(balance_alpha=2.0)


def test_counts_and_readable_parts() -> None:
    assert LossCounts(1, 2, 3) + LossCounts(10, 20, 30) == LossCounts(11, 22, 33)
    assert readable({"flow": 2.0, "flow_high_noise": 0.6, "high_noise": 0.2}) == pytest.approx({"flow": 2.0, "flow_high_noise": 3.0})
    assert readable({"flow": 2.0, "flow_high_noise": 0.0, "high_noise": 0.0}) == {"flow": 2.0}
