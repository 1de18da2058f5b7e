"""Frozen encoders trained by others, behind one interface: frames to tokens (RAE, arXiv 2510.11690; Scale-RAE, arXiv 2601.16208).

    frames -> resized to the encoder's own input, its own mean and deviation -> encoder -> class and register tokens dropped ->
    layer norm without affine -> tokens

DINOv2, SigLIP and SigLIP 2 through `transformers` (vision_towers.py), and EfficientNet-Lite0, which a package ships (efficientnet.py).

Axes: b batch, c channels, h w pixels, n tokens of a frame.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.codec import efficientnet
from worldmodel.codec.vision_towers import FAMILIES, build_tower, find_tower, load_tower
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError

LITE0 = "efficientnet-lite0"
PYRAMID = "efficientnet-lite0-pyramid"
SMALLEST_INPUT = 128
"""Smaller frames are enlarged to this for EfficientNet-Lite0, which was trained at 224 pixels: 8 x 8 tokens."""


@dataclass(frozen=True)
class PretrainedConfig:
    """Everything it takes to rebuild an encoder before its weights are read: no network, no other folder.

    Raises:
        UserError: the type is not supported, or the sizes do not fit each other.
    """

    name: str
    """What it was loaded as, a record only: efficientnet-lite0, efficientnet-lite0-pyramid, a name on the hub or a folder."""
    image_size: int
    """Height and width in pixels of the frames it takes."""
    input_size: int
    """Height and width that frames are resized to, a multiple of `stride`."""
    layer: int
    """Blocks that run: 0 is the embedding."""
    kind: str
    """efficientnet-lite0, or the model type of `transformers`."""
    mean: tuple[float, ...]
    """Of the pixels it was trained on, by color."""
    std: tuple[float, ...]
    """Their deviation."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """The architecture's own config."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists
        object.__setattr__(self, "std", tuple(self.std))
        if self.kind != LITE0 and self.kind not in FAMILIES:
            raise UserError(f"the encoder {self.name} is of type {self.kind!r}; supported are {', '.join((*FAMILIES, LITE0))}")
        sizes = {} if self.kind == LITE0 else {name: self.architecture.get(name) for name in ("patch_size", "hidden_size")}
        for name, value in [("image_size", self.image_size), *sizes.items()]:
            if type(value) is not int or value < 1:
                raise UserError(f"{name} of the encoder {self.name} is {shortened(value)}, must be a number of at least 1")
        if self.layer < 0:
            raise UserError(f"layer of the encoder {self.name} is {self.layer}, must be at least 0")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(f"mean {self.mean} and std {self.std} of the encoder {self.name} must be of three colors, std above 0")
        step = 2 * self.stride if self.pyramid else self.stride
        if self.input_size < step or self.input_size % step:
            near = max(step, self.input_size // step * step)
            raise UserError(f"input_size is {self.input_size}, but {self.name} takes multiples of {step} pixels, such as {near}")
        rows = self.grid[0]
        if self.image_size < rows:
            raise UserError(
                f"frames of {self.image_size} pixels are too small for {self.name}, which spreads them over {rows} x {rows} tokens; "
                f"use larger frames, or a smaller input_size (now {self.input_size})"
            )

    @property
    def pyramid(self) -> bool:
        """Whether maps of several strides make one token (EfficientNet-Lite0 only)."""
        return bool(self.architecture.get("pyramid"))

    @property
    def stride(self) -> int:
        """Pixels of the input from one token to the next."""
        if self.kind == LITE0:
            return 16 if self.pyramid else efficientnet.map_of_layer(self.layer)[0]
        return int(self.architecture["patch_size"])

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens."""
        return (self.input_size // self.stride,) * 2

    @property
    def channels(self) -> int:
        """Channels of a token."""
        if self.kind == LITE0:
            return efficientnet.pyramid_channels() if self.pyramid else efficientnet.map_of_layer(self.layer)[1]
        return int(self.architecture["hidden_size"])


class PretrainedEncoder(nn.Module):
    """Frames to tokens with a network that never trains; gradients still flow to the frames.

    Args:
        config: what it is.
        network: normalized pixels (b, 3, h, w) to (b, n, c), with its weights; None builds it with fresh weights, to be read.

    Attributes:
        image_size: height and width in pixels of the frames it takes.
        grid: (rows, columns) of tokens.
        channels: channels c of a token.

    Raises:
        UserError: `transformers` is needed and not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainedConfig, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.image_size, self.grid, self.channels = config, config.image_size, config.grid, config.channels
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)
        self.network = build_network(config) if network is None else network
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Stay in evaluation mode: no dropped paths."""
        return super().train(False)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames (b, 3, h, w) in [0, 1] to tokens (b, n, c), row by row, each of mean 0 and deviation 1 over its channels."""
        size = (self.config.input_size,) * 2
        if frames.shape[-2:] != size:
            # The bicubic filter overshoots: back into [0, 1], as image libraries do when they round to bytes.
            frames = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        tokens = self.network((frames - self.mean) / self.std)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def build_network(config: PretrainedConfig) -> nn.Module:
    """Build the network of an encoder with fresh weights.

    Raises:
        UserError: `transformers` is needed and not installed.
    """
    if config.kind == LITE0:
        return efficientnet.EfficientNetLite0(config.layer, config.pyramid)
    return build_tower(config.name, config.kind, config.architecture, config.layer)


