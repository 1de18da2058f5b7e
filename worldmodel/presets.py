"""Sizes of model and training that go together: one dial from two CPU cores to the paper.

A preset is a value; change any field with `dataclasses.replace`, or on the command line. What the data decide
(vocabulary, latents, action size) is filled in by `fit`.

`small` and `base` share their learning rates: they are given for a width of 384 and carried over to others by muP (`base_width`), so
that what is tuned on the small one serves the base one. Batches of all but `tiny` are packed in shards, which any number of
processes that divides them shares. Rows of their lengths are whole blocks of 128 positions, as FlexAttention wants.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from worldmodel.codec.codec import Codec
from worldmodel.flow import FlowConfig
from worldmodel.model import ModelConfig
from worldmodel.moe import FeedForwardKind, MoEConfig
from worldmodel.stem import StemConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig
from worldmodel.training.config import TrainConfig
from worldmodel.transformer import TrunkConfig

NEAR_NOISE = FlowConfig(shift=16.0, noise_share=0.8)
"""Flow times near pure noise, where a rollout starts. RAE's rule would give 1 for 256 x 16 latents, and 0.5, toward clean frames, for
16 x 64: with that a model learned nothing of its actions in 240 steps."""


WEIGHTS: dict[str, Any] = {
    "text_weight": 0.3,
    "flow_weight": 6.0,
    "action_weight": 10.0,
    "steps_weight": 8.0,
    "level_frames": True,
}
"""Where all is learned at once, in minutes: with the paper's weights text, whose loss is ten times as large, leaves the others behind
(docs/ideas.md)."""


@dataclass(frozen=True)
class Preset:
    """A model and how to train it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Size and kind of the model."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train it."""


def tiny() -> Preset:
    """Train on two CPU cores in minutes; for latents of small patches (`CodecConfig(kind="pixels")`).

    What the paper's recipe needs to learn dynamics in so few steps (docs/training.md, "Ablations"): a stem, through which a frame is
    seen beside the two before it; Muon; and flow times near pure noise, where a rollout starts. The dimension rule gives no shift for
    latents this small, yet of 4,096 numbers that show a few things each says where they are as soon as a little noise is gone.
    Recorded actions are mostly noise, and at three times these rates some are not learned at all (docs/ideas.md).
    """
    trunk = TrunkConfig(width=192, depth=4, heads=6, kv_heads=3, hidden=512)
    train = TrainConfig(
        steps=1600,
        packing=PackingConfig(rows=4, length=152, data_shards=2, text_action_share=0.05),
        optimizer="muon",
        lr=1e-3,
        muon_lr=0.01,
        warmup_steps=20,
        final_lr_share=0.02,
        weight_decay=0.01,
        ema_decay=0.98,
        sample_every=280,
        validate_every=280,
        checkpoint_every=140,
    )
    return Preset(ModelConfig(trunk, NEAR_NOISE, stem=StemConfig(tokens=4), **WEIGHTS), train)


def small() -> Preset:
    """Use about 33 million active parameters: sized for a laptop's GPU; not run yet."""
    trunk = TrunkConfig(width=384, depth=10, heads=6, kv_heads=2, hidden=1280, feed_forward="modality")
    packing = PackingConfig(rows=32, length=512, action_dropout=0.1, data_shards=8)
    train = TrainConfig(
        steps=20_000,
        packing=packing,
        lr=6e-4,
        warmup_steps=500,
        ema_decay=0.999,
        sample_every=1000,
        validate_every=1000,
        checkpoint_every=1000,
    )
    return Preset(ModelConfig(trunk, NEAR_NOISE, vocab_size=8192, base_width=384, stem=StemConfig(tokens=4), **WEIGHTS), train)


def base() -> Preset:
    """Use about 117 million active parameters of a mixture of experts: sized for one data-center GPU; not run yet."""
    moe = MoEConfig(num_experts=32, top_k=7, expert_hidden=256)
    trunk = TrunkConfig(width=768, depth=12, heads=12, kv_heads=4, hidden=2048, feed_forward="moe", moe=moe)
    packing = PackingConfig(rows=32, length=2048, action_dropout=0.1, data_shards=8)
    train = TrainConfig(
        steps=100_000,
        packing=packing,
        lr=6e-4,
        warmup_steps=2000,
        ema_decay=0.9999,
        sample_every=2000,
        validate_every=2000,
        checkpoint_every=2000,
    )
    return Preset(ModelConfig(trunk, NEAR_NOISE, vocab_size=16_384, base_width=384, stem=StemConfig(tokens=4), **WEIGHTS), train)


def paper(feed_forward: FeedForwardKind = "moe") -> Preset:
    """Use the model of arXiv 2603.03276: 16 layers, 256 experts, 16 active, one of them the modality's own.

    Width, heads, feed-forward, rotary base, optimizer and schedule as the paper and its follow-up
    (2608.05000) give them; the peak learning rate is not published, 3e-4 is ours. Latents are SigLIP 2
    So400m's at 224 pixels. The paper's three sizes differ in the feed-forward alone: shared has 1.508 billion weights, modality
    2.314, moe 13.596, of which a token uses 1.517; the paper's 1.5, 2.3 and 13.5 leave out, or round off, what is not text's.
    """
    moe = MoEConfig(num_experts=254, top_k=15, granularity=16)
    trunk = TrunkConfig(
        width=2048,
        depth=16,
        heads=32,
        kv_heads=8,
        hidden=8192,
        feed_forward=feed_forward,
        moe=moe,
        rope_theta=500_000.0,
    )
    model = ModelConfig(
        trunk,
        FlowConfig(prediction="x"),
        vocab_size=128_256,
        latent_grid=(16, 16),
        channels=1152,
        action_dim=4,
    )
    packing = PackingConfig(rows=512, length=4096, action_dropout=0.1, data_shards=128)
    train = TrainConfig(
        steps=496_000,
        packing=packing,
        lr=3e-4,
        warmup_steps=8000,
        dtype="bfloat16",
        ema_decay=0.9999,
        sample_every=10_000,
        validate_every=10_000,
        checkpoint_every=5000,
    )
    return Preset(model, train)


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "base": base, "paper": paper}


def fit_packing(packing: PackingConfig, model: ModelConfig) -> PackingConfig:
    """Fit the packing to this model, whose frames may be seen beside those before them."""
    return replace(packing, references=model.references)


def fit(config: ModelConfig, codec: Codec, tokenizer: Tokenizer, action_dim: int) -> ModelConfig:
    """Fit the model to these latents, this vocabulary and action blocks of `action_dim` numbers."""
    return replace(
        config,
        vocab_size=tokenizer.vocab_size,
        latent_grid=codec.grid,
        channels=codec.channels,
        action_dim=action_dim,
    )


def with_seed(preset: Preset, seed: int) -> Preset:
    """Return the same preset with another seed."""
    return replace(preset, train=replace(preset.train, seed=seed))
