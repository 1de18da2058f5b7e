import pytest
import torch

from worldmodel.codec.codec import codec_kinds, load_codec
from worldmodel.codec.pixels import PatchConfig, Pixels, PixelsConfig
from worldmodel.errors import UserError


def test_defaults_are_as_many_tokens_as_the_other_kinds_have():
    codec = Pixels(PixelsConfig())
    assert (codec.num_tokens, codec.channels, codec.grid) == (16, 192, (4, 4))
    assert not list(codec.parameters())


def test_at_full_size_nothing_is_lost():
    codec, frames = Pixels(PixelsConfig(16, 8, None)), torch.rand(5, 3, 16, 16)
    codec.set_statistics(torch.rand(4, 192), torch.rand(4, 192))
    latents = codec.encode(frames)
    assert latents.shape == (5, 4, 192)
    assert torch.allclose(codec.decode(latents), frames, atol=1e-5)


def test_frames_are_averaged_down_and_enlarged_again():
    codec = Pixels(PixelsConfig(16, 4, 8))
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)
    assert torch.allclose(codec.decode(codec.encode(flat)), flat, atol=1e-4)
    checks = (torch.arange(16) % 2).float().expand(1, 3, 16, 16)
    assert torch.allclose(codec.decode(codec.encode(checks)), torch.full((1, 3, 16, 16), 0.5), atol=1e-4)


def test_the_mean_pictures_detail_stays_and_latents_do_not_depend_on_it():
    codec, picture = Pixels(PixelsConfig(16, 4, 8)), torch.rand(3, 16, 16)
    before = codec.encode(picture[None])
    codec.decoder.set_background(picture)
    assert torch.allclose(codec.decode(codec.encode(picture[None]))[0], picture, atol=1e-5)
    assert torch.equal(codec.encode(picture[None]), before) and not any("detail" in name for name in codec.encoding_state())


def test_one_scale_for_all_numbers_keeps_distances_and_nothing_becomes_huge():
    codec, frames = Pixels(PixelsConfig(16, 8, None)), torch.full((100, 3, 16, 16), 0.5)
    frames[:, :, :4] = torch.rand(100, 3, 4, 16)  # the rest never changes
    raw = codec.raw_encode(frames)
    codec.set_statistics(raw.mean(dim=0), raw.var(dim=0, correction=0))
    latents = codec.encode(frames)
    assert latents.mean(dim=0).abs().max() < 1e-4 and latents.square().mean().item() == pytest.approx(1, abs=0.01)
    changed = frames[:1].clone()
    changed[:, :, 15, 15] = 1.0  # a pixel that was always the same
    assert codec.encode(changed).abs().max() < 10
    ratio = (latents[0] - latents[1]).norm() / (frames[0] - frames[1]).norm()
    assert torch.allclose((latents[2] - latents[3]).norm() / (frames[2] - frames[3]).norm(), ratio, rtol=1e-4)


def test_what_was_saved_comes_back(tmp_path):
    codec, frames = Pixels(PixelsConfig(16, 4, 8, goal_features=3)), torch.rand(2, 3, 16, 16)
    codec.set_statistics(torch.rand(4, 48), torch.rand(4, 48))
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path)
    assert again.config == codec.config and torch.equal(again.encode(frames), codec.encode(frames))
    assert list(codec_kinds()) == ["rae", "vae", "pixels"]


@pytest.mark.parametrize(("wrong", "named"), [({"resolution": 24}, "24"), ({"resolution": 128}, "128"), ({"patch_size": 5}, "5")])
def test_sizes_that_do_not_fit_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        PatchConfig(**wrong)
