"""Two self-supervised objectives that train the same encoder from scratch: masked autoencoding and joint embedding.

Both answer the same call, `objective(batch, generator) -> (loss, parts)`, and own an `encoder`; what else they own (a light
decoder, an expander) is thrown away after training. All randomness comes from the generator that is passed in.

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


@dataclass(frozen=True)
class MaskedConfig:
    """Masked autoencoding (MAE, arXiv 2111.06377)."""

    mask_ratio: float = 0.5
    """Share of patches hidden from the encoder; lower than the paper's 0.75 since a frame has few tokens."""
    decoder: DecoderConfig = DecoderConfig(width=128, depth=1, heads=4)
    """The light decoder that fills the hidden patches in."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio is {self.mask_ratio}, but it must lie between 0 and 1")


@dataclass(frozen=True)
class JointConfig:
    """Joint embedding with variance-invariance-covariance regularisation (VICReg, arXiv 2105.04906)."""

    expander_width: int = 512
    """Width of the expander in which the three terms are computed."""
    invariance: float = 25.0
    """Weight of the distance between two views."""
    variance: float = 25.0
    """Weight of the hinge that keeps every dimension's standard deviation at 1."""
    covariance: float = 1.0
    """Weight of the squared covariances between dimensions."""
    slowness: float = 5.0
    """Weight of the distance between the latents of two views, relative to their variance."""
    brightness: float = 0.1
    """A view is scaled and shifted by up to this much."""
    noise: float = 0.05
    """Standard deviation of pixel noise in a view."""
    erase: float = 0.1
    """Share of patches greyed out in a view."""
    neighbour_steps: int = 2
    """The second view is of a frame at most this many steps away in the same episode."""


class MaskedAutoencoder(nn.Module):
    """Hides patches, encodes the rest, and paints the whole frame from what is left.

    Unlike MAE the loss covers the visible patches too: with 16 tokens a frame the one thing that moves is often wholly
    hidden, where nothing can be learnt from it, and a visible token must keep its own content for the decoder anyway.
    """

    def __init__(self, encoder: EncoderConfig, config: MaskedConfig) -> None:
        super().__init__()
        self.num_visible = max(1, round(encoder.num_tokens * (1 - config.mask_ratio)))
        self.encoder = Encoder(encoder)
        self.decoder = Decoder(config.decoder, encoder)
        self.mask_token = nn.Parameter(torch.zeros(config.decoder.width))

    def forward(self, batch: FrameBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the mean squared pixel error and its parts by name."""
        b, n = len(batch.frames), self.encoder.config.num_tokens
        order = torch.rand(b, n, generator=generator, device=batch.frames.device).argsort(dim=1)
        keep = order[:, : self.num_visible]  # (b, m)
        visible = self.decoder.embed(self.encoder(batch.frames, keep))  # (b, m, d)
        index = repeat(keep, "b m -> b m d", d=visible.shape[-1])
        hidden = repeat(self.mask_token.to(visible.dtype), "d -> b n d", b=b, n=n)
        painted = self.decoder.transform(hidden.scatter(1, index, visible))
        loss = F.mse_loss(painted.float(), batch.frames)
        return loss, {"reconstruction": loss.detach()}


class JointEmbedding(nn.Module):
    """Pulls two views together, the second one of a neighbouring frame, and keeps the embedding from collapsing.

    Views are photometric only (no crops or shifts: where things are is what the latents must tell), and the neighbour is
    a step or two away in the same episode, so that latents change slowly along a trajectory. The expander sees all tokens
    side by side, with their places.
    """

    def __init__(self, encoder: EncoderConfig, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(encoder)
        width = config.expander_width
        self.expander = nn.Sequential(
            nn.Linear(encoder.num_tokens * encoder.channels, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, width),
        )

    def forward(self, batch: FrameBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted sum of the three terms and the terms by name."""
        views = torch.cat([self.view(batch.frames, generator), self.view(batch.neighbours, generator)])
        latents = rearrange(self.encoder(views), "b n c -> b (n c)").float()
        first, second = self.expander(latents).float().chunk(2)
        slowness = relative_distance(*latents.chunk(2))
        invariance = F.mse_loss(first, second)
        variance = (variance_hinge(first) + variance_hinge(second)) / 2
        covariance = (squared_covariance(first) + squared_covariance(second)) / 2
        config = self.config
        loss = config.invariance * invariance + config.variance * variance + config.covariance * covariance
        loss = loss + config.slowness * slowness
        parts = {"slowness": slowness, "invariance": invariance, "variance": variance, "covariance": covariance}
        return loss, {name: part.detach() for name, part in parts.items()}

    def view(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of every frame, (b, 3, h, w) -> (b, 3, h, w) in [0, 1]."""
        device, b = frames.device, len(frames)
        amount = self.config.brightness * (2 * torch.rand(2, b, 1, 1, 1, generator=generator, device=device) - 1)
        noise = torch.randn(frames.shape, generator=generator, device=device)
        rows, columns = self.encoder.config.grid
        erased = torch.rand(b, 1, rows, columns, generator=generator, device=device) < self.config.erase
        mask = F.interpolate(erased.float(), size=frames.shape[-2:])  # (b, 1, h, w)
        changed = frames * (1 + amount[0]) + amount[1] + self.config.noise * noise
        return torch.lerp(changed, torch.full_like(changed, 0.5), mask).clamp(0, 1)


def relative_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over d of the squared distance of two (b, d) views over the variance within them."""
    variance = (first.var(dim=0) + second.var(dim=0)) / 2
    return ((first - second).square().mean(dim=0) / (variance + 1e-5)).mean()


def variance_hinge(x: Tensor) -> Tensor:
    """(b, d) -> mean over d of how far its standard deviation lies below 1."""
    return F.relu(1 - (x.var(dim=0) + 1e-4).sqrt()).mean()


def squared_covariance(x: Tensor) -> Tensor:
    """(b, d) -> sum of the squared off-diagonal covariances over d."""
    x = x - x.mean(dim=0)
    covariance = x.T @ x / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]
