"""Vision towers of transformers with random weights, from local folders."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.codec.pretrained import PretrainedConfig, PretrainedEncoder, load_encoder
from worldmodel.errors import UserError

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'worldmodel[encoders]'")

WIDTH, DEPTH = 16, 3
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = ("dinov2", "dinov2_with_registers", "siglip")


def saved(model: nn.Module, folder: Path) -> Path:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # also norms and layer scales, which start at one or zero
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 50}
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    siglip = transformers.SiglipConfig(text_config=text, vision_config=SMALL | {"intermediate_size": 24})
    registers = transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)
    return {
        "dinov2": saved(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)), root / "dinov2"),
        "dinov2_with_registers": saved(transformers.Dinov2WithRegistersModel(registers), root / "registers"),
        "siglip": saved(transformers.SiglipModel(siglip), root / "siglip"),
    }


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def hidden_state(folder: Path, kind: str, pixels: Tensor, layer: int) -> Tensor:
    """What the whole model computes, by hand: mean and deviation, hidden state, class and register tokens dropped."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (HALF if kind == "siglip" else IMAGENET))
    model = (transformers.SiglipVisionModel if kind == "siglip" else transformers.AutoModel).from_pretrained(folder).eval()
    with torch.no_grad():
        states = model((pixels - mean) / std, output_hidden_states=True).hidden_states
    assert len(states) == DEPTH + 1
    return states[layer][:, {"dinov2": 1, "dinov2_with_registers": 5, "siglip": 0}[kind] :]


