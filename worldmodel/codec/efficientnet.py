"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; the Lite variant of 2020): a frozen image encoder that a package ships.

    pixels -> stem (/2) -> 16 inverted bottlenecks (/2, /4, /8, /16, /32) -> maps of features

The network of 2020 in plain torch. It is only ever frozen, so every batch normalization is folded into the convolution before it. The
classifier and the convolution before it are left out.

Axes: b batch, c channels, h w pixels or places of a map, n tokens of a frame.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from worldmodel.datasets.packages import package_folder
from worldmodel.errors import UserError, first_line

STAGES = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
"""Blocks, expansion, kernel, stride of the first block, channels."""

NUM_BLOCKS = sum(stage[0] for stage in STAGES)

DEFAULT_LAYER = 11
"""Blocks up to the last map of stride 16, of 112 channels."""

PYRAMID = (5, 11, 16)
"""Blocks up to the last maps of strides 8, 16 and 32."""

MEAN, STD = 127 / 255, 128 / 255
"""What the network expects, of pixels in [0, 1]."""


def map_of_layer(layer: int) -> tuple[int, int]:
    """Return (stride, channels) of the map after so many blocks (0: the stem)."""
    stride, channels, blocks = 2, 32, 0
    for repeats, _, _, first, width in STAGES:
        if layer <= blocks:
            break
        stride, channels, blocks = stride * first, width, blocks + repeats
    return stride, channels


def pyramid_channels() -> int:
    """Return the channels of a token of the pyramid: a stride-8 map gives 4 places to each."""
    return sum(channels * max(1, 16 // stride) ** 2 for stride, channels in map(map_of_layer, PYRAMID))


class EfficientNetLite0(nn.Module):
    """Pixels to tokens: one map, or the maps of strides 8, 16 and 32 in one.

    Args:
        layer: blocks that run, 0..16; without effect on a pyramid.
        pyramid: each token holds a place of the stride-16 map, the four places of the stride-8 map in it and the place of the
            stride-32 map around it, each map after a layer norm of its own, so that none outweighs the others.
    """

    def __init__(self, layer: int = DEFAULT_LAYER, pyramid: bool = False) -> None:
        super().__init__()
        self.taken = PYRAMID if pyramid else (layer,)
        self.stem = Convolution(3, 32, 3, stride=2)
        channels, blocks = 32, []
        for repeats, expansion, kernel, first, width in STAGES:
            for i in range(repeats):
                blocks.append(Bottleneck(channels, width, expansion, kernel, first if i == 0 else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks[: self.taken[-1]])
        convert_conv2d_weight_memory_format(self, torch.channels_last)  # a third faster on a CPU

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (b, 3, h, w), normalized with MEAN and STD, to tokens (b, n, c), row by row."""
        x = self.stem(pixels).clamp(0, 6)
        maps = {0: x}
        for i, block in enumerate(self.blocks):
            maps[i + 1] = x = block(x)
        taken = [maps[layer] for layer in self.taken]
        if len(taken) == 1:
            return rearrange(taken[0], "b c h w -> b (h w) c")
        fine, middle, coarse = taken
        fine = rearrange(channel_norm(fine), "b c (h i) (w j) -> b (h w) (c i j)", i=2, j=2)
        middle = rearrange(channel_norm(middle), "b c h w -> b (h w) c")
        coarse = rearrange(F.interpolate(channel_norm(coarse), scale_factor=2, mode="nearest"), "b c h w -> b (h w) c")
        return torch.cat([fine, middle, coarse], dim=-1)


class Bottleneck(nn.Module):
    """Inverted bottleneck: widen each place, mix neighbors channel by channel, narrow; residual where the shapes agree."""

    def __init__(self, channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expand = Convolution(channels, width, 1) if expansion > 1 else None
        self.depthwise = Convolution(width, width, kernel, stride, groups=width)
        self.project = Convolution(width, out_channels, 1)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c', h / stride, w / stride)."""
        hidden = x if self.expand is None else self.expand(x).clamp(0, 6)
        update = self.project(self.depthwise(hidden).clamp(0, 6))
        return x + update if self.residual else update


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow pads maps of even size: of an odd margin, the larger half comes after."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out_channels, kernel, stride, groups=groups)
        margin = kernel - stride if kernel > 1 else 0
        self.margins = (margin // 2, margin - margin // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c', h / stride, w / stride)."""
        return super().forward(F.pad(x, self.margins))


def channel_norm(x: Tensor) -> Tensor:
    """Apply layer norm without affine over the channels of a map (b, c, h, w)."""
    return rearrange(F.layer_norm(rearrange(x, "b c h w -> b h w c"), x.shape[1:2]), "b h w c -> b c h w")


def load_efficientnet(layer: int = DEFAULT_LAYER, pyramid: bool = False) -> EfficientNetLite0:
    """Load the weights of the package efficientnet-lite0, trained on ImageNet; the file is read as tensors, nothing in it is executed.

    Raises:
        UserError: the package has not been fetched, or its file is damaged.
    """
    folder = package_folder("efficientnet-lite0") / "models"
    network = EfficientNetLite0(layer, pyramid)
    path = next(folder.glob("efficientnet-lite0-*.pth"), None)
    if path is None:
        raise UserError(
            f"{folder} holds no efficientnet-lite0-*.pth; delete it and run `worldmodel datasets fetch efficientnet-lite0`"
        )
    try:
        network.load_state_dict(folded(read_weights(path), len(network.blocks)))
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} is not EfficientNet-Lite0 ({first_line(error)}); delete its package and fetch it again") from None
    return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors written by `torch.save`, without unpickling anything else.

    Raises:
        UserError: the file is damaged or holds more than tensors.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        why = first_line(error)
        raise UserError(f"{path} is damaged or holds more than tensors ({why}); delete its package and fetch it again") from None
    return dict(weights)


def folded(weights: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    """Rename the package's tensors, batch normalizations (epsilon 1e-3) folded into the convolutions before them."""
    parts = [("stem", "_conv_stem", "_bn0")]
    for i in range(num_blocks):
        if f"_blocks.{i}._expand_conv.weight" in weights:
            parts.append((f"blocks.{i}.expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"))
        parts.append((f"blocks.{i}.depthwise", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"))
        parts.append((f"blocks.{i}.project", f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"))
    tensors = {}
    for name, convolution, norm in parts:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
        tensors[f"{name}.weight"] = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        tensors[f"{name}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return tensors
