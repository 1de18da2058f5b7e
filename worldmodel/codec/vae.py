"""Variational autoencoder: a small convolutional network whose latents are pulled toward a normal distribution.

    frames -> convolutions, down by `downsampling` -> mean and deviation of a latent map -> patches of the map -> latents
    latents -> the map -> convolutions, up again, on a learned background -> frames

In small what latent diffusion uses (Kingma and Welling, arXiv 1312.6114; Rombach et al., arXiv 2112.10752): residual blocks with
group norm, a KL term with a small weight. Two by two numbers of the map become one token (a "patch" of the map, as in DiT), so
that with the defaults there are as many tokens and channels as the representation autoencoder has. No attention and no
perceptual loss by default.

Axes: b batch, n tokens of a frame, c channels of a token, h w pixels, k channels of the map.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.codec.codec import Codec, read_config
from worldmodel.codec.data import FrameBatchSampler
from worldmodel.codec.vit import patchify, unpatchify
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.codec.config import CodecConfig
    from worldmodel.codec.training_stages import EncoderVariant, Stages

GROUPS = 8
"""Groups of every group norm."""
LOG_VARIANCE = 20.0
"""The logarithm of a posterior's variance stays between minus and plus this, as in latent diffusion's code: no overflow."""


@dataclass(frozen=True)
class ConvConfig:
    """Shape of the convolutional encoder and decoder, and of the latents."""

    image_size: int = 64
    """Height and width of a frame in pixels."""
    downsampling: int = 8
    """Pixels to one row or column of the latent map: 2, 4, 8, ... The first halving is a rearrangement, the others convolutions."""
    map_channels: int = 16
    """Channels of the latent map."""
    patch_size: int = 2
    """Rows and columns of the map in one token, which has map_channels * patch_size ** 2 channels."""
    width: int = 16
    """Channels after the first halving; every further one doubles them. A multiple of 8."""
    blocks: int = 1
    """Residual blocks between two halvings."""

    def __post_init__(self) -> None:
        if self.downsampling < 2 or self.downsampling & (self.downsampling - 1):
            raise UserError(f"downsampling is {self.downsampling}, but it must be a power of two of at least 2")
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % (self.downsampling * self.patch_size):
            raise UserError(
                f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling} times patch_size "
                f"{self.patch_size}; choose sizes that divide the frame"
            )
        if self.width < GROUPS or self.width % GROUPS or self.blocks < 1 or self.map_channels < 1:
            raise UserError(
                f"width {self.width} must be a multiple of {GROUPS}; blocks {self.blocks}, map_channels {self.map_channels} at least 1"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one frame."""
        side = self.image_size // self.downsampling // self.patch_size
        return side, side

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return self.map_channels * self.patch_size**2

    @property
    def widths(self) -> list[int]:
        """Channels at each size, the largest first."""
        return [self.width * 2**level for level in range(self.downsampling.bit_length() - 1)]


@dataclass(frozen=True)
class VAEConfig(ConvConfig):
    """What it takes to build the codec."""

    goal_features: int = 6
    """Number of goal features: a linear map of the latents in which distance counts steps (slow_features.py)."""


class ResidualBlock(nn.Module):
    """Two convolutions with group norm before each, added to their input; begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, k, h, w) to (b, k, h, w)."""
        return x + self.layers(x)


class ConvEncoder(nn.Module):
    """Frames (b, 3, h, w) in [0, 1] -> mean and log variance of the posterior, (b, 2 k, h', w')."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, config.width, 3, padding=1)]
        for level, width in enumerate(config.widths):
            if level:
                layers.append(nn.Conv2d(width // 2, width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width) for _ in range(config.blocks)]
        width = config.widths[-1]
        layers += [nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, 2 * config.map_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames (b, 3, h, w) in [0, 1] to mean and log variance, (b, 2 k, h', w')."""
        return self.layers(2 * frames - 1)