@pytest.mark.parametrize("layer", [-1, 0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_patches_hidden_state_with_a_norm_without_affine(folders, frames, kind, layer):
    encoder = load_encoder(str(folders[kind]), image_size=20, input_size=32, layer=layer)
    tokens = encoder(frames)
    assert encoder.grid == (4, 4) and encoder.channels == WIDTH and encoder.image_size == 20
    assert tokens.shape == (2, 16, WIDTH)
    pixels = F.interpolate(frames, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    expected = hidden_state(folders[kind], kind, pixels, layer)
    assert torch.allclose(tokens, F.layer_norm(expected, (WIDTH,), eps=1e-6), atol=1e-5)
    assert tokens.mean(dim=-1).abs().max() < 1e-5
    assert (tokens.std(dim=-1, correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_from_config_and_tensors_without_the_folder(folders, frames, kind, tmp_path, monkeypatch):
    folder = shutil.copytree(folders[kind], tmp_path / "model")
    encoder = load_encoder(str(folder), 20, 32, layer=2)
    shutil.rmtree(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    record = json.loads(json.dumps(dataclasses.asdict(encoder.config)))
    again = PretrainedEncoder(PretrainedConfig(**record))
    assert not torch.allclose(again(frames), encoder(frames))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(frames), encoder(frames))
    assert again.config == encoder.config


def test_blocks_that_do_not_run_are_not_kept(folders):
    sizes = [
        sum(tensor.numel() for tensor in load_encoder(str(folders["dinov2"]), 32, 32, layer=k).state_dict().values()) for k in range(4)
    ]
    assert sizes[0] < sizes[1] and sizes[3] - sizes[2] == sizes[2] - sizes[1] == sizes[1] - sizes[0]


def test_frozen_in_evaluation_mode_but_differentiable_in_the_frames(folders, frames):
    encoder = load_encoder(str(folders["dinov2"]), 20, 32).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(frames).requires_grad
    encoder(frames.requires_grad_())[..., 0].sum().backward()
    assert frames.grad is not None and frames.grad.abs().sum() > 0


@pytest.mark.parametrize(("kind", "input_size"), [("dinov2", 224), ("dinov2_with_registers", 224), ("siglip", 32)])
def test_default_input_size(folders, kind, input_size):
    encoder = load_encoder(str(folders[kind]), 64)
    assert encoder.config.input_size == input_size and encoder.grid == (input_size // 8,) * 2


def test_positions_are_interpolated_to_another_grid(folders):
    encoder = load_encoder(str(folders["siglip"]), 64, input_size=64)
    assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 64, WIDTH)


def test_mean_and_deviation_are_the_folders_own(folders, frames, tmp_path):
    folder = shutil.copytree(folders["dinov2"], tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": HALF[0], "image_std": HALF[1]}))
    own, usual = load_encoder(str(folder), 20, 32), load_encoder(str(folders["dinov2"]), 20, 32)
    assert (own.config.mean, own.config.std) == HALF and (usual.config.mean, usual.config.std) == IMAGENET
    assert not torch.allclose(own(frames), usual(frames))


def test_nothing_is_said_about_the_text_tower(folders, capfd):
    load_encoder(str(folders["siglip"]), 32)
    assert capfd.readouterr() == ("", "")


def test_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path):
    def unreachable(self, name, timeout):
        assert timeout <= 10
        raise ConnectionError("Name or service not known\nAn error happened")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"service not known\); run `hf download facebook/dinov2-small --local-dir FOLDER`") as caught:
        load_encoder("facebook/dinov2-small", 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("online", [True, False])
def test_hub_name_is_fetched_or_found_in_the_hubs_cache(folders, frames, monkeypatch, online):
    def information(self, name, timeout):
        if not online:
            raise ConnectionError("unreachable")

    def download(name, allow_patterns, local_files_only):
        assert name == "owner/dinov2" and local_files_only is not online
        assert not any("bin" in pattern for pattern in allow_patterns)  # safetensors only
        return str(folders["dinov2"])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", information)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert torch.equal(load_encoder("owner/dinov2", 20, 32)(frames), load_encoder(str(folders["dinov2"]), 20, 32)(frames))


def edited(folder: Path, to: Path, **changes) -> str:
    shutil.copytree(folder, to)
    record = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(record | changes))
    return str(to)


def test_mistakes_are_refused_in_one_sentence(folders, tmp_path, monkeypatch):
    def refused(words: str, name: str, **options) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_encoder(name, **{"image_size": 32, "input_size": 32} | options)
        assert "\n" not in str(caught.value)

    dino = folders["dinov2"]
    refused("there is no folder ./nowhere", "./nowhere")
    refused("there is no folder dinov2", "dinov2")
    (tmp_path / "empty").mkdir()
    refused("there is no config.json in it", str(tmp_path / "empty"))
    refused("model of type 'vit', but an encoder must be of type dinov2", edited(dino, tmp_path / "vit", model_type="vit"))
    refused("take one of fixed resolution", edited(dino, tmp_path / "naflex", model_type="siglip2"))
    refused("lacks .* weights", edited(dino, tmp_path / "deeper", num_hidden_layers=DEPTH + 1))
    refused("cannot read the weights", edited(dino, tmp_path / "wider", hidden_size=2 * WIDTH))
    (Path(edited(dino, tmp_path / "cut")) / "model.safetensors").write_bytes(b"no tensors")
    refused("cannot read the weights", str(tmp_path / "cut"))
    Path(edited(dino, tmp_path / "pickled"), "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    refused("cannot read the weights .* with its model.safetensors", str(tmp_path / "pickled"))
    Path(edited(dino, tmp_path / "torn"), "config.json").write_text("{")
    refused("config.json is damaged", str(tmp_path / "torn"))
    refused("multiples of 8 pixels, such as 32", str(dino), input_size=33)
    refused("3 pixels are too small .* 4 x 4 tokens", str(dino), image_size=3)
    refused("layer is 4, but .* has 3 blocks", str(dino), layer=4)
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("pip install 'worldmodel.encoders.'", str(dino))
    with pytest.raises(UserError, match="of type 'vit'; supported are dinov2"):
        PretrainedConfig("x", 32, 32, 1, "vit", *IMAGENET, architecture=SMALL)
