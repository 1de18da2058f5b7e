"""Mixture of experts: dispatch against a loop over experts, balance, and the split by modality."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import moe
from worldmodel.moe import MixtureOfExperts, ModalityFeedForward, MoEConfig, SharedFeedForward, TokenGroups


def by_loop(x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert on every token, kept where it was chosen."""
    out = torch.zeros_like(x)
    for e in range(len(gate_up)):
        gate, up = (x @ gate_up[e]).chunk(2, dim=-1)
        weight = (gates * (experts == e)).sum(-1, keepdim=True)
        out = out + weight * ((F.silu(gate) * up) @ down[e])
    return out


def slots(tokens: int, experts: int, top_k: int, width: int = 16, hidden: int = 8) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(tokens, experts, generator=generator).topk(top_k).indices
    shapes = [(tokens, width), (tokens, top_k), (experts, width, 2 * hidden), (experts, hidden, width)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes], chosen


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("unused", [False, True])
def test_dispatch_equals_a_loop_with_gradients(grouped: bool, unused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (x, gates, gate_up, down), experts = slots(20, 5, 3)
    if unused:
        experts = experts % 3  # experts 3 and 4 get no token, some get one token twice
    assert moe.supports_grouped(x, gate_up)
    monkeypatch.setattr(moe, "supports_grouped", lambda rows, weights: grouped)
    if unused:
        expected = sum(by_loop(x, gates[:, i : i + 1], experts[:, i : i + 1], gate_up, down) for i in range(3))
    else:
        expected = by_loop(x, gates, experts, gate_up, down)
    out = moe.dispatch(x, gates, experts, gate_up, down)
    torch.testing.assert_close(out, expected)
    weight, leaves = torch.randn(20, 16), (x, gates, gate_up, down)
    mine = torch.autograd.grad((out * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_rows_that_the_grouped_product_cannot_take_are_looped() -> None:
    (x, gates, gate_up, down), experts = slots(20, 5, 3, width=18, hidden=7)
    assert not moe.supports_grouped(x, gate_up)
    torch.testing.assert_close(moe.dispatch(x, gates, experts, gate_up, down), by_loop(x, gates, experts, gate_up, down))


def test_gradients_repeat_bit_for_bit_on_several_threads() -> None:
    (x, gates, gate_up, down), experts = slots(3000, 8, 4, width=64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(moe.dispatch(x, gates, experts, gate_up, down).sum(), x)[0] for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(runs[0], run) for run in runs[1:])


def layer(num_experts: int = 8, top_k: int = 2, balance_rate: float = 1e-2) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(16, MoEConfig(num_experts, top_k, 8, balance_rate))


def test_gates_are_the_chosen_experts_shares() -> None:
    mixture, x = layer(), torch.randn(10, 16)
    gates, experts, logits = mixture.route(x)
    torch.testing.assert_close(gates.sum(-1), torch.ones(10))
    scores = logits.softmax(-1)
    assert torch.equal(experts, scores.topk(2).indices)
    torch.testing.assert_close(gates[:, 0] / gates[:, 1], (scores.gather(1, experts)[:, 0] / scores.gather(1, experts)[:, 1]))


def test_the_bias_takes_part_in_the_choice_but_not_in_the_gate() -> None:
    mixture, x = layer(), torch.randn(10, 16)
    mixture.balance_bias[5] = 10.0
    gates, experts, logits = mixture.route(x)
    assert (experts[:, 0] == 5).all()
    scores = logits.softmax(-1).gather(1, experts)
    torch.testing.assert_close(gates, scores / scores.sum(-1, keepdim=True))


def test_balance_updates_even_out_the_load() -> None:
    mixture = layer().train()
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    x += 3 * mixture.router.weight[0].detach()  # the first expert suits most tokens
    groups = TokenGroups.of(torch.zeros(512, dtype=torch.bool))

    def imbalance() -> float:
        mixture.load.zero_()
        mixture(x, groups)
        return float(mixture.load.max() / mixture.load.mean())

    before = imbalance()
    for _ in range(100):
        mixture(x, groups)
        mixture.update_balance()
    assert before > 2.0
    assert imbalance() < 1.25


def test_only_training_counts_load() -> None:
    mixture, x, groups = layer(), torch.randn(6, 16), TokenGroups.of(torch.zeros(6, dtype=torch.bool))
    mixture.eval()(x, groups)
    assert mixture.load.sum() == 0
    mixture.update_balance()
    assert (mixture.balance_bias == 0).all()
    mixture.train()(x, groups)
    assert mixture.load.sum() == 12


@pytest.mark.parametrize("visual", [[0, 1, 0, 1, 1], [0] * 5, [1] * 5])
def test_modalities_have_their_own_networks(visual: list[int]) -> None:
    torch.manual_seed(0)
    is_visual, x = torch.tensor(visual, dtype=torch.bool), torch.randn(5, 16)
    split = ModalityFeedForward(16, 24)
    out, _ = split(x, TokenGroups.of(is_visual))
    torch.testing.assert_close(out, torch.where(is_visual[:, None], split.visual(x), split.other(x)))
    mixture = layer()
    out, _ = mixture(x, TokenGroups.of(is_visual))
    always = torch.where(is_visual[:, None], mixture.visual(x), mixture.other(x))
    gates, experts, _ = mixture.route(x)
    torch.testing.assert_close(out, always + by_loop(x, gates, experts, mixture.gate_up, mixture.down))


def test_a_shared_layer_ignores_the_modality() -> None:
    shared, x = SharedFeedForward(16, 24), torch.randn(5, 16)
    a, b = (shared(x, TokenGroups.of(torch.full((5,), flag)))[0] for flag in (True, False))
    assert torch.equal(a, b)


def test_the_router_loss_grows_with_its_logits() -> None:
    mixture, x, groups = layer(), torch.randn(6, 16), TokenGroups.of(torch.zeros(6, dtype=torch.bool))
    _, _, logits = mixture.route(x)
    _, loss = mixture(x, groups)
    torch.testing.assert_close(loss, mixture.config.router_z_loss * logits.logsumexp(-1).square().mean())


def test_top_k_beyond_the_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k must lie in 1..num_experts=4, got 5"):
        MoEConfig(num_experts=4, top_k=5)
