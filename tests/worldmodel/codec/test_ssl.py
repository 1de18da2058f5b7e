import pytest
import torch

from worldmodel.codec.ssl import (
    FrameBatch,
    JointConfig,
    JointEmbedding,
    MaskedAutoencoder,
    MaskedConfig,
    squared_covariance,
    variance_hinge,
)
from worldmodel.codec.vit import DecoderConfig
from worldmodel.errors import UserError


def batch_of(frames: torch.Tensor) -> FrameBatch:
    return FrameBatch(frames, frames, torch.ones(len(frames), 2))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(params=["mae", "vicreg"])
def objective(request, tiny_encoder):
    torch.manual_seed(0)
    if request.param == "mae":
        return MaskedAutoencoder(tiny_encoder, DecoderConfig(32, 1, 2), MaskedConfig())
    return JointEmbedding(tiny_encoder, JointConfig(expander_width=16))


def test_same_generator_same_loss_and_every_parameter_learns(objective):
    torch.manual_seed(1)
    if hasattr(objective, "decoder"):
        torch.nn.init.normal_(objective.decoder.head.weight, std=0.02)  # a new head is zero and passes nothing on
    batch = batch_of(torch.rand(8, 3, 16, 16))
    first, parts = objective(batch, generator())
    assert parts and torch.equal(first, objective(batch, generator())[0])
    first.backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_masked_loss_is_relative_to_the_scale_of_each_source(tiny_encoder):
    model = MaskedAutoencoder(tiny_encoder, DecoderConfig(32, 1, 2), MaskedConfig())
    frames = torch.rand(4, 3, 16, 16)
    scale = (frames - 0.5).square().mean(dim=(1, 2, 3))[:, None].expand(4, 2)
    loss, _ = model(FrameBatch(frames, frames, scale), generator())
    assert loss.item() == pytest.approx(1.0, abs=1e-4)  # a new decoder decodes grey, which is the scale here


def test_variance_hinge_and_covariance_of_known_data():
    collapsed, spread = torch.ones(50, 4), torch.randn(20_000, 4, generator=generator())
    assert variance_hinge(collapsed).item() == pytest.approx(0.99, abs=1e-6)
    assert variance_hinge(3 * spread).item() == 0
    assert squared_covariance(spread).item() < 1e-2
    copied = spread[:, :1].expand(-1, 4)
    assert squared_covariance(copied).item() == pytest.approx(12 / 4, rel=0.05)


def test_joint_embedding_prefers_neighbours_that_agree(tiny_encoder):
    torch.manual_seed(0)
    model = JointEmbedding(tiny_encoder, JointConfig(expander_width=16, brightness=0, noise=0))
    frames = torch.rand(8, 3, 16, 16)
    same = model(batch_of(frames), generator())[1]["invariance"]
    other = model(FrameBatch(frames, frames.flip(0), torch.ones(8, 2)), generator())[1]["invariance"]
    assert same == 0 and other > 0


@pytest.mark.parametrize(("config", "wrong"), [(MaskedConfig, {"mask_ratio": 1.0}), (JointConfig, {"steps": 0})])
def test_impossible_settings_are_refused(config, wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        config(**wrong)
