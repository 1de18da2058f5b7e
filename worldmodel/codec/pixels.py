"""Patches of pixels as latents: nothing is learned but a mean picture, scales, and at most a rotation.

    frames -> averaged down to the resolution -> cut into patches -> principal components -> mean and scale taken off -> latents
    latents -> undone -> frames of the resolution -> enlarged bilinearly, with the detail of the mean picture

Small patches and few of their principal components keep all that can be seen in a frame, and keep it where it is: a small network
reads the true state from them as well as from the frame (docs/training.md, "Codecs"). Large whole patches are the control among the
codecs: what a learned representation adds shows beside them (arXiv 2603.03276, "raw pixels").

Axes: b batch, n tokens of a frame, c channels of a token, h w pixels, p patches' side.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.codec.codec import Codec, read_config
from worldmodel.codec.data import subset
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.vit import patchify, unpatchify
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.codec.config import CodecConfig
    from worldmodel.codec.training_stages import EncoderVariant, Stages

BASIS_FRAMES = 2048
"""Training frames that the principal components of patches are found on."""


@dataclass(frozen=True)
class PatchConfig:
    """How a frame is cut."""

    image_size: int = 64
    """Height and width of a frame in pixels."""
    patch_size: int = 4
    """Height and width, at the resolution, of the patch that becomes one token of 3 * patch_size ** 2 channels."""
    components: int = 16
    """Principal components of the patches that are kept; 0: the patches as they are."""
    resolution: int | None = None
    """Frames are averaged down to this height and width before they are cut, and enlarged again when decoded; None: full size. Whole
    patches have as many channels as numbers, and a model without a stem must be as wide: 32 pixels in patches of 8 are 16 tokens x
    192."""

    def __post_init__(self) -> None:
        if self.image_size < 1 or not 1 <= self.size <= self.image_size or self.image_size % self.size:
            raise UserError(f"resolution {self.resolution} must divide the image_size {self.image_size}")
        if self.patch_size < 1 or self.size % self.patch_size:
            raise UserError(f"patch_size {self.patch_size} does not divide the {self.size} pixels that are cut; choose one that does")
        if not 0 <= self.components <= 3 * self.patch_size**2:
            raise UserError(f"components is {self.components}, a patch has {3 * self.patch_size**2} numbers; 0 keeps all of them")

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
    """Number of goal features: a linear map of the latents in which distance counts steps (slow_features.py)."""


class Upsample(nn.Module):
    """Pictures of the resolution -> frames (b, 3, h, w): enlarged bilinearly, plus the detail of the mean picture.

    Like the decoders of the other kinds it decodes what differs from the mean picture: walls that never change stay sharp.
    """

    detail: Tensor

    def __init__(self, resolution: int, image_size: int) -> None:
        super().__init__()
        self.resolution, self.image_size = resolution, image_size
        self.register_buffer("detail", torch.zeros(3, image_size, image_size))

    def forward(self, small: Tensor) -> Tensor:
        """Enlarge pictures (b, 3, resolution, resolution) to frames (b, 3, h, w) and add the detail of the mean picture."""
        return self.upsample(small) + self.detail

    def shrink(self, frames: Tensor) -> Tensor:
        """Average (b, 3, h, w) to (b, 3, resolution, resolution)."""
        return frames if self.resolution == self.image_size else F.avg_pool2d(frames, self.image_size // self.resolution)

    def upsample(self, small: Tensor) -> Tensor:
        """Upsample (b, 3, resolution, resolution) to (b, 3, h, w), bilinearly; exact where both have the same size."""
        return F.interpolate(small, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)


class Pixels(Codec):
    """Patches of a frame's pixels; see the module's docstring."""

    kind = "pixels"
    counts_pictures = False  # all numbers have one scale: pictures would only make frames faint
    config: PixelsConfig
    basis: Tensor

    def __init__(self, config: PixelsConfig) -> None:
        numbers = 3 * config.patch_size**2
        super().__init__(config, config.image_size, config.grid, config.components or numbers, config.goal_features)
        if config.components:
            self.register_buffer("basis", torch.eye(numbers)[:, : config.components].contiguous())  # (3 p p, c), orthonormal columns
        self.decoder = Upsample(config.size, config.image_size)

    @classmethod
    def build(cls, config: dict[str, Any]) -> "Pixels":
        """Build from `config.json`."""
        return cls(read_config(PixelsConfig, config))

    @classmethod
    def frame_size(cls, config: "CodecConfig") -> int:
        """Return the size of the frames that are cut."""
        return config.pixels.image_size

    @classmethod
    def variants(cls, stages: "Stages") -> dict[str, "EncoderVariant"]:
        """Cut frames, which needs no training."""
        config, data = stages.config, stages.data
        codec = cls(PixelsConfig(**asdict(config.pixels), goal_features=config.goal_features)).to(stages.device).eval()
        if codec.config.components:
            codec.set_basis(frames_to_float(data.frames[subset(data.train, BASIS_FRAMES, config.seed)], stages.device))
        codec.set_background(stages.background().to(stages.device))
        return {"pixels": stages.measured(codec, "pixels", 0, 0.0)}

    @property
    def encoder_name(self) -> str:
        """What makes the latents, in a word."""
        return "patches"

    def raw_encode(self, frames: Tensor) -> Tensor:
        """Return the patches (b, n, 3 p p) in [0, 1], or their components (b, n, c)."""
        small, side = self.decoder.shrink(frames), self.config.patch_size
        if not self.config.components:
            return patchify(small, side)
        kernels = rearrange(self.basis, "(k p q) c -> c k p q", p=side, q=side)
        return rearrange(F.conv2d(small, kernels, stride=side), "b c y x -> b (y x) c")

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Put the patches side by side, enlarged."""
        latents = latents @ self.basis.T if self.config.components else latents
        return self.decoder(unpatchify(latents, self.grid, self.config.patch_size))

    def set_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Set the (n, c) mean picture, and one deviation for all numbers alike.

        With a deviation of its own, a pixel that hardly ever changes would become huge the one time that it does; one scale
        keeps distances in pixels what they are. Likewise for components: the fine ones, which say nothing before a thing is in its
        place, would drown the coarse ones (PushT, 17,000 transitions: the model's error one step ahead is 0.96 of that with another's
        actions where each component has its own deviation, 0.88 with one for all).
        """
        super().set_statistics(mean, variance.mean().expand_as(mean))

    @torch.no_grad()
    def set_basis(self, frames: Tensor) -> None:
        """Find the principal components of the patches of frames (b, 3, h, w), each relative to the mean patch of its position."""
        patches = patchify(self.decoder.shrink(frames), self.config.patch_size).double()
        apart = rearrange(patches - patches.mean(0), "b n k -> (b n) k")
        _, vectors = torch.linalg.eigh(apart.T @ apart)  # rising
        self.basis.copy_(vectors.flip(1)[:, : self.config.components])

    @torch.no_grad()
    def set_background(self, picture: Tensor) -> None:
        """Keep what a (3, h, w) mean picture in [0, 1] loses on the way to latents and back."""
        self.decoder.detail.zero_()
        self.decoder.detail.copy_(picture - self.raw_decode(self.raw_encode(picture[None]))[0])
