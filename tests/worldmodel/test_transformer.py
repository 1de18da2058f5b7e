"""The trunk: its scale at the start, its kinds of feed-forward, and growing a sequence segment by segment."""

import copy
import functools
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel import toys
from worldmodel.attention import hybrid_mask, prepare_mask
from worldmodel.compilation import compile_blocks
from worldmodel.kv_cache import CachedContext, KVCache
from worldmodel.moe import FeedForwardKind, MixtureOfExperts, TokenGroups
from worldmodel.transformer import Modulation, Trunk, TrunkConfig

KINDS: list[FeedForwardKind] = ["shared", "modality", "moe"]


def trunk(kind: FeedForwardKind = "modality", depth: int = 2) -> Trunk:
    torch.manual_seed(0)
    return Trunk(replace(toys.model_config(kind).trunk, depth=depth)).eval()


def sequence(b: int = 2, n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embedded tokens, places and frames; positions 4 .. 7 are one frame."""
    x = torch.randn(b, n, 32, generator=torch.Generator().manual_seed(1))
    places = torch.arange(n)[None, :, None] * torch.tensor([1, 0, 0])
    frame = torch.full((b, n), -1)
    frame[:, 4:8] = 0
    return x, places.expand(b, n, 3), frame


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_grows_piece_by_piece(kind: FeedForwardKind) -> None:
    model, (x, places, frame) = trunk(kind), sequence()
    document = torch.zeros_like(frame)
    expected, _ = model(x, places, prepare_mask(document, frame, "softmax"), TokenGroups.of(frame >= 0))
    cache, outputs = KVCache(depth=2, capacity=12), []
    for begin, end in ((0, 4), (4, 8), (8, 9), (9, 12)):
        mask = hybrid_mask(document[:, begin:end], frame[:, begin:end])
        groups = TokenGroups.of(frame[:, begin:end] >= 0)
        hidden, _ = model(x[:, begin:end], places[:, begin:end], CachedContext(cache, mask), groups)
        cache.commit(torch.ones(2, end - begin, dtype=torch.bool))
        outputs.append(hidden)
    torch.testing.assert_close(torch.cat(outputs, 1), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_only_experts_have_an_auxiliary_loss(kind: FeedForwardKind) -> None:
    x, places, frame = sequence()
    mask = prepare_mask(torch.zeros_like(frame), frame)
    _, auxiliary = trunk(kind)(x, places, mask, TokenGroups.of(frame >= 0))
    assert (auxiliary.item() > 0) == (kind == "moe")


def test_depth_does_not_change_the_scale_at_the_start() -> None:
    x, places, frame = sequence(b=4)
    mask, groups = prepare_mask(torch.zeros_like(frame), frame), TokenGroups.of(frame >= 0)
    scales = []
    for depth in (2, 16):
        model = trunk(depth=depth)
        model.norm = torch.nn.Identity()
        scales.append(model(x, places, mask, groups)[0].std().item())
    assert scales[1] == pytest.approx(scales[0], rel=0.15)


def test_balance_is_updated_in_all_blocks() -> None:
    model, (x, places, frame) = trunk("moe").train(), sequence()
    model(x, places, prepare_mask(torch.zeros_like(frame), frame), TokenGroups.of(frame >= 0))
    loads = model.loads()
    assert loads.shape == (2, 2, 6) and (loads.sum(-1) == torch.tensor([2 * 4 * 3.0, 2 * 8 * 3.0])).all()  # 3 experts for each token
    model.update_balance()
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    assert len(layers) == 2
    for layer in layers:
        assert layer.balance_bias.abs().sum() > 0 and layer.load.sum() == 0


def test_balance_follows_the_loads_of_all_processes() -> None:
    model = trunk("moe")
    loads = torch.zeros(2, 2, 6)
    loads[0, 0, 0], loads[1, 1, 5] = 10.0, 30.0
    model.update_balance(loads)
    for layer, busiest in zip(model.experts, (0, 5), strict=True):
        assert layer.balance_bias.argmin() == busiest and layer.balance_bias[1] > 0
    assert trunk("shared").loads().shape == (0, 2, 0)
    trunk("shared").update_balance(torch.zeros(0, 2, 0))


def modulated(flow: Tensor) -> tuple[Trunk, tuple[Tensor, ...]]:
    """A modulated trunk, and what it is called with: frames at positions 4 .. 7 and 9 .. 10 of the first row, 1 .. 3 of the second."""
    torch.manual_seed(0)
    model = Trunk(toys.model_config("shared").trunk, modulated=True)
    x, places, frame = sequence()
    frame[:] = -1
    frame[0, 4:8], frame[0, 9:11], frame[1, 1:4] = 0, 1, 2
    return model, (x, places, frame, flow)


def run(model: Trunk, inputs: tuple[Tensor, ...]) -> Tensor:
    x, places, frame, flow = inputs
    mask = prepare_mask(torch.zeros_like(frame), frame, "softmax")
    hidden: Tensor = model(x, places, mask, TokenGroups.of(frame >= 0), modulation=Modulation.of(flow, frame, 5))[0]
    return hidden


def written_out(model: Trunk, inputs: tuple[Tensor, ...]) -> Tensor:
    """The same with shift, scale and gate of every token, as the formula reads."""
    x, places, frame, flow = inputs
    mask, groups = prepare_mask(torch.zeros_like(frame), frame, "softmax"), TokenGroups.of(frame >= 0)
    seen: list[tuple[Tensor, ...]] = []
    hook = model.blocks[0].attention.register_forward_pre_hook(lambda module, args: seen.append(args))
    model(x, places, mask, groups, modulation=Modulation.of(flow, frame, 3))
    hook.remove()
    rotary = seen[0][1]
    for block in model.blocks:
        values = (flow + block.modulation.view(6, -1))[frame.clamp_min(0)]  # (b, n, 6, d)
        visual = (frame >= 0)[..., None]
        shift, scale, gate, shift_2, scale_2, gate_2 = values.unbind(2)
        y = block.attention_norm(x)
        y = block.attention(torch.where(visual, y * (1 + scale) + shift, y), rotary, mask)
        x = x + torch.where(visual, gate * y, y)
        y = block.feed_forward_norm(x)
        y = block.feed_forward(torch.where(visual, y * (1 + scale_2) + shift_2, y).flatten(0, 1), groups)[0].view_as(x)
        x = x + torch.where(visual, gate_2 * y, y)
    return model.norm(x)


def flow_of_frames() -> Tensor:
    return torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()


def test_modulation_by_rows_is_that_of_every_token() -> None:
    model, inputs = modulated(flow_of_frames())
    found, expected = run(model, inputs), written_out(model, inputs)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    wanted = {**dict(model.named_parameters()), "flow": inputs[3]}
    gradients = [torch.autograd.grad((x * weight).sum(), list(wanted.values())) for x in (found, expected)]
    for name, ours, reference in zip(wanted, *gradients, strict=True):
        assert reference.abs().sum() > 0, name
        torch.testing.assert_close(ours, reference, msg=name, atol=1e-4, rtol=1e-4)


def test_modulation_leaves_other_tokens_as_they_are() -> None:
    """A neutral row changes not one bit: without frames a modulated trunk is a plain one."""
    model, (x, places, frame, flow) = modulated(flow_of_frames())
    frame[:] = -1
    plain = Trunk(model.config)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "modulation" not in name})
    mask = prepare_mask(torch.zeros_like(frame), frame, "softmax")
    assert torch.equal(run(model, (x, places, frame, flow)), plain(x, places, mask, TokenGroups.of(frame >= 0))[0])


def test_modulation_keeps_no_more_than_four_tensors_of_the_tokens_size_per_block() -> None:
    """For the gradient: the two normed inputs and the two updates that are scaled; six vectors of every token would be twice that."""
    trunk = TrunkConfig(width=32, depth=3, heads=4, kv_heads=2, hidden=64, feed_forward="shared")
    x = torch.randn(2, 64, 32)
    frame = torch.arange(128).view(2, 64) // 16
    places, mask = torch.zeros(2, 64, 3, dtype=torch.long), prepare_mask(torch.zeros_like(frame), frame, "softmax")
    kept = []
    for is_modulated in (False, True):
        model, storages = Trunk(trunk, is_modulated), {}
        modulation = Modulation.of(torch.randn(8, 6, 32, requires_grad=True), frame, 8) if is_modulated else None

        def keep(tensor: Tensor, storages: dict[int, Tensor] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden, _ = model(x, places, mask, TokenGroups.of(frame >= 0), modulation=modulation)
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))
        del hidden
    rows = 9 * 6 * 32 * 4 * 3  # of all frames, as a block adds its offsets to them: three such tables per block are enough
    assert kept[1] - kept[0] <= trunk.depth * (4 * x.numel() * 4 + rows)


def test_a_modulated_trunk_is_compiled_once_for_any_number_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    model, (x, places, frame, flow) = modulated(flow_of_frames())
    x.requires_grad_()  # as embedded tokens do
    compiled = copy.deepcopy(model)
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager", fullgraph=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compile_blocks(compiled)
        torch._dynamo.utils.counters.clear()
        for frames in (3, 2):
            gradients = []
            for trunk in (model, compiled):
                hidden = run(trunk, (x, places, frame.clamp_max(frames - 1), flow[:frames]))
                gradients.append(torch.autograd.grad(hidden.sin().sum(), (flow, *trunk.parameters())))
            for found, expected in zip(*gradients, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
