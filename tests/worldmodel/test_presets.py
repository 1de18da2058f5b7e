"""The presets have the sizes that they promise."""

from dataclasses import replace

import pytest
import torch

from tests.worldmodel import toys
from worldmodel import presets
from worldmodel.checkpoint import check_fit
from worldmodel.errors import UserError
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import FeedForwardKind, MixtureOfExperts, ModalityFeedForward


def count(config: ModelConfig) -> tuple[int, int]:
    """All parameters, and those that one token uses."""
    with torch.device("meta"):
        model = WorldModel(config)
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for layer in model.modules():
        if isinstance(layer, MixtureOfExperts | ModalityFeedForward):
            idle += sum(p.numel() for p in layer.visual.parameters())
        if isinstance(layer, MixtureOfExperts):
            share = 1 - layer.config.top_k / layer.config.num_experts
            idle += round(share * (layer.gate_up.numel() + layer.down.numel()))
    return total, total - idle


@pytest.mark.parametrize(("name", "active"), [("small", 25e6), ("base", 100e6), ("paper", 1.5e9)])
def test_active_parameters(name: str, active: float) -> None:
    assert count(presets.PRESETS[name]().model)[1] == pytest.approx(active, rel=0.05)


@pytest.mark.parametrize(("kind", "total"), [("shared", 1.498e9), ("modality", 2.304e9), ("moe", 13.59e9)])
def test_the_papers_parameter_counts(kind: FeedForwardKind, total: float) -> None:
    """Of arXiv 2603.03276, computed for its text part; the latents' projections come on top."""
    model = presets.paper().model
    counted, _ = count(replace(model, trunk=replace(model.trunk, feed_forward=kind)))
    assert counted == pytest.approx(total, rel=0.007)


def test_a_preset_is_fitted_to_codec_tokenizer_and_actions() -> None:
    config = presets.tiny().model
    codec, tokenizer = toys.codec(), toys.tokenizer()
    with pytest.raises(UserError, match="model and codec do not fit: the model's tokens per frame is"):
        check_fit(config, codec, tokenizer)
    fitted = presets.fit(config, codec, tokenizer, action_dim=6)
    check_fit(fitted, codec, tokenizer)
    assert (fitted.trunk, fitted.action_dim) == (config.trunk, 6)
    with pytest.raises(UserError, match="the model's vocabulary size is 7"):
        check_fit(replace(fitted, vocab_size=7), codec, tokenizer)
