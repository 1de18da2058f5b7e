"""The loss of decoded frames: pixels, and if wanted how alike they look and how well they pass for true ones.

    loss = L1 + L2 + perceptual_weight * perceptual distance + adversarial weight * adaptive weight * adversarial term

L1, L2 and the perceptual distance are each relative to predicting the mean picture of the frame's source: where only a disc differs
from frame to frame, in plain error a few icons would outweigh hundreds of frames. Relative, all three start near 1, and the weights
mean the same for every task.

Axes: b batch, h w pixels.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.codec.adversarial import AdversarialConfig, Discriminator, adaptive_weight, discriminator_loss, generator_loss
from worldmodel.codec.data import mean_picture, subset
from worldmodel.codec.frames import frames_to_float

SCALE_FRAMES = 64
"""Frames of a source that say how far its mean picture is from them."""


@dataclass(frozen=True)
class ReconstructionLoss:
    """The loss of decoded frames; trains a discriminator in the same step if there is one."""

    perceptual_weight: float = 0.0
    """Weight of the perceptual distance."""
    perceptual: nn.Module | None = None
    """The distance, `worldmodel.codec.perceptual`; None: not used."""
    perceptual_scale: Tensor | None = None
    """(b,) distance of the mean picture of each frame's source, on the frames' device."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """Of the discriminator."""
    discriminator: Discriminator | None = None
    """The discriminator; None: not used."""

    def __call__(
        self, reconstruction: Tensor, frames: Tensor, scale: Tensor, last_layer: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss and its parts by name.

        Args:
            reconstruction: (b, 3, h, w), not clamped, with gradient.
            frames: (b, 3, h, w) in [0, 1].
            scale: (b, 2) mean absolute and mean squared error of the mean picture of each frame's source.
            last_layer: weights of the decoder's last layer, where the adversarial term is weighed.
            progress: share of the training steps done, in [0, 1).
        """
        error = reconstruction - frames
        absolute = (error.abs().mean(dim=(1, 2, 3)) / scale[:, 0]).mean()
        squared = (error.square().mean(dim=(1, 2, 3)) / scale[:, 1]).mean()
        loss, parts = absolute + squared, {"l1": absolute.detach(), "l2": squared.detach()}
        if self.perceptual is not None and self.perceptual_scale is not None:
            look = (self.perceptual(reconstruction, frames) / self.perceptual_scale).mean()
            loss, parts["perceptual"] = loss + self.perceptual_weight * look, look.detach()
        if self.discriminator is None or progress < self.adversarial.discriminator_start:
            return loss, parts
        if progress >= self.adversarial.start:
            generator_term = generator_loss(self.discriminator, reconstruction)
            weight = self.adversarial.weight * adaptive_weight(loss, generator_term, last_layer)
            loss = loss + weight * generator_term
            parts |= {"generator": generator_term.detach(), "adversarial_weight": weight}
        discriminator_term = discriminator_loss(self.discriminator, reconstruction, frames)
        return loss + discriminator_term, parts | {"discriminator": discriminator_term.detach()}


@torch.no_grad()
def perceptual_scale(perceptual: nn.Module, sources: list[tuple[np.ndarray, int]], device: torch.device) -> Tensor:
    """Compute the mean distance (b,) of the mean picture from the frames of its source, at least 1e-4.

    Args:
        perceptual: the distance.
        sources: uint8 frames (P, h, w, 3) of each source, and how many of a batch come from it, in the batch's order.
        device: of the distance.
    """
    scales = []
    for frames, count in sources:
        some = frames_to_float(frames[subset(np.arange(len(frames)), SCALE_FRAMES, 0)], device)
        mean = mean_picture(frames)[0].to(device)
        scales.append(perceptual(mean.expand_as(some), some).mean().clamp_min(1e-4).expand(count))
    return torch.cat(scales)
