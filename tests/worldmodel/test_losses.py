"""The joint loss's weights, fixed or following the losses; the text loss, piece by piece."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.worldmodel import toys
from worldmodel.errors import UserError
from worldmodel.losses import LossCounts, centered_weights, moving_average, readable, text_loss
from worldmodel.model import WorldModel


def loss_of(model: WorldModel) -> tuple[Tensor, dict[str, Tensor]]:
    batch = toys.packer().batch(0)
    noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(0))
    return model.loss(batch, toys.random_latents(len(batch.frames)), noise_sample)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        return made


def text_problem(k: int = 50, v: int = 300, d: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the text head's weight, and targets."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, d, generator=generator).requires_grad_() for n in (k, v))
    return hidden, weight, torch.randint(v, (k,), generator=generator)


@pytest.mark.parametrize("positions", [1, 7, 25, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_text_loss_in_pieces_is_that_of_all_logits(positions: int, dtype: torch.dtype) -> None:
    hidden, weight, targets = text_problem()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        found = text_loss(hidden, weight, targets, positions * len(weight))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    for gradient, reference in zip(*(torch.autograd.grad(-0.3 * x, (hidden, weight)) for x in (found, expected)), strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).norm() <= (1e-5 if dtype == torch.float32 else 0.02) * reference.norm()


def test_the_text_loss_of_nothing_is_zero_and_has_gradients() -> None:
    hidden, weight, targets = text_problem(k=0)
    loss = text_loss(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0 and weight.grad is not None and not weight.grad.any() and hidden.grad is not None


def test_the_text_loss_never_has_all_logits() -> None:
    hidden, weight, targets = text_problem(k=400)
    with Largest() as largest:
        text_loss(hidden, weight, targets, 30 * len(weight)).backward()
    assert largest.numbers == 30 * len(weight) < 400 * len(weight) / 10
    with Largest() as largest, torch.no_grad():
        text_loss(hidden, weight, targets, 0)
    assert largest.numbers < hidden.numel(), "without a gradient nothing is kept for it"


def test_weights_below_zero_are_refused() -> None:
    with pytest.raises(UserError, match=r"text_weight is 1\.0 and flow_weight -3\.0: neither may be negative, nor both 0"):
        toys.model_config(flow_weight=-3.0)


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
