import pytest
import torch
from torch import nn

from worldmodel.codec.adversarial import LARGEST, AdversarialConfig, Discriminator, adaptive_weight, discriminator_loss, generator_loss
from worldmodel.codec.frames import frames_to_uint8
from worldmodel.codec.reconstruction_loss import ReconstructionLoss, perceptual_scale
from worldmodel.errors import UserError


class Brightness(nn.Module):
    """A perceptual distance that is easy to compute by hand."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.mean(dim=(1, 2, 3)) - b.mean(dim=(1, 2, 3))).abs()


def last_layer_and_reconstruction() -> tuple[nn.Parameter, torch.Tensor]:
    """A last layer, and frames that it decodes."""
    torch.manual_seed(0)
    layer = nn.Parameter(torch.rand(4, 3 * 16 * 16))
    return layer, (torch.rand(6, 4) @ layer).reshape(6, 3, 16, 16) / 4


def test_errors_are_relative_to_the_mean_picture_of_each_source():
    frames = torch.rand(4, 3, 8, 8)
    mean = torch.full_like(frames, 0.5)
    scale = torch.stack([(mean - frames).abs().mean(dim=(1, 2, 3)), (mean - frames).square().mean(dim=(1, 2, 3))], dim=1)
    loss, parts = ReconstructionLoss()(mean, frames, scale, nn.Parameter(torch.ones(1)), 0.0)
    assert parts["l1"].item() == pytest.approx(1) and parts["l2"].item() == pytest.approx(1)
    assert loss.item() == pytest.approx(2)


def test_the_perceptual_distance_is_relative_too_and_weighed():
    black, white = torch.zeros(4, 3, 8, 8), torch.ones(4, 3, 8, 8)
    frames = frames_to_uint8(torch.cat([black, white]))  # the mean picture is grey
    scale = perceptual_scale(Brightness(), [(frames, 3), (frames_to_uint8(black), 1)], torch.device("cpu"))
    assert scale.tolist() == pytest.approx([0.5] * 3 + [1e-4], rel=0.01)
    reconstruction_loss = ReconstructionLoss(2.0, Brightness(), torch.full((4,), 0.5))
    loss, parts = reconstruction_loss(0.25 * white, black, torch.ones(4, 2), nn.Parameter(torch.ones(1)), 0.0)
    assert parts["perceptual"].item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(0.25 + 0.0625 + 2 * 0.5)


def test_the_opponent_begins_first_and_the_decoder_minds_it_later():
    config = AdversarialConfig(weight=1.0, discriminator_start=0.25, start=0.5, width=8)
    layer, reconstruction = last_layer_and_reconstruction()
    reconstruction_loss = ReconstructionLoss(adversarial=config, discriminator=Discriminator(8))
    terms = [
        set(reconstruction_loss(reconstruction, torch.rand_like(reconstruction), torch.ones(6, 2), layer, progress)[1])
        for progress in (0.2, 0.25, 0.5)
    ]
    assert terms[0] == {"l1", "l2"} and terms[1] == terms[0] | {"discriminator"}
    assert terms[2] == terms[1] | {"generator", "adversarial_weight"}


def test_each_side_trains_itself_alone():
    layer, reconstruction = last_layer_and_reconstruction()
    discriminator = Discriminator(8)
    discriminator_loss(discriminator, reconstruction, torch.rand(6, 3, 16, 16)).backward(retain_graph=True)
    assert layer.grad is None and all(parameter.grad is not None for parameter in discriminator.parameters())
    discriminator.zero_grad(set_to_none=True)
    generator_loss(discriminator, reconstruction).backward()
    assert layer.grad is not None and all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_opponent_sees_what_would_be_saved():
    discriminator, frames = Discriminator(8), torch.randint(0, 256, (4, 3, 16, 16)) / 255
    odd = frames + 0.3 * torch.rand(frames.shape) / 255 + 0.5 * (frames == 1).float() - 0.5 * (frames == 0).float()
    assert not torch.equal(odd, frames)
    same = discriminator_loss(discriminator, frames, frames).item()
    assert discriminator_loss(discriminator, odd, frames).item() == pytest.approx(same, rel=1e-6)


def test_the_adapted_weight_makes_both_pull_alike_and_is_finite():
    layer, reconstruction = last_layer_and_reconstruction()
    generator_term = generator_loss(Discriminator(8), reconstruction)
    loss = reconstruction.square().mean()
    weight = adaptive_weight(loss, generator_term, layer)
    pulls = [torch.autograd.grad(term, layer, retain_graph=True)[0].norm() for term in (loss, weight * generator_term)]
    assert pulls[0].item() == pytest.approx(pulls[1].item(), rel=0.01) and not weight.requires_grad
    assert adaptive_weight(100 * loss, 0 * generator_term, layer).item() == LARGEST
    assert adaptive_weight(0 * loss, generator_term, layer).item() == 0


def test_an_opponent_learns_to_tell_noise_from_frames():
    torch.manual_seed(0)
    discriminator = Discriminator(8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    for _ in range(60):
        loss = discriminator_loss(discriminator, torch.rand(8, 3, 16, 16), torch.rand(8, 3, 1, 1).expand(8, 3, 16, 16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    assert discriminator(torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)).mean() > discriminator(torch.rand(2, 3, 16, 16)).mean() + 1


@pytest.mark.parametrize(
    ("wrong", "named"), [({"weight": -1.0}, "weight -1.0"), ({"start": 0.2}, "start 0.2"), ({"width": 12}, "width 12")]
)
def test_impossible_settings_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        AdversarialConfig(**wrong)
