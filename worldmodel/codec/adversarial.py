"""An optional discriminator for the decoder: a small network that tells decoded patches from true ones.

As in RAE (arXiv 2510.11690; paper.md section 4): hinge loss for the discriminator, minus its mean score for the decoder, the weight of
that adapted so that it pulls at the decoder's last layer as hard as the other terms do (VQGAN, arXiv 2012.09841); off at first. The
discriminator there judges features of a pretrained DINO; ours is three convolutions over pixels, trained with the decoder.

Axes: b batch, h w pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError

LARGEST = 1e4
"""Of the adaptive weight."""


@dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial term of the decoder's loss."""

    weight: float = 0.0
    """Factor of the adaptive weight; 0: no discriminator. RAE takes 0.75."""
    discriminator_start: float = 0.375
    """Share of the decoder's steps before the discriminator learns (RAE: 6 of 16 epochs)."""
    start: float = 0.5
    """Share of the decoder's steps before the decoder minds the discriminator (RAE: 8 of 16 epochs)."""
    lr_factor: float = 0.1
    """Learning rate of the discriminator over that of the decoder."""
    width: int = 32
    """Channels of the discriminator's first convolution; the others have twice and four times as many. A multiple of 8."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.lr_factor <= 0:
            raise UserError(f"adversarial: weight {self.weight} must be at least 0, lr_factor {self.lr_factor} above 0")
        if not 0 <= self.discriminator_start <= self.start < 1:
            raise UserError(f"adversarial: discriminator_start {self.discriminator_start} and start {self.start} must rise in [0, 1)")
        if self.width < 8 or self.width % 8:
            raise UserError(f"adversarial: width {self.width} must be a multiple of 8")


class Discriminator(nn.Module):
    """Scores overlapping patches of frames: above 0 for true ones.

    Group norm, not batch norm: a frame's score must not depend on its company.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Score patches: (b, 3, h, w) in [0, 1] -> (b, 1, h / 4, w / 4)."""
        return self.layers(2 * frames - 1)


def discriminator_loss(discriminator: Discriminator, reconstruction: Tensor, frames: Tensor) -> Tensor:
    """Compute the hinge loss that trains the discriminator alone.

    It sees reconstructed frames as they would be saved, in 256 levels: values between or beyond these would give them away. RAE's code
    decodes once more for this, after the decoder's step; here one reconstruction serves both.
    """
    seen = (255 * reconstruction.detach().clamp(0, 1)).round() / 255
    return (F.relu(1 - discriminator(frames)).mean() + F.relu(1 + discriminator(seen)).mean()) / 2


def generator_loss(discriminator: Discriminator, reconstruction: Tensor) -> Tensor:
    """Compute minus the discriminator's mean score, the generator loss: it trains what decoded the frames, not the discriminator."""
    discriminator.requires_grad_(False)
    loss = -discriminator(reconstruction).mean()
    discriminator.requires_grad_(True)
    return loss


def adaptive_weight(loss: Tensor, generator_term: Tensor, last_layer: Tensor) -> Tensor:
    """Divide the norm of a loss's gradient at the last layer by that of the adversarial term; at most `LARGEST`, without gradient."""
    of_loss = torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
    of_generator = torch.autograd.grad(generator_term, last_layer, retain_graph=True)[0].norm()
    return (of_loss / (of_generator + 1e-6)).clamp(max=LARGEST).detach()
