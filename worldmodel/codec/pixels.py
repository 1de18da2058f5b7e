"""Patches of pixels as latents: nothing is learnt but a mean picture and one scale.

    frames -> averaged down to the resolution -> cut into patches -> mean picture and scale taken off -> latents
    latents -> undone -> frames of the resolution -> enlarged bilinearly, with the detail of the mean picture

The control among the codecs: what a learnt representation adds shows beside it (paper.md section 2.8, "raw pixels").

Axes: b batch, n tokens of a frame, c channels of a token, h w pixels, p patches' side.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.codec.codec import Codec
from worldmodel.codec.vit import patchify, unpatchify
from worldmodel.errors import UserError


@dataclass(frozen=True)
class PatchConfig:
    """How a frame is cut."""

    image_size: int = 64
    """Height and width of a frame in pixels."""
    patch_size: int = 8
    """Height and width, at the resolution, of the patch that becomes one token of 3 * patch_size ** 2 channels."""
    resolution: int | None = 32
    """Frames are averaged down to this height and width before they are cut, and enlarged again when painted; None: full size. A
    patch has as many channels as it has numbers, and the model must be as wide: 32 pixels in patches of 8 are 16 tokens x 192."""

    def __post_init__(self) -> None:
        if self.image_size < 1 or not 1 <= self.size <= self.image_size or self.image_size % self.size:
            raise UserError(f"resolution {self.resolution} must divide the image_size {self.image_size}")
        if self.patch_size < 1 or self.size % self.patch_size:
            raise UserError(f"patch_size {self.patch_size} does not divide the {self.size} pixels that are cut; choose one that does")

    @property
    def size(self) -> int:
        """Height and width of what is cut, in pixels."""
        return self.image_size if self.resolution is None else self.resolution

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one frame."""
        return self.size // self.patch_size, self.size // self.patch_size


@dataclass(frozen=True)
class PixelsConfig(PatchConfig):
    """What it takes to build the codec."""

    goal_features: int = 6
    """Number of goal features: a linear map of the latents in which distance counts steps (metric.py)."""


class Enlarger(nn.Module):
    """Pictures of the resolution -> frames (b, 3, h, w): enlarged bilinearly, plus the detail of the mean picture.

    Like the decoders of the other kinds it paints what differs from the mean picture: walls that never change stay sharp.
    """

    detail: Tensor

    def __init__(self, resolution: int, image_size: int) -> None:
        super().__init__()
        self.resolution, self.image_size = resolution, image_size
        self.register_buffer("detail", torch.zeros(3, image_size, image_size))

    def forward(self, small: Tensor) -> Tensor:
        """See the class."""
        return self.enlarge(small) + self.detail

    def set_background(self, picture: Tensor) -> None:
        """Keeps what a (3, h, w) mean picture in [0, 1] loses at the resolution."""
        self.detail.copy_(picture - self.enlarge(self.shrink(picture[None]))[0])

    def shrink(self, frames: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 3, resolution, resolution), averaged."""
        return F.avg_pool2d(frames, self.image_size // self.resolution)

    def enlarge(self, small: Tensor) -> Tensor:
        """(b, 3, resolution, resolution) -> (b, 3, h, w), bilinearly; exact where nothing is to be enlarged."""
        return F.interpolate(small, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)


class Pixels(Codec):
    """Patches of a frame's pixels; see the module's docstring."""

    kind = "pixels"
    config: PixelsConfig

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__(config, config.image_size, config.grid, 3 * config.patch_size**2, config.goal_features)
        self.decoder = Enlarger(config.size, config.image_size)

    @classmethod
    def build(cls, config: dict[str, Any]) -> "Pixels":
        """From `config.json`."""
        return cls(PixelsConfig(**config))

    def raw_encode(self, frames: Tensor) -> Tensor:
        """The patches, (b, n, 3 p p) in [0, 1]."""
        return patchify(self.decoder.shrink(frames), self.config.patch_size)

    def raw_decode(self, latents: Tensor) -> Tensor:
        """The patches side by side, enlarged."""
        return self.decoder(unpatchify(latents, self.grid, self.config.patch_size))

    def set_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the (n, c) mean picture, and one deviation for all numbers alike.

        With a deviation of its own, a pixel that hardly ever changes would become huge the one time that it does; one scale
        keeps distances in pixels what they are.
        """
        super().set_statistics(mean, variance.mean().expand_as(mean))
