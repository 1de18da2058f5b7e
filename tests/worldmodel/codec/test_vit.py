import pytest
import torch

from worldmodel.codec.vit import (
    Decoder,
    DecoderConfig,
    Encoder,
    EncoderConfig,
    patchify,
    sincos_positions,
    unpatchify,
)
from worldmodel.errors import UserError


def test_patches_are_row_by_row_and_come_back():
    frames = torch.rand(2, 3, 16, 16)
    patches = patchify(frames, 8)
    assert patches.shape == (2, 4, 192)
    assert torch.equal(patches[1, 1].reshape(3, 8, 8), frames[1, :, :8, 8:])
    assert torch.equal(unpatchify(patches, (2, 2), 8), frames)


def test_positions_differ_and_share_their_row_part():
    positions = sincos_positions((3, 4), 16)
    assert positions.shape == (12, 16)
    assert torch.unique(positions, dim=0).shape[0] == 12
    assert torch.equal(positions[4, :8], positions[7, :8])  # one row
    assert torch.equal(positions[1, 8:], positions[9, 8:])  # one column


def test_latents_are_layer_normed_per_token(tiny_encoder):
    latents = Encoder(tiny_encoder)(torch.rand(3, 3, 16, 16))
    assert latents.shape == (3, 4, 8)
    assert latents.mean(dim=-1).abs().max() < 1e-5
    assert (latents.var(dim=-1, correction=0) - 1).abs().max() < 1e-2


def test_encoding_all_patches_in_any_order_is_encoding_the_frame(tiny_encoder):
    encoder, frames = Encoder(tiny_encoder), torch.rand(1, 3, 16, 16)
    order = torch.tensor([[2, 0, 3, 1]])
    assert torch.allclose(encoder(frames, order)[0], encoder(frames)[0, order[0]], atol=1e-5)


def test_hidden_patches_change_nothing(tiny_encoder):
    encoder, frames, keep = Encoder(tiny_encoder), torch.rand(1, 3, 16, 16), torch.tensor([[0, 3]])
    changed = frames.clone()
    changed[:, :, :8, 8:] = 0  # patch 1
    assert torch.equal(encoder(frames, keep), encoder(changed, keep))
    changed[:, :, 8:, 8:] = 0  # patch 3
    assert not torch.allclose(encoder(frames, keep), encoder(changed, keep))


def test_a_grid_that_does_not_divide_the_frame_is_decoded_larger_and_scaled_down():
    decoder = Decoder(DecoderConfig(32, 1, 2), (3, 3), 8, 16)
    torch.nn.init.constant_(decoder.head.bias, 0.25)
    reconstruction = decoder(torch.randn(2, 9, 8))
    assert decoder.patch_size == 6 and reconstruction.shape == (2, 3, 16, 16)
    assert torch.allclose(reconstruction, torch.full_like(reconstruction, 0.75), atol=1e-5)


def test_a_new_decoder_starts_from_its_background():
    decoder, picture = Decoder(DecoderConfig(32, 1, 2), (2, 2), 8, 16), torch.rand(3, 16, 16)
    decoder.set_background(picture)
    assert torch.equal(decoder(torch.randn(2, 4, 8)), picture.expand(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"image_size": 60}, "60"),
        ({"width": 30}, "30"),
        ({"heads": 0}, "heads 0"),
        ({"depth": 0}, "depth 0"),
        ({"channels": 1}, "channels is 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        EncoderConfig(**wrong)
