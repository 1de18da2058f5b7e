"""On which frames a codec is measured, and what its decoder is trained on."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.worldmodel import toys
from worldmodel.codec import quality
from worldmodel.codec.codec import Codec
from worldmodel.codec.data import CodecData
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.quality import choosing_frames, measure_latents, measure_reconstruction


@pytest.fixture
def codec() -> Codec:
    return toys.codec()


def test_the_probe_is_measured_on_held_out_episodes(square_world: CodecData, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[np.ndarray] = []
    fitted: list[tuple[np.ndarray, np.ndarray]] = []
    fit, report = quality.fit_probe, quality.probe_report

    def watched_report(probe: Any, latents: Any, features: np.ndarray, names: Any) -> Any:
        reported.append(features)
        return report(probe, latents, features, names)

    def watched_fit(latents: Any, features: np.ndarray, choose_latents: Any, choose_features: np.ndarray) -> Any:
        fitted.append((features, choose_features))
        return fit(latents, features, choose_latents, choose_features)

    monkeypatch.setattr(quality, "probe_report", watched_report)
    monkeypatch.setattr(quality, "fit_probe", watched_fit)
    index = square_world.train
    measure_latents(codec, square_world, index, codec.encode_frames(square_world.frames[index]), 0)
    assert np.array_equal(reported[0], square_world.features[square_world.validation])
    chosen = choosing_frames(square_world.episode[index])
    assert np.array_equal(fitted[0][0], square_world.features[index][~chosen])
    assert np.array_equal(fitted[0][1], square_world.features[index][chosen])


def test_reconstruction_is_measured_on_held_out_frames(square_world: CodecData, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    world = replace(square_world, extra=None, extra_validation=None)
    latents = codec.encode_frames(world.frames[world.train])
    probe, _ = measure_latents(codec, world, world.train, latents, 0)
    seen: list[torch.Tensor] = []
    psnr = quality.psnr

    def watched(reconstruction: torch.Tensor, frames: torch.Tensor) -> float:
        seen.append(frames)
        return psnr(reconstruction, frames)

    monkeypatch.setattr(quality, "psnr", watched)
    measure_reconstruction(codec, probe, world, 0)
    held_out = frames_to_float(world.frames[world.validation])
    assert len(seen) >= 3 and all(torch.equal(frames, held_out) for frames in seen[:3])


def test_each_frame_is_logged_above_its_reconstruction(square_world: CodecData, codec: Codec) -> None:
    logged: dict[str, torch.Tensor] = {}
    writer: Any = SimpleNamespace(add_images=lambda name, pictures: logged.update({name: pictures}))
    latents = codec.encode_frames(square_world.frames[square_world.train])
    probe, _ = measure_latents(codec, square_world, square_world.train, latents, 0)
    measure_reconstruction(codec, probe, square_world, 0, writer)
    frames = frames_to_float(square_world.frames[square_world.validation[:8]])
    extra = frames_to_float(square_world.extra_validation)  # type: ignore[arg-type]
    for name, true in (("frames_above_reconstructions_below", frames), ("extra_above_reconstructions_below", extra)):
        [picture], size = logged[f"codec/{name}"], true.shape[-1]
        assert picture.shape == (3, 2 * size, len(true) * size)
        reconstruction = codec.decode(codec.encode(true))
        for i in range(len(true)):
            column = picture[:, :, i * size : (i + 1) * size]
            assert torch.equal(column[:, :size], true[i])
            torch.testing.assert_close(column[:, size:], reconstruction[i], atol=1e-4, rtol=1e-4)


def test_every_eighth_episode_chooses_and_none_of_it_is_fitted() -> None:
    episode = np.repeat(np.arange(20), 5)
    chosen = choosing_frames(episode)
    assert set(episode[chosen]) == {0, 8, 16} and set(episode[chosen]).isdisjoint(episode[~chosen])
    assert set(np.repeat([3, 4], 2)[choosing_frames(np.repeat([3, 4], 2))]) == {3}
    assert choosing_frames(np.zeros(4)).tolist() == [False, False, True, True]


def test_the_decoder_is_trained_on_noise_of_every_strength(codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(codec, "decoder", torch.nn.Identity())
    monkeypatch.setattr(codec.decoder, "forward", lambda latents: shown.append(latents) or latents)
    codec.std.fill_(1.0)
    codec.mean.zero_()
    codec.decode_with_noise(torch.zeros(2000, codec.num_tokens, codec.channels), torch.Generator().manual_seed(0))
    strength = shown[0].std(dim=(1, 2)) / codec.config.noise
    assert strength.min() < 0.05 and strength.max() > 0.95 and float(strength.mean()) == pytest.approx(0.5, abs=0.03)
