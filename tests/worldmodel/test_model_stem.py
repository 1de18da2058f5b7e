"""A model with a stem: what a frame is seen beside, and what is painted of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worldmodel import toys
from worldmodel.errors import UserError
from worldmodel.stem import Beside


@torch.no_grad()
@pytest.mark.parametrize("older", [False, True])
def test_a_frame_is_seen_beside_those_before_it_and_no_other(older: bool) -> None:
    """What it is seen beside changes the frame and what follows it, not what is before; a given frame that is not there does not."""
    model, rng = toys.stem_model(), np.random.default_rng(0)
    config = replace(toys.PACKING, references=2, text_action_share=0.0)
    batch = toys.pack([toys.transition(rng), toys.goal(rng)], config=config, grid=model.config.grid)
    assert batch.reference.tolist() == [[1, 0], [2, -1]]
    z = toys.random_latents(5, grid=toys.MAP)
    frames, given, t = z[:2], z[2:].clone(), torch.tensor([0.3, 1.0])
    before = toys.hidden(model, batch, frames, t, given)
    given[0 if older else 1] += 1.0
    after = toys.hidden(model, batch, frames, t, given)
    first = int(batch.frame_positions[0])
    expected = (batch.document_id == 0) & (torch.arange(96) >= first)
    assert torch.equal((before != after).any(-1), expected)
    absent = replace(batch, reference=torch.tensor([[1, -1], [2, -1]]))
    fewer = [toys.hidden(model, absent, frames, t, each) for each in (given, given + torch.tensor([1.0, 0, 0])[:, None, None])]
    assert torch.equal(*fewer)


@torch.no_grad()
def test_what_the_stem_paints_is_the_change_from_the_newest_frame() -> None:
    """A stem that paints nothing predicts the frame before; without a frame before, zeros."""
    model = toys.stem_model()
    assert model.stem is not None
    model.stem.last.weight.zero_()
    model.stem.last.bias.zero_()
    z, t = toys.random_latents(2, grid=toys.MAP), torch.zeros(2)
    known = torch.stack([toys.random_latents(2, seed, toys.MAP) for seed in (1, 2)], 1)
    beside = Beside(known, torch.tensor([[True, True], [False, False]]))
    velocity = model.denoise(torch.randn(2, 2, 32), z, t, model.see(z, t, beside))
    clean = z + velocity  # at t = 0
    torch.testing.assert_close(clean[0], known[0, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clean[1], torch.zeros(64, toys.CHANNELS), atol=1e-5, rtol=1e-5)


def test_a_stem_may_see_every_frame_alone() -> None:
    model = toys.stem_model(stem=replace(toys.STEM, references=0)).train()
    batch = toys.everything(model)
    assert not len(batch.given) and model.config.references == 0
    loss, parts = toys.loss_of(model, batch, toys.latents_of(model, batch))
    loss.backward()
    assert loss.isfinite() and {"text", "flow", "action"} <= set(parts)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert "stem.missing" not in model.state_dict(), "nothing of it is learnt"
    alike = toys.stem_model()
    assert alike.state_dict()["stem.missing"].shape == (toys.STEM.references, toys.CHANNELS)


def test_a_map_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UserError, match=r"maps of 10 x 10 latent tokens down to 4: \(5, 5\) is odd"):
        toys.stem_model(latent_grid=(10, 10))
    with pytest.raises(UserError, match="wide_head is 64, but the stem paints"):
        toys.stem_model(wide_head=64)
