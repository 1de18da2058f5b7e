import pytest
import torch

from worldmodel.codec.kinds import load_codec
from worldmodel.codec.vae import VAE, ConvConfig, VAEConfig
from worldmodel.errors import UserError


@pytest.fixture
def codec() -> VAE:
    torch.manual_seed(0)
    codec = VAE(VAEConfig(image_size=16, downsampling=4, map_channels=2, width=8, goal_features=3)).eval()
    torch.nn.init.normal_(codec.decoder.head.weight, std=0.05)
    codec.set_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.1)
    return codec


def test_default_latents_are_of_the_same_shape_as_the_representation_autoencoder_has():
    config = ConvConfig()
    assert config.grid == (4, 4) and config.channels == 64 and config.widths == [16, 32, 64]


def test_latents_are_the_posteriors_mean_and_keep_their_places(codec):
    frames = torch.rand(3, 3, 16, 16)
    latents = codec.encode(frames)
    assert latents.shape == (3, 4, 8) and torch.equal(latents, codec.encode(frames))
    mean = codec.posterior(frames)[0]  # (3, 2, 4, 4)
    assert torch.allclose((latents * codec.std + codec.mean)[:, 1].reshape(3, 2, 2, 2), mean[:, :, :2, 2:], atol=1e-5)
    assert torch.allclose(codec.decode(latents), codec.decoder(mean).clamp(0, 1), atol=1e-5)


def test_divergence_is_that_of_normal_distributions(codec):
    frames = torch.rand(3, 3, 16, 16)
    mean, log_variance = codec.posterior(frames)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    _, divergence = codec.reconstruct(frames, torch.Generator().manual_seed(0))
    assert torch.allclose(divergence, expected, rtol=1e-4)


def test_reconstruction_draws_from_the_generator_and_reaches_every_parameter(codec):
    frames = torch.rand(3, 3, 16, 16)
    for block in codec.modules():
        if hasattr(block, "layers") and isinstance(block.layers[-1], torch.nn.Conv2d):
            torch.nn.init.normal_(block.layers[-1].weight, std=0.05)  # a new block passes nothing on

    def reconstruct(seed):
        return codec.reconstruct(frames, torch.Generator().manual_seed(seed))

    reconstruction, divergence = reconstruct(1)
    assert torch.equal(reconstruction, reconstruct(1)[0]) and not torch.equal(reconstruction, reconstruct(2)[0])
    (reconstruction.square().mean() + divergence).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_new_decoder_starts_from_its_background():
    codec, picture = VAE(VAEConfig(image_size=16, downsampling=4, width=8)), torch.rand(3, 16, 16)
    codec.decoder.set_background(picture)
    assert torch.equal(codec.decode(torch.randn(2, 4, 64)), picture.expand(2, 3, 16, 16))


def test_what_was_saved_comes_back(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    again, frames = load_codec(tmp_path), torch.rand(2, 3, 16, 16)
    assert again.config == codec.config and not again.training
    latents = codec.encode(frames)
    assert torch.equal(again.encode(frames), latents) and torch.equal(again.decode(latents), codec.decode(latents))
    assert not any(name.startswith("decoder.") for name in codec.encoding_state())


@pytest.mark.parametrize(
    ("wrong", "named"), [({"downsampling": 6}, "6"), ({"image_size": 40}, "40"), ({"width": 12}, "12"), ({"map_channels": 0}, "0")]
)
def test_sizes_that_do_not_fit_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        ConvConfig(**wrong)
