"""Every kind of codec through `train_codec`: the same report, the same folder, the same safety."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tests.worldmodel.codec.test_rae import pretrained_encoder
from tests.worldmodel.codec.test_reconstruction_loss import Brightness
from tests.worldmodel.codec.test_training import Killed, kill_in
from worldmodel.codec import quality, training
from worldmodel.codec.adversarial import AdversarialConfig
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.kinds import KINDS as CLASSES
from worldmodel.codec.kinds import CodecKind, load_codec
from worldmodel.codec.pixels import PatchConfig
from worldmodel.codec.pretrained import PretrainedEncoder
from worldmodel.codec.ssl import JointConfig, MaskedConfig
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.codec.vae import ConvConfig
from worldmodel.errors import UserError

KINDS = {
    "rae": {"objectives": ("mae",)},
    "pretrained": {"encoder_name": "efficientnet-lite0"},
    "vae": {"kind": "vae", "vae": ConvConfig(16, 4, 2, width=8), "vae_steps": 6},
    "pixels": {"kind": "pixels", "pixels": PatchConfig(16, 4, 0, 8)},
    "components": {"kind": "pixels", "pixels": PatchConfig(16, 4, 6, 8)},
}


class Transpose(nn.Module):
    """(b, c, n) -> (b, n, c)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


@pytest.fixture(params=KINDS)
def kind_config(request, tiny_config, monkeypatch):
    monkeypatch.setattr(training, "load_encoder", lambda name, size, *rest: pretrained_encoder(2 * size))
    return dataclasses.replace(tiny_config, **KINDS[request.param])


@pytest.fixture
def vae_config(tiny_config):
    return dataclasses.replace(tiny_config, **KINDS["vae"])


def test_every_kind_is_listed_under_its_name():
    assert list(CLASSES) == list(get_args(CodecKind)) == [codec.kind for codec in CLASSES.values()]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 1 + 2 + 4),
        ({"objectives": ("vicreg",)}, 2 + 4),
        ({"encoder_name": "efficientnet-lite0"}, 4),
        ({"kind": "vae"}, 8),
        ({"kind": "pixels"}, 0),
    ],
)
def test_a_kind_counts_the_steps_of_its_stages(changes, steps):
    config = CodecConfig(masked=MaskedConfig(1), joint=JointConfig(2), decoder_steps=4, vae_steps=8, **changes)
    assert CLASSES[config.kind].training_steps(config) == steps


def test_every_kind_reports_the_same_things_and_comes_back(kind_config, square_world, tmp_path):
    codec, report = train_codec(kind_config, square_world, tmp_path)
    assert (report["kind"], report["latents"]) == (codec.kind, {"num_tokens": 4, "channels": codec.channels})
    latents = report["objectives"][report["chosen"]]
    assert {"probe", "goal_distance", "step_ratio", "std", "steps", "seconds"} == set(latents)
    wanted = {"psnr", "psnr_mean_frame", "psnr_moving", "ssim", "ssim_mean_frame", "perceptual", "psnr_extra", "probe_error_repainted"}
    assert wanted <= set(report["reconstruction"]) and 0 < report["reconstruction"]["ssim"] <= 1
    assert sum(report["parameters"].values()) == sum(parameter.numel() for parameter in codec.parameters())
    assert not any(parameter.requires_grad for parameter in codec.parameters()) and not (tmp_path / "checkpoints").exists()
    frames = frames_to_float(square_world.frames[:4])
    again, same = train_codec(kind_config, square_world, tmp_path)  # read, not trained
    assert torch.equal(again.encode(frames), codec.encode(frames)) and same["chosen"] == report["chosen"]
    assert torch.equal(load_codec(tmp_path).decode(codec.encode(frames)), codec.decode(codec.encode(frames)))
    train = codec.encode_frames(square_world.frames[square_world.train])
    extra = codec.encode_frames(square_world.extra)
    share = 0.0 if codec.kind == "pixels" else 0.25  # pixels have one scale, which is that of the frames
    assert ((1 - share) * train.mean(dim=0) + share * extra.mean(dim=0)).abs().max() < 1e-3


