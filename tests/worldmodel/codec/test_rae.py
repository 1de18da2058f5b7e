import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel import __version__
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.kinds import load_codec
from worldmodel.codec.pixels import Pixels, PixelsConfig
from worldmodel.codec.pretrained import PretrainedConfig, PretrainedEncoder
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.vae import VAE, VAEConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.errors import UserError


@pytest.fixture
def codec(tiny_encoder) -> RAE:
    torch.manual_seed(0)
    codec = RAE(RAEConfig(tiny_encoder, DecoderConfig(32, 1, 2), goal_features=3)).eval()
    torch.nn.init.normal_(codec.decoder.head.weight, std=0.02)
    codec.set_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.1)
    codec.set_goal_map(torch.randn(32, 3))
    return codec


@pytest.fixture
def saved(codec, tmp_path):
    codec.save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


def edit_config(folder, **changes):
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | changes))


def test_shapes_and_attributes(codec):
    assert (codec.num_tokens, codec.channels, codec.image_size, codec.grid) == (4, 8, 16, (2, 2))
    latents = codec.encode(torch.rand(3, 3, 16, 16))
    frames = codec.decode(latents)
    assert latents.shape == (3, 4, 8) and frames.shape == (3, 3, 16, 16)
    assert frames.min() >= 0 and frames.max() <= 1


def test_statistics_normalise_per_position_and_channel(codec):
    frames = torch.rand(200, 3, 16, 16)
    codec.set_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    raw = codec.encode(frames)
    codec.set_statistics(raw.mean(dim=0), raw.var(dim=0, correction=0))
    latents = codec.encode(frames)
    assert latents.mean(dim=0).abs().max() < 1e-4
    expected = (raw.var(dim=0, correction=0) / (raw.var(dim=0, correction=0) + 1e-5)).sqrt()
    assert torch.allclose(latents.std(dim=0, correction=0), expected, atol=1e-3)


def test_decoding_undoes_the_normalisation(codec):
    frames = torch.rand(2, 3, 16, 16)
    reconstruction = codec.decode(codec.encode(frames))
    codec.set_statistics(torch.randn(4, 8), torch.rand(4, 8) + 0.1)
    assert torch.allclose(codec.decode(codec.encode(frames)), reconstruction, atol=1e-4)


def test_any_leading_axes_can_be_encoded_in_pieces(codec):
    frames = np.random.default_rng(0).integers(0, 256, size=(2, 3, 16, 16, 3), dtype=np.uint8)
    latents = codec.encode_frames(frames, batch_size=4)
    assert latents.shape == (2, 3, 4, 8)
    assert torch.allclose(latents[1], codec.encode(frames_to_float(frames[1])), atol=1e-5)
    assert codec.encode_frames(frames[:0]).shape == (0, 3, 4, 8)
    assert codec.encode_frames(frames[0, 0]).shape == (4, 8)


def test_goal_features_are_linear_and_pass_gradients(codec):
    latents = torch.randn(2, 5, 4, 8, requires_grad=True)
    mapped = codec.goal_features(latents)
    assert mapped.shape == (2, 5, 3)
    assert torch.allclose(codec.goal_features(2 * latents), 2 * mapped, atol=1e-5)
    mapped.square().sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_encoding_gives_no_gradient_and_decoding_does(codec):
    frames = torch.rand(1, 3, 16, 16, requires_grad=True)
    latents = codec.encode(frames)
    assert not latents.requires_grad
    latents.requires_grad_(True)
    codec.decode(latents).sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_decoding_noisy_latents_trains_the_decoder_only_and_repeats_its_noise(codec):
    latents = codec.encode(torch.rand(4, 3, 16, 16))

    def decode():
        return codec.decode_with_noise(latents, torch.Generator().manual_seed(1))

    reconstruction = decode()
    assert torch.equal(reconstruction, decode())
    assert not torch.allclose(reconstruction, codec.raw_decode(latents * codec.std + codec.mean), atol=1e-4)
    reconstruction.square().mean().backward()
    assert all(parameter.grad is not None for parameter in codec.decoder.parameters())
    assert all(parameter.grad is None for parameter in codec.encoder.parameters())


def pretrained_encoder(input_size: int) -> PretrainedEncoder:
    """EfficientNet-Lite0 of stride 16 with fresh weights, for frames of 16 pixels."""
    config = PretrainedConfig(
        "efficientnet-lite0", 16, input_size, 9, "efficientnet-lite0", (0.5,) * 3, (0.5,) * 3, {"pyramid": False}
    )
    torch.manual_seed(0)
    return PretrainedEncoder(config)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_codec_with_a_pretrained_encoder_comes_back_without_its_package(tmp_path, rows):
    encoder = pretrained_encoder(16 * rows)
    codec = RAE(RAEConfig(encoder.config, DecoderConfig(32, 1, 2)), encoder).eval()
    assert (codec.grid, codec.image_size, codec.num_tokens) == ((rows, rows), 16, rows * rows)
    codec.save_pretrained(tmp_path)
    again, frames = load_codec(tmp_path), torch.rand(2, 3, 16, 16)
    assert again.config == codec.config and codec.encode(frames).std() > 0.1
    assert torch.equal(again.encode(frames), codec.encode(frames))
    assert again.decode(codec.encode(frames)).shape == frames.shape
    state = {name: tensor.clone() for name, tensor in codec.encoder.state_dict().items()}
    codec.train().encode(frames)
    assert all(torch.equal(state[name], tensor) for name, tensor in codec.encoder.state_dict().items())  # batch norms stay


