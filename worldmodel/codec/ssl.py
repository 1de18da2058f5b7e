"""Two self-supervised objectives that train the same encoder: masked autoencoding and joint embedding.

Both answer the same call, `objective(batch, generator) -> (loss, parts)`, and own an `encoder`. All
randomness comes from the generator that is passed in.

Axes: b batch, c channels, h w pixels, n tokens of a frame, m visible tokens, d width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.codec.vit import Decoder, DecoderConfig, Encoder, EncoderConfig
from worldmodel.errors import UserError


@dataclass(frozen=True)
class FrameBatch:
    """Frames with a companion each."""

    frames: Tensor
    """(b, 3, h, w) in [0, 1]."""
    neighbours: Tensor
    """(b, 3, h, w) in [0, 1]: a frame of the same episode a few steps away, or the frame itself."""
    scale: Tensor
    """(b, 2): mean absolute and mean squared error of predicting the mean picture of the frame's source."""


@dataclass(frozen=True)
class MaskedConfig:
    """Masked autoencoding (MAE, arXiv 2111.06377)."""

    steps: int = 500
    """Training steps."""
    mask_ratio: float = 0.25
    """Share of patches hidden from the encoder; below the paper's 0.75 since a small frame has few tokens."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.mask_ratio < 1:
            raise UserError(f"masked: steps {self.steps} must be at least 1, mask_ratio {self.mask_ratio} between 0 and 1")


@dataclass(frozen=True)
class JointConfig:
    """Joint embedding with variance-invariance-covariance regularization (VICReg, arXiv 2105.04906)."""

    steps: int = 200
    """Training steps; one costs about twice a step of masked autoencoding."""
    neighbour_steps: int = 1
    """The second view is of a frame at most this many steps away in the same episode."""
    expander_width: int = 128
    """Dimensions in which the three terms are computed."""
    invariance: float = 25.0
    """Weight of the distance between two views."""
    variance: float = 25.0
    """Weight of the hinge that keeps every dimension's standard deviation at 1."""
    covariance: float = 1.0
    """Weight of the squared covariances between dimensions."""
    brightness: float = 0.02
    """A view is made brighter or darker by up to this share."""
    noise: float = 0.02
    """Standard deviation of pixel noise in a view."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.neighbour_steps < 0 or self.expander_width < 2:
            raise UserError(
                f"joint: steps {self.steps} must be at least 1, neighbour_steps {self.neighbour_steps} at "
                f"least 0, expander_width {self.expander_width} at least 2"
            )


class MaskedAutoencoder(nn.Module):
    """Hides patches, encodes the rest, and predicts the whole frame from what is left.

    Unlike MAE the loss covers the visible patches too: the one thing that moves is often wholly hidden,
    where nothing can be learned from it, and a visible token must keep its own content for the codec's
    decoder anyway. The error is relative to predicting the mean picture of the frame's source: in plain
    squared error a few icons outweigh hundreds of frames in which only a disc differs. The decoder has the
    codec's shape and is the start of the codec's own.
    """

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig, config: MaskedConfig) -> None:
        super().__init__()
        self.num_visible = max(1, round(encoder.num_tokens * (1 - config.mask_ratio)))
        self.encoder = Encoder(encoder)
        self.decoder = Decoder(decoder, encoder.grid, encoder.channels, encoder.image_size)
        self.mask_token = nn.Parameter(torch.zeros(decoder.width))

    def forward(self, batch: FrameBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the relative squared pixel error and its parts by name."""
        b, n = len(batch.frames), self.encoder.config.num_tokens
        order = torch.rand(b, n, generator=generator, device=batch.frames.device).argsort(dim=1)
        keep = order[:, : self.num_visible]  # (b, m)
        visible = self.decoder.embed(self.encoder(batch.frames, keep))  # (b, m, d)
        index = repeat(keep, "b m -> b m d", d=visible.shape[-1])
        hidden = repeat(self.mask_token, "d -> b n d", b=b, n=n)
        reconstruction = self.decoder.decode_tokens(hidden.scatter(1, index, visible))
        loss = ((reconstruction - batch.frames).square().mean(dim=(1, 2, 3)) / batch.scale[:, 1]).mean()
        return loss, {"reconstruction": loss.detach()}


class JointEmbedding(nn.Module):
    """Pulls two views together, the second of a neighboring frame, and keeps the embedding from collapsing.

    Views are photometric and faint: where things are is what the latents must encode, so nothing is cropped
    or shifted, and a disc that covers 1.5 % of a frame drowns in the usual color jitter. What makes the
    views differ is time. The expander sees all tokens side by side, with their places.
    """

    def __init__(self, encoder: EncoderConfig, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(encoder)
        width = config.expander_width
        self.expander = nn.Sequential(
            nn.Linear(encoder.num_tokens * encoder.channels, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, batch: FrameBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the three terms and the terms by name."""
        views = torch.cat([self.view(batch.frames, generator), self.view(batch.neighbours, generator)])
        embedded = self.expander(rearrange(self.encoder(views), "b n c -> b (n c)"))
        first, second = embedded.chunk(2)
        invariance = F.mse_loss(first, second)
        variance = (variance_hinge(first) + variance_hinge(second)) / 2
        covariance = (squared_covariance(first) + squared_covariance(second)) / 2
        config = self.config
        loss = config.invariance * invariance + config.variance * variance + config.covariance * covariance
        parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, {name: part.detach() for name, part in parts.items()}

    def view(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one random view of every frame, (b, 3, h, w) -> (b, 3, h, w)."""
        device = frames.device
        amount = 2 * torch.rand(len(frames), 1, 1, 1, generator=generator, device=device) - 1
        noise = torch.randn(frames.shape, generator=generator, device=device)
        return frames * (1 + self.config.brightness * amount) + self.config.noise * noise


def variance_hinge(x: Tensor) -> Tensor:
    """Compute how far the standard deviation of each dimension of (b, d) lies below 1, mean over d."""
    return F.relu(1 - (x.var(dim=0) + 1e-4).sqrt()).mean()


def squared_covariance(x: Tensor) -> Tensor:
    """Sum the squared covariances between different dimensions of (b, d), over d."""
    x = x - x.mean(dim=0)
    covariance = x.T @ x / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]
