"""Feed-forward layers: dispatch against a loop over experts, routing, balance, load, and the split by modality."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.dispatch import GroupedBackend, Slots, dispatch, grouped_product, supports_grouped
from worldmodel.errors import UserError
from worldmodel.moe import (
    MixtureOfExperts,
    ModalityFeedForward,
    MoEConfig,
    SharedExperts,
    SharedFeedForward,
    SwiGLU,
    TokenGroups,
)

WIDTH = 16
BACKENDS = get_args(GroupedBackend)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (x @ gate_up).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down


def by_loop(x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert on every token, weighted by the gates of the slots that chose it."""
    weights = [(gates * (experts == e)).sum(-1, keepdim=True) for e in range(len(gate_up))]
    return sum((w * swiglu(x, gate_up[e], down[e]) for e, w in enumerate(weights)), torch.zeros_like(x))


def drawn(tokens: int, experts: int, top_k: int, width: int = WIDTH, hidden: int = 8) -> tuple[list[Tensor], Tensor]:
    """Tokens, gates and both stacks, with gradients; and the experts of every token."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(tokens, experts, generator=generator).topk(top_k).indices
    shapes = [(tokens, width), (tokens, top_k), (experts, width, 2 * hidden), (experts, hidden, width)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes], chosen


def groups_of(visual: list[int] | Tensor, counted: list[int] | Tensor | None = None) -> TokenGroups:
    return TokenGroups.of(torch.as_tensor(visual).bool(), None if counted is None else torch.as_tensor(counted).bool())


def layer(top_k: int = 2, experts: int = 8, **settings: object) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(WIDTH, MoEConfig(experts, top_k, 8, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["grouped", "loop"])
@pytest.mark.parametrize("choice", ["even", "unused", "one"])
def test_dispatch_equals_a_loop_with_gradients(backend: GroupedBackend, choice: str) -> None:
    (x, gates, gate_up, down), experts = drawn(20, 5, 3)
    if choice == "unused":
        experts = experts % 3  # experts 3 and 4 get no token, some get one token twice
    if choice == "one":
        experts = torch.full_like(experts, 4)  # nothing is dropped, however uneven the load
    expected = by_loop(x, gates, experts, gate_up, down)
    out = dispatch(x, Slots.of(experts, 5), gate_up, down, gates, backend)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-5)
    weight, leaves = torch.randn(20, WIDTH), (x, gates, gate_up, down)
    mine = torch.autograd.grad((out * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_rows_that_the_grouped_product_cannot_take_are_looped_or_refused() -> None:
    (x, gates, gate_up, down), experts = drawn(20, 5, 3, width=18, hidden=7)
    slots = Slots.of(experts, 5)
    assert not supports_grouped(x, gate_up)
    torch.testing.assert_close(dispatch(x, slots, gate_up, down, gates), by_loop(x, gates, experts, gate_up, down))
    with pytest.raises(UserError, match=r"no grouped product for torch.float32 of sizes \(18, 14\) on cpu.*backend auto or loop"):
        dispatch(x, slots, gate_up, down, gates, "grouped")


def test_slots_are_sorted_by_group_and_stay_in_order_within_it() -> None:
    slots = Slots.of(torch.tensor([[3, 0], [0, 3], [1, 0]]), 5)
    assert slots.order.tolist() == [1, 2, 5, 4, 0, 3]
    assert slots.ends.tolist() == [3, 4, 4, 6, 6]
    assert torch.equal(slots.order[slots.inverse], torch.arange(6))
    assert Slots.of(torch.zeros(0, 2, dtype=torch.long), 3).ends.tolist() == [0, 0, 0]


def test_gradients_repeat_bit_for_bit_on_several_threads() -> None:
    (x, gates, gate_up, down), experts = drawn(3000, 8, 4, width=64)
    slots, threads = Slots.of(experts, 8), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(dispatch(x, slots, gate_up, down, gates).sum(), x)[0] for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(runs[0], run) for run in runs[1:])


def test_under_autocast_the_experts_work_in_bfloat16_and_the_router_in_float32() -> None:
    mixture, x, groups = layer(), torch.randn(12, WIDTH), groups_of([0, 1] * 6)
    out, loss = mixture(x, groups)
    with torch.autocast("cpu", torch.bfloat16):
        half, half_loss = mixture(x, groups)
        gates, experts, logits = mixture.route(x)
    assert half.dtype == torch.bfloat16 and gates.dtype == logits.dtype == half_loss.dtype == torch.float32
    assert torch.equal(half_loss, loss) and torch.equal(experts, mixture.route(x)[1])
    torch.testing.assert_close(half.float(), out, atol=0.1, rtol=0.05)


def test_a_mixture_of_one_expert_is_a_swiglu() -> None:
    mixture, x = layer(top_k=1, experts=1, shared="none", router_z_loss=0.0), torch.randn(10, WIDTH)
    dense = SwiGLU(WIDTH, 8)
    with torch.no_grad():
        dense.gate_up.weight.copy_(mixture.gate_up[0].T)
        dense.down.weight.copy_(mixture.down[0].T)
    out, loss = mixture(x, groups_of([0] * 10))
    torch.testing.assert_close(out, dense(x))
    assert loss == 0


def test_gates_are_the_chosen_experts_shares() -> None:
    mixture, x = layer(), torch.randn(10, WIDTH)
    gates, experts, logits = mixture.route(x)
    torch.testing.assert_close(gates.sum(-1), torch.ones(10))
    scores = logits.softmax(-1)
    assert torch.equal(experts, scores.topk(2).indices)
    chosen = scores.gather(1, experts)
    torch.testing.assert_close(gates[:, 0] / gates[:, 1], chosen[:, 0] / chosen[:, 1])


def test_the_bias_takes_part_in_the_choice_but_not_in_the_gate() -> None:
    mixture, x = layer(), torch.randn(10, WIDTH)
    mixture.balance_bias[5] = 100.0
    gates, experts, logits = mixture.route(x)
    assert (experts[:, 0] == 5).all()
    scores = logits.softmax(-1).gather(1, experts)
    torch.testing.assert_close(gates, scores / scores.sum(-1, keepdim=True))


@pytest.mark.parametrize("experts", [8, 64])
def test_balance_updates_even_out_the_load(experts: int) -> None:
    mixture = layer(experts=experts, balance_rate=0.1).train()
    x = torch.randn(2048, WIDTH, generator=torch.Generator().manual_seed(0))
    x += 3 * mixture.router.weight[0].detach()  # the first expert suits most tokens
    groups = groups_of([0] * 2048)

    def imbalance() -> float:
        mixture.load.zero_()
        mixture(x, groups)
        load = mixture.load.sum(0)
        return float(load.max() / load.mean())

    before = imbalance()
    for _ in range(150):
        mixture(x, groups)
        mixture.update_balance()
    assert before > 2.0
    assert imbalance() < 1.35


def test_balance_goes_by_the_load_of_all_processes_where_it_is_given() -> None:
    mixture = layer(balance_rate=0.5)
    total = torch.zeros(2, 8)
    total[0, 1], total[1, 2], total[:, 3] = 30, 10, 20
    mixture.load[0, 0] = 1000  # this process' own does not decide
    mixture.update_balance(total)
    assert mixture.balance_bias.tolist() == [0.5, -0.5, 0, -0.5, 0.5, 0.5, 0.5, 0.5]  # the mean is 10
    assert mixture.share.tolist() == pytest.approx([0, 3 / 8, 1 / 8, 1 / 2, 0, 0, 0, 0])
    assert mixture.load.sum() == 0
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    mixture.update_balance()  # nothing was counted
    assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())


def test_load_is_counted_by_modality_without_padding() -> None:
    mixture = layer(experts=4, top_k=1, shared="none").train()
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[range(4), range(4)] = 1.0
    x = 5 * F.one_hot(torch.tensor([0, 0, 1, 3, 3, 3, 2]), WIDTH).float()
    groups = groups_of([1, 1, 0, 1, 0, 0, 0], counted=[1, 1, 1, 1, 1, 1, 0])
    mixture(x, groups)
    assert mixture.load.tolist() == [[2, 0, 0, 1], [0, 1, 0, 2]]
    mixture(x, groups)
    assert mixture.load.sum() == 12
    mixture.eval()(x, groups)
    assert mixture.load.sum() == 12  # only training counts


def test_padding_is_computed_but_has_no_part_in_the_losses() -> None:
    mixture, x = layer(balance_loss=0.1), torch.randn(6, WIDTH)
    out, loss = mixture(x, groups_of([0, 1] * 3, counted=[1, 1, 1, 1, 0, 0]))
    changed = torch.cat([x[:4], 10 * x[4:]])
    other, same_loss = mixture(changed, groups_of([0, 1] * 3, counted=[1, 1, 1, 1, 0, 0]))
    assert torch.equal(loss, same_loss) and loss > 0
    assert torch.equal(out[:4], other[:4]) and not torch.allclose(out[4:], other[4:])
    assert mixture(x, groups_of([0, 1] * 3, counted=[0] * 6))[1] == 0


def test_losses_add_up_over_parts_of_the_tokens() -> None:
    mixture, x, visual = layer(balance_loss=0.1), torch.randn(9, WIDTH), torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 0])
    mixture.update_balance(torch.rand(2, 8))  # shares of some earlier step
    counted = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, 0])
    whole, loss = mixture(x, groups_of(visual, counted))
    parts = [mixture(x[a:b], groups_of(visual[a:b], counted[a:b])) for a, b in ((0, 4), (4, 9))]
    torch.testing.assert_close(loss, parts[0][1] + parts[1][1])
    torch.testing.assert_close(whole, torch.cat([parts[0][0], parts[1][0]]))
    _, _, logits = mixture.route(x)
    z = mixture.config.router_z_loss * logits.logsumexp(-1).square()
    balance = 0.1 * 8 * logits.softmax(-1) @ mixture.share
    torch.testing.assert_close(loss, ((z + balance) * counted).sum())


def test_the_balancing_loss_lowers_the_scores_of_experts_in_demand() -> None:
    mixture, x = layer(balance_loss=1.0, router_z_loss=0.0), torch.randn(64, WIDTH)
    load = torch.ones(2, 8)
    load[:, 2] = 50
    mixture.update_balance(load)
    _, loss = mixture(x, groups_of([0] * 64))
    loss.backward()
    before = mixture.route(x)[2].softmax(-1).mean(0)
    with torch.no_grad():
        mixture.router.weight -= 0.01 * mixture.router.weight.grad  # type: ignore[operator]
    after = mixture.route(x)[2].softmax(-1).mean(0)
    assert after[2] < before[2]


@pytest.mark.parametrize("shared", get_args(SharedExperts))
def test_always_on_experts_are_added_to_the_routed_ones(shared: SharedExperts) -> None:
    mixture, x, visual = layer(shared=shared), torch.randn(5, WIDTH), torch.tensor([0, 1, 0, 1, 1])
    count = {"none": 0, "global": 1, "modality": 2}[shared]
    assert len(mixture.gate_up) == len(mixture.down) == 8 + count
    out, _ = mixture(x, groups_of(visual))
    gates, experts, _ = mixture.route(x)
    expected = by_loop(x, gates, experts, mixture.gate_up, mixture.down)
    if shared != "none":
        always = [swiglu(x, mixture.gate_up[8 + i], mixture.down[8 + i]) for i in range(count)]
        expected = expected + torch.where(visual.bool()[:, None], always[0], always[-1])
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("visual", [[0, 1, 0, 1, 1], [0] * 5, [1] * 5])
def test_modalities_have_their_own_networks(visual: list[int]) -> None:
    torch.manual_seed(0)
    x, split = torch.randn(5, WIDTH), ModalityFeedForward(WIDTH, 24)
    out, loss = split(x, groups_of(visual))
    seen, other = (swiglu(x, split.gate_up[i], split.down[i]) for i in range(2))
    torch.testing.assert_close(out, torch.where(torch.tensor(visual).bool()[:, None], seen, other))
    assert loss == 0


def test_a_shared_layer_ignores_the_modality() -> None:
    shared, x = SharedFeedForward(WIDTH, 24), torch.randn(5, WIDTH)
    a, b = (shared(x, groups_of([flag] * 5))[0] for flag in (0, 1))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["shared", "modality", "moe"])
def test_layers_keep_the_scale_of_what_they_are_given(kind: str) -> None:
    torch.manual_seed(0)
    layers = {"shared": SharedFeedForward(64, 128), "modality": ModalityFeedForward(64, 128)}
    network: nn.Module = layers.get(kind) or MixtureOfExperts(64, MoEConfig(8, 1, 128, shared="none"))
    for name, parameter in network.named_parameters():
        fan_in = parameter.shape[-2] if parameter.ndim == 3 else parameter.shape[1]
        if kind != "shared" and "router" not in name:  # the trunk sets those of linear layers
            assert parameter.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)


@pytest.mark.parametrize("kind", ["modality", *BACKENDS])
def test_a_compiled_layer_equals_the_eager_one_with_gradients(kind: str) -> None:
    torch.manual_seed(0)
    config = MoEConfig(6, 2, 8, balance_loss=0.1, backend="auto" if kind == "modality" else kind)  # type: ignore[arg-type]
    network = ModalityFeedForward(WIDTH, 24) if kind == "modality" else MixtureOfExperts(WIDTH, config).train()
    x, groups = torch.randn(30, WIDTH, requires_grad=True), groups_of(torch.rand(30) < 0.5, torch.rand(30) < 0.8)
    torch.compiler.reset()
    results = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        out, loss = run(x, groups)
        gradients = torch.autograd.grad(out.sin().sum() + loss, [x, *network.parameters()])
        loads = [buffer.clone() for name, buffer in network.named_buffers() if name == "load"]
        results.append([out, loss, *gradients, *loads])
        if loads:
            assert isinstance(network, MixtureOfExperts)
            network.load.zero_()
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_granularity_decides_the_width_of_experts() -> None:
    assert MoEConfig(granularity=16).hidden_for(2048) == 512
    assert MoEConfig(granularity=1).hidden_for(2048) == 8192
    assert MoEConfig(expert_hidden=40).hidden_for(2048) == 40
    assert MixtureOfExperts(WIDTH, MoEConfig(4, 2, granularity=4)).down.shape == (6, 16, WIDTH)
    for granularity in (16.0, 3.0):  # 4, and no integer
        with pytest.raises(UserError, match=rf"granularity {granularity:g} at width 16 gives experts .* multiple of 8"):
            MixtureOfExperts(WIDTH, MoEConfig(4, 2, granularity=granularity))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("top_k", 5, "top_k must lie in 1..num_experts=4, got 5"),
        ("expert_hidden", 0, "expert_hidden is 0, must be at least 1"),
        ("granularity", 0.0, "granularity is 0.0, must be positive"),
        ("balance_loss", -1.0, "balance_loss is -1.0, must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(MoEConfig(4, 2), **{field: value})  # type: ignore[arg-type]


def test_a_single_product_of_runs() -> None:
    rows, weights, ends = torch.randn(7, 8), torch.randn(3, 8, 4), torch.tensor([2, 2, 7], dtype=torch.int32)
    expected = torch.cat([rows[:2] @ weights[0], rows[2:] @ weights[2]])
    for backend in BACKENDS:
        torch.testing.assert_close(grouped_product(rows, weights, ends, backend), expected)


def test_the_router_of_a_single_expert_learns_from_what_it_does() -> None:
    torch.manual_seed(0)
    config = MoEConfig(4, 1, 16, shared="none", router_z_loss=0.0)
    mixture, x, groups = MixtureOfExperts(WIDTH, config), torch.randn(12, WIDTH), groups_of([0, 1] * 6)
    gates, experts, logits = mixture.route(x)
    torch.testing.assert_close(gates, logits.softmax(-1).gather(-1, experts))
    out, _ = mixture(x, groups)
    out.square().sum().backward()
    assert mixture.router.weight.grad is not None and mixture.router.weight.grad.abs().max() > 1e-3
    two, _, _ = MixtureOfExperts(WIDTH, MoEConfig(4, 2, 16)).route(x)
    torch.testing.assert_close(two.sum(-1), torch.ones(12))