def test_what_was_saved_comes_back(codec, saved):
    frames = torch.rand(2, 3, 16, 16)
    again = load_codec(saved)
    assert again.config == codec.config and not again.training
    latents = codec.encode(frames)
    assert torch.equal(again.encode(frames), latents)
    assert torch.equal(again.decode(latents), codec.decode(latents))
    assert torch.equal(again.goal_features(latents), codec.goal_features(latents))
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 16, 16), (2, 16, 16, 3)])
def test_frames_of_the_wrong_shape_are_refused(codec, shape):
    with pytest.raises(UserError, match="16, 16"):
        codec.encode(torch.rand(shape))


def test_latents_of_the_wrong_shape_are_refused(codec):
    with pytest.raises(UserError, match=r"\(1, 9, 8\)"):
        codec.decode(torch.rand(1, 9, 8))


def test_missing_and_foreign_folders_are_refused(codec, tmp_path):
    with pytest.raises(UserError, match="holds no codec"):
        load_codec(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="not a codec"):
        load_codec(tmp_path)
    with pytest.raises(UserError, match="not a codec"):
        codec.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'  # nothing overwritten
    (tmp_path / "config.json").write_text('{"kind": ')
    with pytest.raises(UserError, match="damaged"):
        load_codec(tmp_path)


def test_another_schema_version_is_refused(saved):
    edit_config(saved, schema_version=99)
    with pytest.raises(UserError, match="schema version 99"):
        load_codec(saved)


NO_STRIDE = {"name": "x", "image_size": 16, "input_size": 16, "layer": 1, "kind": "dinov2", "mean": [0], "std": [1]}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"encoder": {"hight": 3}, "decoder": {}},
        {"encoder": {"width": 30}},
        {"encoder": NO_STRIDE | {"architecture": {"patch_size": 0}}, "decoder": {}},
        5,
    ],
)
def test_a_config_that_makes_no_sense_is_refused(saved, config):
    edit_config(saved, config=config)
    with pytest.raises(UserError, match=f"of version {__version__}, is not a valid codec config .*; train the codec again"):
        load_codec(saved)


SMALL = {
    "rae": RAE(RAEConfig(EncoderConfig(16, 8, 8, 32, 1, 2), DecoderConfig(32, 1, 2), goal_features=3)),
    "pretrained": RAE(RAEConfig(pretrained_encoder(32).config, DecoderConfig(32, 1, 2))),
    "vae": VAE(VAEConfig(16, 4, 4, 2, width=8)),
    "pixels": Pixels(PixelsConfig(16, 4, 6, 8)),
}
FIELDS = {
    "rae": "encoder.image_size encoder.patch_size encoder.channels encoder.width encoder.depth encoder.heads decoder.width "
    "decoder.depth decoder.heads goal_features",
    "pretrained": "encoder.image_size encoder.input_size encoder.layer decoder.depth goal_features",
    "vae": "image_size downsampling map_channels patch_size width blocks goal_features",
    "pixels": "image_size patch_size resolution components goal_features",
}


@pytest.mark.parametrize("value", [-8, 10**9, "8", 8.5, True, [8]])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FIELDS.items() for name in names.split()])
def test_sizes_that_cannot_be_are_refused_by_file_and_field(kind, name, value, tmp_path):
    SMALL[kind].save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    *outer, field = name.split(".")
    (record["config"][outer[0]] if outer else record["config"])[field] = value
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"^{tmp_path / 'config.json'}, of version .*{field}.*; train the codec again"):
        load_codec(tmp_path)


@pytest.mark.parametrize(("kind", "name"), [("rae", "encoder.width"), ("vae", "width"), ("pixels", "image_size")])
def test_a_codec_far_larger_than_its_tensors_is_not_built(kind, name, tmp_path):
    SMALL[kind].save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    *outer, field = name.split(".")
    (record["config"][outer[0]] if outer else record["config"])[field] = 1024
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=f"^{tmp_path / 'config.json'}, .* a codec of [0-9]+ numbers, far more than the [0-9]+ of model"
    ):
        load_codec(tmp_path)


@pytest.mark.parametrize("episodes", [5, "abc", [1], {"a": 1}])
def test_what_it_was_trained_on_is_a_list_of_digests(saved, episodes):
    edit_config(saved, trained_on=episodes)
    with pytest.raises(UserError, match="config.json.* is not a valid codec config .trained_on"):
        load_codec(saved)


def test_a_field_that_is_newer_than_the_file_is_as_by_default(tmp_path):
    SMALL["pixels"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    del config["goal_features"]
    edit_config(tmp_path, config=config)
    assert load_codec(tmp_path).config == SMALL["pixels"].config


def test_missing_unknown_and_misshapen_tensors_are_refused(saved):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    without = {name: tensor for name, tensor in tensors.items() if name != "std"}
    wrong = {
        r"1 missing \(first: std\)": without,
        r"1 unexpected \(first: novel\)": tensors | {"novel": torch.ones(1)},
        r"1 of another shape or type \(first: std\)": tensors | {"std": torch.ones(3)},
    }
    for words, others in wrong.items():
        save_file(others, path)
        with pytest.raises(UserError, match=f"{words}; train the codec again"):
            load_codec(saved)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_codec(saved)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        load_codec(saved)


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"goal_features": 0}, {"goal_features": 10_000}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        RAE(RAEConfig(**wrong))
