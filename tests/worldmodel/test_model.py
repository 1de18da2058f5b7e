"""The unified model: what may influence what, the joint loss, and that it can learn a batch by heart."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.datasets.mixture.documents import Document, Frame, Text
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig, interpolate
from worldmodel.losses import LossCounts, NoiseSample, readable
from worldmodel.model import WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.tokens import IGNORE, VISION

KINDS: list[FeedForwardKind] = ["shared", "modality", "moe"]
MODELS: list[Callable[..., WorldModel]] = [toys.model, toys.stem_model]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    return toys.packer().batch(0)


@pytest.fixture(scope="module")
def latents(batch: PackedBatch) -> Tensor:
    return toys.random_latents(len(batch.frames))


def readable_parts(model: WorldModel, batch: PackedBatch, latents: Tensor) -> dict[str, float]:
    return readable({name: value.item() for name, value in toys.loss_of(model, batch, latents)[1].items()})


def changed(model: WorldModel, batch: PackedBatch, latents: Tensor, other: PackedBatch, changes: Tensor) -> Tensor:
    """Positions (b, n) whose hidden state differs between two batches."""
    t = torch.full((len(latents),), 0.5)
    with torch.no_grad():
        a, b = toys.hidden(model, batch, latents, t), toys.hidden(model, other, changes, t)
    return (a != b).any(-1)


def with_token(batch: PackedBatch, row: int, place: int) -> PackedBatch:
    """The same batch with another text token at one position."""
    token_id = batch.token_id.clone()
    token_id[row, place] = (token_id[row, place] + 1) % 200
    return replace(batch, token_id=token_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["softmax", "sdpa"])
def test_a_token_changes_what_follows_it_in_its_document_and_nothing_else(
    kind: FeedForwardKind, backend: str, batch: PackedBatch, latents: Tensor
) -> None:
    model = toys.model(kind)
    model.config = replace(model.config, attention=backend)
    text = (batch.frame_id < 0) & (batch.action_id < 0) & (batch.document_id >= 0)
    for row, place in text.nonzero()[::9].tolist():
        found = changed(model, batch, latents, with_token(batch, row, place), latents)
        document = batch.document_id == batch.document_id[row, place]
        after = torch.zeros_like(document)
        after[row, place:] = True
        assert torch.equal(found, document & after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_changes_its_whole_frame_and_what_follows(kind: FeedForwardKind, batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model(kind)
    for frame in range(0, len(latents), 2):
        moved = latents.clone()
        moved[frame, -1] += 1.0  # the last patch: the patches before it see it too
        found = changed(model, batch, latents, batch, moved)
        row, first = (batch.frame_id == frame).nonzero()[0].tolist()
        document = batch.document_id == batch.document_id[row, first]
        after = torch.zeros_like(document)
        after[row, first:] = True
        assert torch.equal(found, document & after)


def test_neighbours_in_a_row_do_not_matter() -> None:
    documents: list[Document] = [(Text("a red disc moves"),), (Text("near the top left"),)]
    alone, together = toys.pack(documents[1:]), toys.pack(documents)
    model, none = toys.model(), toys.random_latents(0)
    a, b = (toys.hidden(model, batch, none, none[:, 0, 0]) for batch in (alone, together))
    torch.testing.assert_close(a[alone.document_id == 0], b[together.document_id == 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", MODELS)
def test_every_weight_learns(kind: FeedForwardKind, make: Callable[..., WorldModel]) -> None:
    model = make(kind).train()
    batch = toys.everything(model)
    loss, parts = toys.loss_of(model, batch, toys.latents_of(model, batch))
    loss.backward()
    assert loss.isfinite()
    assert set(parts) == {"text", "flow", "flow_high_noise", "high_noise", "action"} | ({"router"} if kind == "moe" else set())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "fields",
    [
        {"time": "adaln"},
        {"time": "none"},
        {"positions": "sequence"},
        {"wide_head": 64, "time": "adaln", "patch_embedding": False, "base_width": 16},
    ],
)
def test_every_weight_learns_with_every_switch(fields: dict[str, Any]) -> None:
    model = toys.model(**fields).train()
    batch = toys.everything(model)
    toys.loss_of(model, batch, toys.latents_of(model, batch))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    names = {name.partition(".")[0] for name in model.state_dict()}
    assert ("time_in" in names) == (fields.get("time") != "none")
    assert ("patch_embedding" in names) == fields.get("patch_embedding", True)


def test_flow_time_moves_visual_tokens_alone_in_adaln(latents: Tensor) -> None:
    """A caption before its picture is read the same at any flow time of the picture; the picture is not, even without seeing noise."""
    batch = toys.pack([(Text("a red disc", predict=False), Frame(toys.picture(np.random.default_rng(0)), predict=True))])
    model, z = toys.model(time="adaln", flow=FlowConfig(prediction="v")), latents[:1]
    with torch.no_grad():
        early, late = (toys.hidden(model, batch, z, torch.tensor([t])) for t in (0.1, 0.9))
    visual = batch.modality == VISION
    first = int(visual[0].nonzero()[0])
    assert torch.equal(early[:, :first], late[:, :first])
    assert (early[visual] != late[visual]).any(-1).all()
    modulation = model.modulation(batch, torch.tensor([0.1]))
    assert modulation.rows[modulation.index[~visual]].unique(dim=0).tolist() == [[[g] * 32 for g in (0, 0, 1, 0, 0, 1)]]


def test_without_time_conditioning_only_the_noise_tells(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model(time="none", flow=FlowConfig(prediction="v"))
    with torch.no_grad():
        a, b = (toys.hidden(model, batch, latents, torch.full((len(latents),), t)) for t in (0.1, 0.9))
    assert torch.equal(a, b)


def test_patches_of_a_frame_are_told_apart_by_positions_alone(latents: Tensor) -> None:
    """Equal patches come out different through axial or plain positions, where nothing else is added to them."""
    batch = toys.pack([(Text("a red disc", predict=False), Frame(toys.picture(np.random.default_rng(0)), predict=True))])
    z = latents[:1, :1].expand(1, 4, -1)
    for positions in ("axial", "sequence"):
        model = toys.model(positions=positions, patch_embedding=False)
        with torch.no_grad():
            hidden = toys.hidden(model, batch, z, torch.tensor([0.5]))[batch.modality == VISION]
        assert len(hidden.unique(dim=0)) == 4


def test_the_wide_head_sees_the_whole_frame_and_no_other() -> None:
    model, z, t = toys.model(wide_head=16), toys.random_latents(3), torch.tensor([0.2, 0.5, 0.7])
    hidden = torch.randn(3, 4, 32, generator=generator())
    other = hidden.clone()
    other[1, 3] += 1.0
    with torch.no_grad():
        before, after = (model.denoise(h, z, t, model.see(z, t)) for h in (hidden, other))
        later = model.denoise(hidden, z, torch.tensor([0.2, 0.6, 0.7]), model.see(z, t))
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and (before[1] != after[1]).any(-1).all()
    assert torch.equal(before[[0, 2]], later[[0, 2]]) and not torch.equal(before[1], later[1])
    with pytest.raises(UserError, match="wide_head is 100, must be a multiple of 64"):
        toys.model(wide_head=100)


@pytest.mark.parametrize("make", MODELS)
def test_the_loss_is_the_weighted_sum_of_its_parts(make: Callable[..., WorldModel]) -> None:
    model = make("moe")
    batch, said = toys.everything(model), []
    original = model.action_error
    model.action_error = lambda *given: said.append(original(*given)) or said[-1]  # type: ignore[func-returns-value]
    loss, parts = toys.loss_of(model, batch, toys.latents_of(model, batch))
    error, surprise = (sums / batch.known_numbers for sums in said[0])
    torch.testing.assert_close(parts["action"], error)
    assert batch.known_numbers > 4 and surprise.item() != 0
    torch.testing.assert_close(loss, parts["text"] + 3 * parts["flow"] + 2 * (error + 0.1 * surprise) + parts["router"])


def test_the_loss_repeats_with_its_generator_only(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model()
    first, again, other = (toys.loss_of(model, batch, latents, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["modality", "moe"])
@pytest.mark.parametrize("make", MODELS)
def test_losses_and_gradients_of_parts_add_up_to_those_of_the_whole(kind: FeedForwardKind, make: Callable[..., WorldModel]) -> None:
    model, results = make(kind).train(), []
    batch = toys.everything(model)
    whole = model.sample_noise(batch.clean, generator())
    frames, given = toys.latents_of(model, batch).split([len(batch.frames), len(batch.given)])
    for parts in (1, 3):
        model.zero_grad()
        pieces, first, second, total = batch.split(parts), 0, 0, {}
        counts = sum(map(LossCounts.of, pieces), LossCounts(0, 0, 0))
        for piece in pieces:
            here = slice(first, first + len(piece.clean))
            latents = torch.cat([frames[here], given[second : second + len(piece.given)]])
            loss, named = model.loss(piece, latents, NoiseSample(whole.t[here], whole.noise[here]), counts)
            loss.backward()
            first, second = first + len(piece.clean), second + len(piece.given)
            total = {name: total.get(name, 0) + value for name, value in {"total": loss.detach(), **named}.items()}
        results.append(total | {name: p.grad.clone() for name, p in model.named_parameters()})
        assert (first, second) == (len(frames), len(given))
    assert bool(second) == bool(model.config.references) and "action" in results[0]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", MODELS)
def test_a_part_that_predicts_nothing_has_a_loss_of_zero_and_gradients(make: Callable[..., WorldModel]) -> None:
    """So all processes of a step have gradients of the same weights."""
    model = make()
    batch = toys.everything(model)
    context = toys.pack([(Text("a red disc", predict=False),)])
    none = toys.random_latents(0, grid=model.config.latent_grid)
    loss, _ = model.loss(context, none, model.sample_noise(context.clean, generator()), LossCounts.of(batch) + LossCounts.of(context))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_draws_of_parts_are_joined(batch: PackedBatch) -> None:
    model = toys.model()
    noise_samples = [model.sample_noise(part.clean, generator(i)) for i, part in enumerate(batch.split(3))]
    joined = NoiseSample.join(noise_samples)
    assert joined.noise.shape == (len(batch.clean), 4, toys.CHANNELS)
    assert torch.equal(joined.t == 1, batch.clean)


def test_text_loss_is_the_mean_over_predicted_tokens(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model()
    parts = toys.loss_of(model, replace(batch, clean=torch.ones_like(batch.clean)), latents)[1]
    assert set(parts) == {"text"}
    hidden = toys.hidden(model, batch, latents, torch.ones(len(latents)))
    expected = F.cross_entropy(model.text_out(hidden).flatten(0, 1), batch.text_target.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(parts["text"], expected)


@pytest.mark.parametrize("prediction", ["x", "v"])
def test_flow_loss_is_the_velocity_error_of_the_noised_frames(prediction: str, batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model(flow=FlowConfig(prediction=prediction, minimum_noise=1e-6))
    shown: list[Tensor] = []
    original = model.see
    model.see = lambda z_t, t, beside: shown.extend([z_t, t]) or original(z_t, t, beside)  # type: ignore[func-returns-value]
    flow = toys.loss_of(model, batch, latents)[1]["flow"]
    model.see, (z_t, t) = original, shown  # type: ignore[method-assign]
    assert torch.equal(t == 1, batch.clean)
    assert torch.equal(z_t[batch.clean], latents[batch.clean])
    hidden = toys.hidden(model, batch, z_t, t)[batch.frame_id >= 0].unflatten(0, (-1, 4))
    noised = ~batch.clean
    z, z_t, t = latents[noised], z_t[noised], t[noised]
    noise = (z_t - t[:, None, None] * z) / (1 - t[:, None, None])
    error = model.denoise(hidden[noised], z_t, t, model.see(z_t, t)) - (z - noise)
    torch.testing.assert_close(flow, error.square().mean(), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_frames_of_large_latents_are_levelled_and_small_ones_are_not() -> None:
    """Latents of 0.5, 1, 2 and 3 everywhere: the errors of the last two are divided by 4 and 9."""
    model, picture = toys.model(), toys.picture(np.random.default_rng(0))
    batch = toys.pack([(Frame(picture, predict=True),)] * 4, config=replace(toys.PACKING, caption_dropout=0.0))
    latents = torch.tensor([0.5, 1.0, 2.0, 3.0])[:, None, None].expand(4, 4, toys.CHANNELS).contiguous()
    noise_sample, found = NoiseSample(torch.full((4,), 0.5), torch.randn(4, 4, toys.CHANNELS, generator=generator())), []
    z_t = interpolate(latents, noise_sample.noise, noise_sample.t[:, None, None])
    flat = toys.hidden(model, batch, z_t, noise_sample.t).flatten(0, 1)
    for levelled in (False, True):
        model.config = replace(model.config, level_frames=levelled)
        found.append(model.flow_error(batch, flat, latents, noise_sample, z_t, model.see(z_t, noise_sample.t)))
    torch.testing.assert_close(found[0] / found[1], torch.tensor([1.0, 1.0, 4.0, 9.0]))


def test_high_noise_is_reported_where_there_is_some(batch: PackedBatch, latents: Tensor) -> None:
    to_noise = readable_parts(toys.model(flow=FlowConfig(shift=1e4)), batch, latents)
    to_clean = readable_parts(toys.model(flow=FlowConfig(shift=1e-4)), batch, latents)
    assert to_noise["flow_high_noise"] == pytest.approx(to_noise["flow"])
    assert "flow_high_noise" not in to_clean


@pytest.mark.parametrize("make", MODELS)
def test_text_alone_needs_no_frame_and_a_picture_alone_no_text(make: Callable[..., WorldModel]) -> None:
    model = make()
    text = toys.pack([(Text("a red disc"),)], grid=model.config.grid)
    picture = toys.pack([(Frame(toys.picture(np.random.default_rng(0)), predict=True),)], grid=model.config.grid)
    loss, parts = toys.loss_of(model, text, toys.latents_of(model, text))
    assert set(parts) == {"text"} and loss.isfinite()
    assert "text" not in toys.loss_of(model, picture, toys.latents_of(model, picture))[1]


def test_a_batch_that_predicts_nothing_is_refused() -> None:
    batch = replace(toys.pack([(Text("a red disc", predict=False),)]), sources={"rules": 4, "maps": 2})
    with pytest.raises(UserError, match="a batch of maps, rules predicts neither a token nor a frame"):
        toys.loss_of(toys.model(), batch, toys.random_latents(0))


def test_one_picture_is_overfitted_with_enough_width_and_refused_without() -> None:
    """The width rule of RAE (arXiv 2510.11690, section 4): predicted noise in 32 channels does not pass through fewer."""
    torch.manual_seed(0)
    small = toys.model_config(flow=FlowConfig(prediction="v", shift=1.0))
    model = WorldModel(replace(small, trunk=replace(small.trunk, width=64, hidden=256), channels=32)).train()
    picture: Document = (Frame(toys.picture(np.random.default_rng(0)), predict=True),)
    batch = toys.pack(*[[picture] * 4] * 3, length=32)
    latents = torch.randn(1, 4, 32, generator=generator(1)).expand(12, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    random, history, steps = generator(), [], 200
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        loss, parts = model.loss(batch, latents, model.sample_noise(batch.clean, random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(parts["flow"].item())
    assert history[0] > 2 and np.mean(history[-20:]) < 0.15
    with pytest.raises(UserError, match=r"width 16 is below the latents' 32 channels: .*cannot even overfit one picture"):
        replace(model.config, trunk=replace(model.config.trunk, width=16))


@pytest.mark.parametrize("kind", ["modality", "moe"])
def test_one_batch_is_learnt_by_heart(kind: FeedForwardKind) -> None:
    torch.manual_seed(0)
    documents = [toys.Videos().document(0, np.random.default_rng(i)) for i in range(2)]
    batch = toys.pack(documents, [(Text(toys.WORDS[:60]),)])
    latents, model = toys.random_latents(len(batch.frames)), toys.model(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for _ in range(80):
        loss, parts = toys.loss_of(model, batch, latents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in parts.items()})
    assert history[-1]["text"] < history[0]["text"] / 20
    assert history[-1]["flow"] < history[0]["flow"] / 20
    assert (batch.modality == VISION).any()
