"""muP's coordinate check: with `base_width`, a step of AdamW changes as much at any width (arXiv 2203.03466, appendix D.1)."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.training.optimizer import build_optimizers, set_rate

WIDTHS = (64, 128, 256)
STEPS, LR = 3, 0.003


def config(width: int, base_width: int | None, fixed_heads: bool) -> ModelConfig:
    """A model in which only the width grows: either the number of heads with it, or the heads' width."""
    heads, base_head_width = (4, 8 if base_width else None) if fixed_heads else (width // 8, None)
    small = toys.model_config("shared")
    trunk = replace(small.trunk, width=width, heads=heads, kv_heads=heads // 2, hidden=2 * width, base_head_width=base_head_width)
    return replace(small, trunk=trunk, base_width=base_width)


@functools.cache
def batches() -> list[PackedBatch]:
    packer = toys.packer()
    return [packer.batch(step) for step in range(STEPS)]


def outputs(model: WorldModel) -> dict[str, Tensor]:
    """Residual stream, velocities, and how far the logit of the right next token lies above the mean logit, on one batch."""
    batch = batches()[0]
    latents, noise_sample = toys.random_latents(len(batch.frames)), model.sample_noise(batch.clean, torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    hook = model.trunk.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        hidden = toys.hidden(model, batch, latents, noise_sample.t)
        hook.remove()
        flat = hidden.flatten(0, 1)
        frames = flat[batch.frame_positions].unflatten(0, (-1, 4))
        seen_latents = torch.zeros_like(latents)
        t = torch.zeros(len(frames))
        velocity = model.denoise(frames, seen_latents, t, model.see(seen_latents, t))  # at t = 0: what the head puts out
        logits = model.logits(flat[batch.predicted_positions])
        right = logits.gather(1, batch.text_target.flatten()[batch.predicted_positions, None])[:, 0]
        return {"residual": seen[0], "velocity": velocity, "margin": right - logits.mean(1)}


def changes(width: int, base_width: int | None, fixed_heads: bool, seed: int) -> dict[str, float]:
    """What three steps change, by output: root mean square, of the margin the mean.

    Most logits of most tokens change by chance alone, which at these widths hides what is learnt and dies away with width^-1/2; in the
    mean of the margin chance cancels out.
    """
    torch.manual_seed(seed)
    model = WorldModel(config(width, base_width, fixed_heads)).train()
    (optimizer,) = build_optimizers(model, "adamw", LR, 0.0, 0.0, (0.9, 0.95))
    set_rate([optimizer], 1.0)
    before = outputs(model)
    for step, batch in enumerate(batches()):
        noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(step))
        loss, _ = model.loss(batch, toys.random_latents(len(batch.frames)), noise_sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = outputs(model)
    moved = {name: after[name] - value for name, value in before.items()}
    return {name: (x.mean().abs() if name == "margin" else x.square().mean().sqrt()).item() for name, x in moved.items()}


def slopes(base_width: int | None, fixed_heads: bool) -> dict[str, float]:
    """Growth of the changes with the width, in a log-log plot, on average over seeds: the margin's varies by 0.2 between them."""
    rows = [[changes(width, base_width, fixed_heads, seed) for seed in range(4)] for width in WIDTHS]
    means = {name: [np.mean([np.log(row[name]) for row in of_width]) for of_width in rows] for name in rows[0][0]}
    return {name: float(np.polyfit(np.log(WIDTHS), mean, 1)[0]) for name, mean in means.items()}


@pytest.mark.parametrize("fixed_heads", [False, True])
def test_with_mup_a_step_changes_as_much_at_any_width(fixed_heads: bool) -> None:
    plain, mup = slopes(None, fixed_heads), slopes(WIDTHS[0], fixed_heads)
    assert abs(mup["margin"]) < 0.15 and abs(mup["residual"]) < 0.3 and abs(mup["velocity"]) < 0.35, mup
    assert plain["margin"] > 0.7 and plain["residual"] > 0.45 and plain["velocity"] > mup["velocity"] + 0.25, plain


def test_the_base_model_itself_is_the_plain_one() -> None:
    assert changes(64, 64, False, 0) == changes(64, None, False, 0)