class ConvDecoder(nn.Module):
    """Latent map (b, k, h', w') -> frames (b, 3, h, w), not clamped.

    Like the transformer decoder (vit.py) it decodes what differs from a learned background, and starts as the background alone.
    """

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [nn.Conv2d(config.map_channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(2 * width, width, 3, padding=1)]
            layers += [ResidualBlock(width) for _ in range(config.blocks)]
        layers += [nn.GroupNorm(GROUPS, config.width), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(config.width, 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.background = nn.Parameter(torch.full((3, config.image_size, config.image_size), 0.5))

    @property
    def last_layer(self) -> Tensor:
        """The weights of the layer that outputs pixels."""
        return self.head.weight

    def forward(self, latent_map: Tensor) -> Tensor:
        """Decode a latent map (b, k, h', w') to frames (b, 3, h, w), not clamped."""
        return self.background + F.pixel_shuffle(self.head(self.layers(latent_map)), 2)

    def set_background(self, picture: Tensor) -> None:
        """Start from a (3, h, w) picture in [0, 1]."""
        with torch.no_grad():
            self.background.copy_(picture)


class VAE(Codec):
    """Encoder and decoder trained together; see the module's docstring."""

    kind = "vae"
    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config, config.image_size, config.grid, config.channels, config.goal_features)
        self.encoder = ConvEncoder(config)
        self.decoder = ConvDecoder(config)

    @classmethod
    def build(cls, config: dict[str, Any]) -> "VAE":
        """Build from `config.json`."""
        return cls(read_config(VAEConfig, config))

    @classmethod
    def frame_size(cls, config: "CodecConfig") -> int:
        """Return the size of the frames that it is built for."""
        return config.vae.image_size

    @classmethod
    def training_steps(cls, config: "CodecConfig") -> int:
        """Return the steps of its one stage."""
        return config.vae_steps

    @classmethod
    def variants(cls, stages: "Stages") -> dict[str, "EncoderVariant"]:
        """Train encoder and decoder together."""
        config, seed = stages.config, stages.config.seed * 10 + 5
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            codec = cls(VAEConfig(**asdict(config.vae), goal_features=config.goal_features)).to(stages.device)
        codec.decoder.set_background(stages.background())
        sampler = FrameBatchSampler(stages.data, config.batch_size, config.extra_share)
        reconstruction_loss = stages.reconstruction_loss(stages.batch_sources())

        def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            batch = sampler.draw(generator)
            reconstruction, divergence = codec.reconstruct(batch.frames, generator)
            total, parts = reconstruction_loss(reconstruction, batch.frames, batch.scale, codec.decoder.last_layer, progress)
            return total + config.kl_weight * divergence, parts | {"kl": divergence.detach()}

        seconds = stages.fit("vae", codec, loss, config.vae_steps, seed, config.fit, reconstruction_loss.discriminator)
        return {"vae": stages.measured(codec, "vae", config.vae_steps, seconds)}

    @property
    def encoder_name(self) -> str:
        """What makes the latents, in a word."""
        return "convolutions"

    def raw_encode(self, frames: Tensor) -> Tensor:
        """Return the posterior's mean; latents are never sampled from it."""
        return patchify(self.posterior(frames)[0], self.config.patch_size)

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Return the decoder's output."""
        return self.decoder(unpatchify(latents, self.grid, self.config.patch_size))

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and log variance of the latent map, (b, k, h', w') each."""
        mean, log_variance = self.encoder(frames).chunk(2, dim=1)
        return mean, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)

    def reconstruct(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Decode frames from a sample of their posterior, for training; also return the posterior's KL divergence.

        Args:
            frames: (b, 3, h, w) in [0, 1].
            generator: of the draw, on the frames' device.

        Returns:
            (b, 3, h, w) reconstructed frames, and the KL divergence from a standard normal distribution in nats per number of the
            map (a scalar). The paper takes the sum over a frame; the mean does not change with the sizes.
        """
        mean, log_variance = self.posterior(frames)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        reconstruction = self.decoder(mean + (log_variance / 2).exp() * noise)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return reconstruction, divergence
