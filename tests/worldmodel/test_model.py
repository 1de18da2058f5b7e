"""The unified model: what may influence what, the joint loss, and that it can learn a batch by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.datasets.documents import Document, Frame, Text
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.tokens import IGNORE, VISION
from worldmodel.transformer import TrunkConfig

KINDS: list[FeedForwardKind] = ["shared", "modality", "moe"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    return toys.packer().batch(0)


@pytest.fixture(scope="module")
def latents(batch: PackedBatch) -> Tensor:
    return toys.random_latents(len(batch.frames))


def changed(model: WorldModel, batch: PackedBatch, latents: Tensor, other: PackedBatch, changes: Tensor) -> Tensor:
    """Positions (b, n) whose hidden state differs between two batches."""
    t = torch.full((len(latents),), 0.5)
    with torch.no_grad():
        a, b = model(batch, latents, t)[0], model(other, changes, t)[0]
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
    a, b = (model(batch, none, none[:, 0, 0])[0] for batch in (alone, together))
    torch.testing.assert_close(a[alone.document_id == 0], b[together.document_id == 1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: FeedForwardKind, batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model(kind).train()
    loss, parts = model.loss(batch, latents, generator())
    loss.backward()
    assert set(parts) - {"flow_high_noise"} == {"text", "flow"} | ({"router"} if kind == "moe" else set())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_loss_is_the_weighted_sum_of_its_parts(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model("moe")
    loss, parts = model.loss(batch, latents, generator())
    torch.testing.assert_close(loss, parts["text"] + 3 * parts["flow"] + parts["router"])


def test_the_loss_repeats_with_its_generator_only(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model()
    first, again, other = (model.loss(batch, latents, generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_text_loss_is_the_mean_over_predicted_tokens(batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model()
    parts = model.loss(replace(batch, clean=torch.ones_like(batch.clean)), latents, generator())[1]
    assert set(parts) == {"text"}
    hidden, _ = model(batch, latents, torch.ones(len(latents)))
    expected = F.cross_entropy(model.text_out(hidden).flatten(0, 1), batch.text_target.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(parts["text"], expected)


@pytest.mark.parametrize("prediction", ["x", "v"])
def test_flow_loss_is_the_velocity_error_of_the_noised_frames(prediction: str, batch: PackedBatch, latents: Tensor) -> None:
    model = toys.model(flow=FlowConfig(prediction=prediction, minimum_noise=1e-6))
    seen: list[Tensor] = []
    original = model.forward
    model.forward = lambda b, z_t, t: seen.extend([z_t, t]) or original(b, z_t, t)  # type: ignore[func-returns-value]
    flow = model.loss(batch, latents, generator())[1]["flow"]
    z_t, t = seen
    assert torch.equal(t == 1, batch.clean)
    assert torch.equal(z_t[batch.clean], latents[batch.clean])
    hidden = original(batch, z_t, t)[0][batch.frame_id >= 0].unflatten(0, (-1, 4))
    noised = ~batch.clean
    z, z_t, t = latents[noised], z_t[noised], t[noised]
    noise = (z_t - t[:, None, None] * z) / (1 - t[:, None, None])
    error = model.denoise(hidden[noised], z_t, t) - (z - noise)
    torch.testing.assert_close(flow, error.square().mean(), rtol=1e-3, atol=1e-3)


def test_high_noise_is_reported_where_there_is_some(batch: PackedBatch, latents: Tensor) -> None:
    to_noise = toys.model(flow=FlowConfig(shift=1e4)).loss(batch, latents, generator())[1]
    to_clean = toys.model(flow=FlowConfig(shift=1e-4)).loss(batch, latents, generator())[1]
    torch.testing.assert_close(to_noise["flow_high_noise"], to_noise["flow"])
    assert "flow_high_noise" not in to_clean


def test_text_alone_needs_no_frame_and_a_picture_alone_no_text() -> None:
    model = toys.model()
    text = toys.pack([(Text("a red disc"),)])
    picture = toys.pack([(Frame(toys.picture(np.random.default_rng(0)), predict=True),)])
    assert set(model.loss(text, toys.random_latents(0), generator())[1]) == {"text"}
    assert "text" not in model.loss(picture, toys.random_latents(1), generator())[1]


def test_a_batch_that_predicts_nothing_is_refused() -> None:
    batch = toys.pack([(Text("a red disc", predict=False),)])
    with pytest.raises(UserError, match="predicts neither a token nor a frame"):
        toys.model().loss(batch, toys.random_latents(0), generator())


def test_a_width_below_the_channels_is_refused() -> None:
    with pytest.raises(UserError, match="width 64 is below the latents' 128 channels"):
        ModelConfig(TrunkConfig(width=64), channels=128)
    with pytest.raises(UserError, match="does not hold 16 tokens"):
        ModelConfig(grid=(3, 4))


@pytest.mark.parametrize("kind", ["modality", "moe"])
def test_one_batch_is_learnt_by_heart(kind: FeedForwardKind) -> None:
    torch.manual_seed(0)
    documents = [toys.Videos().document(0, np.random.default_rng(i)) for i in range(2)]
    batch = toys.pack(documents, [(Text(toys.WORDS[:60]),)])
    latents, model = toys.random_latents(len(batch.frames)), toys.model(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for _ in range(80):
        loss, parts = model.loss(batch, latents, generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in parts.items()})
    assert history[-1]["text"] < history[0]["text"] / 20
    assert history[-1]["flow"] < history[0]["flow"] / 20
    assert (batch.modality == VISION).any()
