"""Representation Autoencoder: a frozen encoder, fixed latent statistics, a decoder (RAE, arXiv 2510.11690).

    frames -> encoder (frozen) -> layer norm without affine -> normalisation per position and channel ->
    latents -> the normalisation undone -> ViT decoder -> frames

The decoder is trained on latents with noise added, so that it also paints latents that a generative model
got nearly right. `encode` never adds noise.

Axes: b batch, t time, c channels, h w pixels, n tokens of a frame.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldmodel.codec.codec import Codec
from worldmodel.codec.vit import Decoder, DecoderConfig, Encoder, EncoderConfig
from worldmodel.errors import UserError


@dataclass(frozen=True)
class RAEConfig:
    """What it takes to build the codec's modules."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Shape of the encoder and of the latents."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Shape of the decoder."""
    noise: float = 0.8
    """tau: the decoder is trained on latents plus noise of deviation tau * U(0, 1), drawn per frame."""
    goal_features: int = 6
    """Number of goal features: a linear map of the latents in which distance counts steps (metric.py)."""

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise UserError(f"noise is {self.noise}, but a standard deviation cannot be negative")


class RAE(Codec):
    """A frozen encoder and a trained decoder; see the module's docstring."""

    kind = "rae"
    config: RAEConfig

    def __init__(self, config: RAEConfig) -> None:
        encoder = config.encoder
        super().__init__(config, encoder.image_size, encoder.grid, encoder.channels, config.goal_features)
        self.encoder = Encoder(encoder).requires_grad_(False)
        self.decoder = Decoder(config.decoder, encoder)

    @classmethod
    def build(cls, config: dict[str, Any]) -> "RAE":
        """From `config.json`."""
        encoder, decoder = EncoderConfig(**config.pop("encoder")), DecoderConfig(**config.pop("decoder"))
        return cls(RAEConfig(encoder=encoder, decoder=decoder, **config))

    def raw_encode(self, frames: Tensor) -> Tensor:
        """The encoder's output."""
        return self.encoder(frames)

    def raw_decode(self, latents: Tensor) -> Tensor:
        """What the decoder paints."""
        return self.decoder(latents)

    def decoder_loss(
        self, latents: Tensor, frames: Tensor, scale: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 + L2 of frames painted from noisy latents, each relative to painting the mean picture.

        Args:
            latents: (b, n, c) from `encode`.
            frames: (b, 3, h, w) in [0, 1].
            scale: (b, 2) mean absolute and mean squared error of the mean picture of each frame's source.
            generator: of the noise, on the latents' device.
        """
        device = latents.device
        sigma = self.config.noise * torch.rand(len(latents), 1, 1, generator=generator, device=device)
        noisy = latents + sigma * torch.randn(latents.shape, generator=generator, device=device)
        error = self.decoder(noisy * self.std + self.mean) - frames
        absolute = (error.abs().mean(dim=(1, 2, 3)) / scale[:, 0]).mean()
        squared = (error.square().mean(dim=(1, 2, 3)) / scale[:, 1]).mean()
        return absolute + squared, {"l1": absolute.detach(), "l2": squared.detach()}
