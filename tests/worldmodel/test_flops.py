"""Counted operations are those that torch counts, and counted weights those that there are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.worldmodel import toys
from worldmodel import flops, presets
from worldmodel.attention import hybrid_mask
from worldmodel.batch import PackedBatch
from worldmodel.datasets.mixture.documents import Frame, Text
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.stem import StemConfig
from worldmodel.tokens import IGNORE

KINDS: tuple[FeedForwardKind, ...] = ("shared", "modality", "moe")


def full_batch(model: ModelConfig | None = None) -> PackedBatch:
    """One row without padding: a video with action vectors, a picture with a caption, a text, a transition and a goal."""
    rng, model = np.random.default_rng(0), model or toys.model_config()
    caption = (Frame(toys.picture(rng), predict=False), Text(toys.sentence(rng)))
    config = replace(toys.PACKING, text_action_share=0.0, references=model.references)
    documents = [toys.action_video(rng, 3), caption, (Text(toys.sentence(rng)),), toys.transition(rng), toys.goal(rng)]
    loose = toys.pack(documents, length=200, config=config, grid=model.grid)
    return toys.pack(documents, length=int((loose.document_id >= 0).sum()), config=config, grid=model.grid)


def counted_by_torch(config: ModelConfig, batch: PackedBatch) -> tuple[float, float]:
    """Operations of the matrix products of a forward pass and of what its gradient adds, attention over all pairs."""
    model = WorldModel(config).train()
    latents = toys.random_latents(len(batch.pictures), grid=config.latent_grid)
    custom = {torch.ops.aten._grouped_mm: lambda rows, weights, *_, **__: 2 * rows[0] * rows[1] * weights[-1]}
    noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False, custom_mapping=custom) as forward, torch.no_grad():
        model.loss(batch, latents, noise_sample)
    with FlopCounterMode(display=False, custom_mapping=custom) as both:  # the text loss finds its gradient on the way forward
        loss, _ = model.loss(batch, latents, noise_sample)
        loss.backward()
    return forward.get_total_flops(), both.get_total_flops() - forward.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_of_the_matrix_products(kind: FeedForwardKind) -> None:
    base = toys.model_config(kind)
    config = replace(base, attention="softmax")
    batch = full_batch()
    uses, width = flops.Uses.of(batch, config.frame_tokens), config.trunk.width
    assert uses.tokens == batch.document_id.numel() and uses.actions == 4 and uses.questions == 1 and uses.predicted and uses.noised
    dense = 4 * width * config.trunk.depth * (batch.document_id.shape[1] ** 2 - uses.pairs)  # the mask only hides what is computed
    forward, backward = counted_by_torch(config, batch)
    assert flops.forward_flops(config, batch) + dense == forward
    given = uses.visual * config.channels + uses.actions * config.action_dim + uses.frames * 64  # inputs that need no gradient
    assert flops.training_flops(config, batch) - flops.forward_flops(config, batch) + 2 * dense - 2 * given * width == backward


@pytest.mark.parametrize("options", [{"wide_head": 16}, {"time": "adaln"}, {"time": "none", "patch_embedding": False}])
def test_operations_of_other_heads_and_time_conditionings(options: dict[str, Any]) -> None:
    plain, batch = replace(toys.model_config(), attention="softmax"), full_batch()
    config = replace(plain, **options)
    more = counted_by_torch(config, batch)[0] - counted_by_torch(plain, batch)[0]
    head = 4 * config.wide_head * 2 * flops.Uses.of(batch, config.frame_tokens).noised * config.frame_tokens
    assert flops.forward_flops(config, batch) - flops.forward_flops(plain, batch) == pytest.approx(more, abs=head)
    assert head == 0 or more > head, "its attention, which torch may not count, is the least of it"


def test_operations_of_a_stem_are_those_of_its_convolutions() -> None:
    """By hand, and as torch counts them: maps of 16 x 16 with 8 channels, 8 x 8 and 4 x 4 with 16, of 8 channels seen beside 2 x 8."""
    config = replace(toys.stem_model(latent_grid=(16, 16)).config, attention="softmax")
    batch = full_batch(config)
    uses, width = flops.Uses.of(batch, config.frame_tokens), config.trunk.width
    noised = uses.noised // 2
    assert (uses.frames, uses.questions, uses.actions) == (3 + 1 + 1 + 1, 1, 4) and 1 < noised < uses.frames
    flat = 2 * width
    reading = 256 * 9 * 24 * 8 + 64 * (9 * 8 * 16 + 9 * 16 * 16) + 16 * (9 * 16 * 16 + 9 * 16 * 16) + 16 * 16 * flat
    coarse = flat * 16 * 16 + flat * 2 * 16 + 16 * 9 * 16 * 16
    finer = 16 * 16 * (4 * 16) + flat * 2 * 16 + 64 * 9 * 16 * 16
    finest = 64 * 16 * (4 * 8) + flat * 2 * 8 + 256 * 9 * 8 * 8 + 256 * 8 * 8
    looks = flat * 32 * 32 + 32 * 32 * 256 + 256 * 9 * 32 * 8 + flat * 2 * 8 + 256 * 9 * 8 * 8
    plain = replace(config, stem=StemConfig(), latent_grid=(1, 2))  # as many tokens in the trunk
    linear = (uses.visual + uses.noised) * config.channels * width
    of_stem = flops.forward_flops(config, batch) - flops.forward_flops(plain, batch) + 2 * linear
    seen = 3 * 256 * (9 * 8 * 32 + 32 * 32 + 32 * 2)  # every frame and the two before it: a convolution, the points of 32 maps
    reading += seen + 3 * 2 * 32 * flat
    assert of_stem == 2 * (uses.frames * reading + noised * (coarse + finer + finest + looks))
    dense = 4 * width * config.trunk.depth * (batch.document_id.shape[1] ** 2 - uses.pairs)
    assert flops.forward_flops(config, batch) + dense == counted_by_torch(config, batch)[0]
    counts, model = flops.parameter_counts(config), WorldModel(config)
    assert counts.total == sum(p.numel() for p in model.parameters()) and model.stem is not None and model.time_in is not None
    outer = [*model.stem.parameters(), *model.time_in.parameters()]
    assert counts.visual == counts.active_trunk + width + sum(p.numel() for p in outer)


def test_operations_of_the_paper_are_those_of_its_sizes() -> None:
    """By hand, a text of 100 tokens in each of the paper's models: 16 layers of 2048 with 8 of 32 heads for keys and values."""
    n, d, layers, vocabulary = 100, 2048, 16, 128_256
    text = replace(toys.pack([(Text("x"),)]), frame_id=torch.full((1, n), -1), action_id=torch.full((1, n), -1))
    predicted = torch.full((1, n), 7)
    predicted[0, -1] = IGNORE
    zeros = torch.zeros(1, n, dtype=torch.long)
    batch = replace(text, token_id=zeros, modality=zeros, document_id=zeros, text_target=predicted)
    attention = n * (2 * d * d + 2 * d * 512) + n * (n + 1) // 2 * 2 * d  # projections; scores, and sums of values
    experts = n * 16 * 3 * d * 512 + n * d * 254  # 15 routed ones and one of the modality; the router
    feed_forwards: dict[FeedForwardKind, int] = {"shared": n * 3 * d * 8192, "modality": n * 3 * d * 8192, "moe": experts}
    for kind, feed_forward in feed_forwards.items():
        products = layers * (attention + feed_forward) + (n - 1) * d * vocabulary
        assert flops.training_flops(presets.paper(kind).model, batch) == 3 * 2 * products


