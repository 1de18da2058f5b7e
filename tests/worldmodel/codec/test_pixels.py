import pytest
import torch

from worldmodel.codec.kinds import KINDS, load_codec
from worldmodel.codec.pixels import PatchConfig, Pixels, PixelsConfig
from worldmodel.errors import UserError


def test_defaults_are_small_patches_and_few_components():
    codec = Pixels(PixelsConfig())
    assert (codec.num_tokens, codec.channels, codec.grid) == (256, 16, (16, 16))
    whole = Pixels(PixelsConfig(patch_size=8, components=0, resolution=32))
    assert (whole.num_tokens, whole.channels, whole.grid) == (16, 192, (4, 4))
    assert not [*codec.parameters(), *whole.parameters()]


def with_basis(components: int, frames: torch.Tensor) -> Pixels:
    codec = Pixels(PixelsConfig(16, 4, components))
    codec.set_basis(frames)
    return codec


def patches_of(frames: torch.Tensor) -> torch.Tensor:
    """(b, 3, 16, 16) -> (b, 16 patches, 48 numbers)."""
    cut = frames.unfold(2, 4, 4).unfold(3, 4, 4)  # (b, 3, y, x, 4, 4)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(len(frames), 16, 48)


def test_there_and_back_is_the_orthogonal_projection_on_the_principal_components():
    """What is left of a patch is the nearest that the components can be, and they leave the least variance of all there is."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40 * 16, 5, generator=generator) * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    patches = hidden @ torch.randn(5, 48, generator=generator) + 0.01 * torch.randn(40 * 16, 48, generator=generator)
    frames = patches.reshape(40, 4, 4, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(40, 3, 16, 16)
    patches = patches_of(frames)
    codec = with_basis(3, frames)
    assert torch.allclose(codec.basis.T @ codec.basis, torch.eye(3), atol=1e-5)
    kept = codec.raw_decode(codec.raw_encode(frames))
    left = patches - patches_of(kept)
    assert torch.allclose(left @ codec.basis, torch.zeros(40, 16, 3), atol=1e-3)  # at a right angle to what is kept
    assert torch.allclose(codec.raw_decode(codec.raw_encode(kept)), kept, atol=1e-3)  # twice is once
    apart = (patches - patches.mean(0)).reshape(-1, 48)
    _, spread, directions = torch.linalg.svd(apart, full_matrices=False)
    assert torch.allclose((codec.basis.T @ directions[:3].T).abs(), torch.eye(3), atol=1e-3)
    lost = (apart - apart @ codec.basis @ codec.basis.T).square().sum()
    assert lost.item() == pytest.approx(spread[3:].square().sum().item(), rel=1e-3)


def test_with_all_components_nothing_is_lost():
    frames = torch.rand(20, 3, 16, 16)
    codec = with_basis(48, frames)
    codec.set_statistics(torch.rand(16, 48), torch.rand(16, 48))
    assert torch.allclose(codec.decode(codec.encode(frames)), frames, atol=1e-4)


def test_components_are_found_against_the_mean_of_each_place():
    """A picture that never changes has none, however much its patches differ."""
    frames = torch.rand(1, 3, 16, 16).repeat(10, 1, 1, 1)
    frames[:, 1, 0, 0] += torch.arange(10) / 10  # all that changes: the green of one pixel
    codec = with_basis(1, frames)
    assert codec.basis[:, 0].abs().argmax() == 16 and codec.basis[16, 0].abs() > 0.999


def test_the_basis_is_saved_and_latents_depend_on_it(tmp_path):
    frames = torch.rand(30, 3, 16, 16)
    codec = with_basis(6, frames)
    codec.set_statistics(torch.rand(16, 6), torch.rand(16, 6))
    codec.set_background(frames.mean(0))
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path)
    assert isinstance(again, Pixels) and torch.equal(again.basis, codec.basis) and again.config.components == 6
    assert torch.equal(again.encode(frames), codec.encode(frames))
    assert torch.equal(again.decode(codec.encode(frames)), codec.decode(codec.encode(frames)))
    assert "basis" in codec.encoding_state()
    assert not torch.equal(Pixels(PixelsConfig(16, 4, 6)).raw_encode(frames), codec.raw_encode(frames))


def test_at_full_size_nothing_is_lost():
    codec, frames = Pixels(PixelsConfig(16, 8, 0)), torch.rand(5, 3, 16, 16)
    codec.set_statistics(torch.rand(4, 192), torch.rand(4, 192))
    latents = codec.encode(frames)
    assert latents.shape == (5, 4, 192)
    assert torch.allclose(codec.decode(latents), frames, atol=1e-5)


def test_frames_are_averaged_down_and_enlarged_again():
    codec = Pixels(PixelsConfig(16, 4, 0, 8))
    flat = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)
    assert torch.allclose(codec.decode(codec.encode(flat)), flat, atol=1e-4)
    checks = (torch.arange(16) % 2).float().expand(1, 3, 16, 16)
    assert torch.allclose(codec.decode(codec.encode(checks)), torch.full((1, 3, 16, 16), 0.5), atol=1e-4)


@pytest.mark.parametrize("components", [0, 5])
def test_the_mean_pictures_detail_stays_and_latents_do_not_depend_on_it(components):
    codec, picture = Pixels(PixelsConfig(16, 4, components, 8)), torch.rand(3, 16, 16)
    before = codec.encode(picture[None])
    for seen in (1 - picture, picture):  # the last one counts
        codec.set_background(seen)
    assert torch.allclose(codec.decode(codec.encode(picture[None]))[0], picture, atol=1e-5)
    assert torch.equal(codec.encode(picture[None]), before) and not any("detail" in name for name in codec.encoding_state())


def test_one_scale_for_all_numbers_keeps_distances_and_nothing_becomes_huge():
    codec, frames = Pixels(PixelsConfig(16, 8, 0)), torch.full((100, 3, 16, 16), 0.5)
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
    codec, frames = Pixels(PixelsConfig(16, 4, 0, 8, goal_features=3)), torch.rand(2, 3, 16, 16)
    codec.set_statistics(torch.rand(4, 48), torch.rand(4, 48))
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path)
    assert again.config == codec.config and torch.equal(again.encode(frames), codec.encode(frames))
    assert list(KINDS) == ["rae", "vae", "pixels"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"resolution": 24}, "24"), ({"resolution": 128}, "128"), ({"patch_size": 5}, "5"), ({"components": 49}, "49")],
)
def test_sizes_that_do_not_fit_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        PatchConfig(**wrong)