def test_every_kind_reconstructs_a_few_frames_better_than_their_mean(kind_config, square_world, tmp_path, monkeypatch):
    if kind_config.encoder_name:  # fresh weights of a deep network tell nothing of a frame; one layer's do
        network = nn.Sequential(nn.Conv2d(3, 112, 16, stride=16), nn.Flatten(2), Transpose())
        encoder = PretrainedEncoder(pretrained_encoder(32).config, network)
        monkeypatch.setattr(training, "load_encoder", lambda *_: encoder)
    few = np.arange(0, 320, 20)  # one frame of each episode, the held-out ones are seen too
    frames = square_world.frames[few]
    data = dataclasses.replace(
        square_world,
        frames=np.concatenate([frames, frames]),
        features=square_world.features[np.tile(few, 2)],
        episode=np.arange(32),
        train=np.arange(16),
        validation=np.arange(16, 32),
        extra=None,
        extra_validation=None,
    )
    fit = dataclasses.replace(kind_config.fit, lr=5e-3, checkpoint_every=1000)
    masked = dataclasses.replace(kind_config.masked, steps=100)
    config = dataclasses.replace(kind_config, fit=fit, masked=masked, vae_steps=150, decoder_steps=150, batch_size=16, noise=0.0)
    reconstruction = train_codec(config, data, tmp_path)[1]["reconstruction"]
    assert reconstruction["psnr"] > reconstruction["psnr_mean_frame"] + 2


def test_a_killed_vae_goes_on_bit_for_bit(vae_config, square_world, tmp_path, monkeypatch):
    config = dataclasses.replace(vae_config, adversarial=AdversarialConfig(0.5, 0.2, 0.4, width=8))
    whole, _ = train_codec(config, square_world, tmp_path / "whole")
    with monkeypatch.context() as context:
        kill_in("vae", 5, context)
        with pytest.raises(Killed):
            train_codec(config, square_world, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resumed, _ = train_codec(config, square_world, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert not any("discriminator" in name for name in whole.state_dict())


def test_divergence_falls_with_its_weight(vae_config, square_world, tmp_path):
    divergence = []
    frames = frames_to_float(square_world.frames[:64])
    for weight in (0.0, 1.0):
        config = dataclasses.replace(vae_config, kl_weight=weight, vae_steps=60)
        codec, _ = train_codec(config, square_world, tmp_path / str(weight))
        divergence.append(codec.reconstruct(frames, torch.Generator().manual_seed(0))[1].item())
    assert divergence[1] < 0.2 * divergence[0]


@pytest.mark.parametrize("kind", ["rae", "vae"])
def test_an_opponent_changes_what_is_learnt(kind, square_world, tiny_config, tmp_path):
    plain = dataclasses.replace(tiny_config, **KINDS[kind])
    against = dataclasses.replace(plain, adversarial=AdversarialConfig(weight=0.75, discriminator_start=0.0, start=0.4, width=8))
    codecs = [train_codec(config, square_world, tmp_path / name)[0] for name, config in (("plain", plain), ("against", against))]
    first, second = (codec.decoder.last_layer for codec in codecs)
    assert torch.isfinite(second).all() and not torch.equal(first, second)


def test_a_perceptual_term_changes_what_is_learnt_and_is_reported(vae_config, square_world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_perceptual", Brightness)
    monkeypatch.setattr(quality, "load_perceptual", Brightness)
    plain, report = train_codec(vae_config, square_world, tmp_path / "plain")
    assert report["reconstruction"]["perceptual"] > 0
    seen, _ = train_codec(dataclasses.replace(vae_config, perceptual_weight=1.0), square_world, tmp_path / "seen")
    assert not torch.equal(plain.decoder.last_layer, seen.decoder.last_layer)


def test_without_weights_a_perceptual_term_is_refused_before_anything_is_written(vae_config, square_world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load_perceptual", lambda: None)
    monkeypatch.setattr(quality, "load_perceptual", lambda: None)
    with pytest.raises(UserError, match="worldmodel datasets fetch hed lpips"):
        train_codec(dataclasses.replace(vae_config, perceptual_weight=1.0), square_world, tmp_path / "codec")
    assert not (tmp_path / "codec").exists()
    _, report = train_codec(vae_config, square_world, tmp_path / "codec")
    assert report["reconstruction"]["perceptual"] is None


def test_an_encoder_that_cannot_be_had_is_refused_before_anything_is_written(square_world, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, encoder_name=str(tmp_path / "no-such-folder"))
    with pytest.raises(UserError, match="no-such-folder|transformers"):
        train_codec(config, square_world, tmp_path / "codec")
    assert not (tmp_path / "codec").exists()


def test_a_pretrained_encoder_does_not_change(square_world, tiny_config, tmp_path, monkeypatch):
    encoder: nn.Module = pretrained_encoder(32)
    monkeypatch.setattr(training, "load_encoder", lambda *_: encoder)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    codec, report = train_codec(dataclasses.replace(tiny_config, encoder_name="efficientnet-lite0"), square_world, tmp_path)
    assert report["encoder"] == report["chosen"] == "efficientnet-lite0"
    assert all(torch.equal(before[name], tensor) for name, tensor in codec.encoder.state_dict().items())
    assert codec.decoder.head.weight.abs().sum() > 0