def load_encoder(name: str, image_size: int, input_size: int | None = None, layer: int = -1) -> PretrainedEncoder:
    """Load an encoder with its weights, frozen.

    Args:
        name: efficientnet-lite0 (a map of stride 16, 112 channels) or efficientnet-lite0-pyramid (maps of strides 8, 16 and 32 in
            one, 592 channels); or the name on the hub, or the folder, of a DINOv2, SigLIP or SigLIP 2 model.
        image_size: height and width in pixels of the frames it will take.
        input_size: height and width that frames are resized to. By default 224 pixels for DINOv2 (rounded to its patch), what its
            positions were trained for for SigLIP, and for EfficientNet-Lite0 the frames' own size, at least 128.
        layer: number of the hidden state, before any final norm: 0 is the embedding, -1 the last one, for EfficientNet-Lite0 the
            one after block 11 of 16, the last of stride 16.

    Raises:
        UserError: `transformers` or the package is missing; the hub cannot be reached; the folder holds no such model or one of
            another type; sizes or layer do not fit it.
    """
    if name in (LITE0, PYRAMID):
        return _load_efficientnet(name, image_size, input_size, layer)
    files = find_tower(name)
    config = PretrainedConfig(
        name=name,
        image_size=image_size,
        input_size=files.input_size if input_size is None else input_size,
        layer=_from_the_front(layer, files.architecture["num_hidden_layers"], name),
        kind=files.kind,
        mean=files.mean,
        std=files.std,
        architecture=files.architecture,
    )
    return PretrainedEncoder(config, load_tower(name, files, config.layer))


def _load_efficientnet(name: str, image_size: int, input_size: int | None, layer: int) -> PretrainedEncoder:
    pyramid = name == PYRAMID
    if pyramid and layer != -1:
        raise UserError(f"layer is {layer}, but {name} takes several layers; use {LITE0} to choose one")
    if layer == -1:
        layer = efficientnet.PYRAMID[-1] if pyramid else efficientnet.DEFAULT_LAYER
    config = PretrainedConfig(
        name=name,
        image_size=image_size,
        input_size=max(SMALLEST_INPUT, round(image_size / 32) * 32) if input_size is None else input_size,
        layer=_from_the_front(layer, efficientnet.NUM_BLOCKS, name),
        kind=LITE0,
        mean=(efficientnet.MEAN,) * 3,
        std=(efficientnet.STD,) * 3,
        architecture={"pyramid": pyramid},
    )
    return PretrainedEncoder(config, efficientnet.load_efficientnet(config.layer, pyramid))


def _from_the_front(layer: int, depth: int, name: str) -> int:
    if not -depth - 1 <= layer <= depth:
        raise UserError(f"layer is {layer}, but {name} has {depth} blocks: 0 is the embedding, {depth} or -1 the last hidden state")
    return layer % (depth + 1)