def test_allowed_pairs_are_those_of_the_hybrid_mask() -> None:
    batch = toys.packer().batch(0)
    allowed = hybrid_mask(batch.document_id, batch.frame_id) & (batch.document_id >= 0)[:, :, None]
    assert (batch.document_id < 0).any()
    assert flops.allowed_pairs(batch.document_id, batch.frame_id) == int(allowed.sum())


def test_padding_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    row = [[toys.action_video(rng)]]
    config = toys.model_config("moe")
    short, long = (flops.training_flops(config, toys.pack(*row, length=length)) for length in (64, 128))
    assert short == long > 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_counted_without_memory_for_them(kind: FeedForwardKind) -> None:
    config = toys.model_config(kind)
    counts, model = flops.parameter_counts(config), WorldModel(config)
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert counts.trunk == sum(p.numel() for p in model.trunk.parameters())
    assert counts.embedding == 2 * config.vocab_size * config.trunk.width
    width, hidden = config.trunk.width, config.trunk.hidden if kind != "moe" else config.trunk.moe.expert_hidden
    idle = {"shared": 0, "modality": 1, "moe": 1 + config.trunk.moe.num_experts - config.trunk.moe.top_k}[kind]
    assert counts.total - counts.active == config.trunk.depth * idle * 3 * width * hidden
    assert counts.active - counts.active_trunk == counts.total - counts.trunk
    assert counts.text == counts.active_trunk + width * (config.vocab_size + 1)
    outer = [*model.latent_in.parameters(), *model.latent_out.parameters(), *model.time_in.parameters()]
    assert counts.visual == counts.active_trunk + width + sum(p.numel() for p in outer)


def test_matmul_rate_is_a_rate() -> None:
    assert flops.matmul_rate(torch.device("cpu"), torch.float32, seconds=0.0, size=64) > 1e6
