"""The trunk: its scale at the start, its kinds of feed-forward, and growing a sequence piece by piece."""

from dataclasses import replace

import pytest
import torch

from tests.worldmodel import toys
from worldmodel.attention import hybrid_mask, prepare_mask
from worldmodel.kv_cache import KVCache
from worldmodel.moe import FeedForwardKind, MixtureOfExperts, TokenGroups
from worldmodel.transformer import Trunk

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
        hidden, _ = model(x[:, begin:end], places[:, begin:end], mask, groups, cache)
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
