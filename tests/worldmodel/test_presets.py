"""The presets have the sizes that they promise."""

from dataclasses import replace

import pytest

from tests.worldmodel import toys
from worldmodel import presets
from worldmodel.checkpoint import check_fit
from worldmodel.errors import UserError
from worldmodel.flops import parameter_counts
from worldmodel.moe import FeedForwardKind


@pytest.mark.parametrize(("name", "active"), [("small", 33e6), ("base", 117e6), ("paper", 1.5e9)])
def test_active_parameters(name: str, active: float) -> None:
    model = presets.PRESETS[name]().model
    if model.stem.tokens:  # for the latents of small patches of 64 pixels
        model = replace(model, latent_grid=(16, 16), channels=16)
    assert parameter_counts(model).active == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "total", "ours"),
    [("shared", 1.498e9, 1_508_203_712), ("modality", 2.304e9, 2_313_510_080), ("moe", 13.59e9, 13_596_122_304)],
)
def test_the_papers_parameter_counts(kind: FeedForwardKind, total: float, ours: int) -> None:
    """Of arXiv 2603.03276, computed for its text part; the latents' projections, places and flow
    time, and the actions' readout come on top, in all three."""
    counts = parameter_counts(presets.paper(kind).model)
    assert counts.total == ours
    assert counts.total == pytest.approx(total, rel=0.01)
    router = 16 * 2048 * 254 if kind == "moe" else 0
    assert counts.active == 1_508_203_712 + router, "a token's experts are together as wide as the network they replace"


@pytest.mark.parametrize(("name", "processes"), [("small", 8), ("base", 8), ("paper", 128)])
def test_batches_divide_among_processes_and_flex_attentions_blocks(name: str, processes: int) -> None:
    packing = presets.PRESETS[name]().train.packing
    assert packing.data_shards == processes and packing.rows % processes == 0 and packing.length % 128 == 0


def test_base_takes_its_rates_from_small() -> None:
    small, base = presets.small(), presets.base()
    assert small.model.base_width == base.model.base_width == small.model.trunk.width
    assert small.train.lr == base.train.lr
    heads = {preset.model.trunk.width // preset.model.trunk.heads for preset in (small, base)}
    assert len(heads) == 1, "muP with heads of one width"


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
