"""Representation Autoencoder: a frozen encoder, fixed latent statistics, a decoder (RAE, arXiv 2510.11690).

    frames -> encoder (frozen) -> layer norm without affine -> normalization per position and channel ->
    latents -> the normalization undone -> ViT decoder -> frames

The encoder is our own, trained by self-supervision on the frames themselves, or a pretrained one (`pretrained.py`).
The decoder is trained on latents with noise added, so that it also decodes latents that a generative model
got nearly right. `encode` never adds noise.

Axes: b batch, t time, c channels, h w pixels, n tokens of a frame.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldmodel.codec.codec import Codec, read_config
from worldmodel.codec.pretrained import PretrainedConfig, PretrainedEncoder
from worldmodel.codec.vit import Decoder, DecoderConfig, Encoder, EncoderConfig
from worldmodel.errors import UserError


@dataclass(frozen=True)
class RAEConfig:
    """What it takes to build the codec's modules."""

    encoder: EncoderConfig | PretrainedConfig = field(default_factory=EncoderConfig)
    """Our own encoder, or a pretrained one as it describes itself; it fixes the shape of the latents."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Shape of the decoder."""
    noise: float = 0.8
    """tau: the decoder is trained on latents plus noise of deviation tau * U(0, 1), drawn per frame."""
    goal_features: int = 6
    """Number of goal features: a linear map of the latents in which distance counts steps (slow_features.py)."""

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise UserError(f"noise is {self.noise}, but a standard deviation cannot be negative")


class RAE(Codec):
    """A frozen encoder and a trained decoder; see the module's docstring."""

    kind = "rae"
    config: RAEConfig

    def __init__(self, config: RAEConfig, pretrained: PretrainedEncoder | None = None) -> None:
        """Build a codec with a fresh decoder.

        Args:
            config: what to build.
            pretrained: a loaded encoder of that config; without it the encoder's weights are fresh ones.
        """
        encoder: Encoder | PretrainedEncoder
        if isinstance(config.encoder, EncoderConfig):
            shape = config.encoder.grid, config.encoder.channels, config.encoder.image_size
            encoder = Encoder(config.encoder)
        else:
            encoder = pretrained or PretrainedEncoder(config.encoder)
            shape = encoder.grid, encoder.channels, encoder.image_size
        grid, channels, image_size = shape
        super().__init__(config, image_size, grid, channels, config.goal_features)
        self.encoder = encoder.requires_grad_(False).eval()
        self.decoder = Decoder(config.decoder, grid, channels, image_size)

    @classmethod
    def build(cls, config: dict[str, Any]) -> "RAE":
        """Build from `config.json`; a pretrained encoder is the one that has a name."""
        encoder, decoder = config.pop("encoder"), read_config(DecoderConfig, config.pop("decoder"))
        shape = read_config(PretrainedConfig, encoder) if "name" in encoder else read_config(EncoderConfig, encoder)
        return cls(read_config(RAEConfig, config, encoder=shape, decoder=decoder))

    def raw_encode(self, frames: Tensor) -> Tensor:
        """Return the encoder's output."""
        return self.encoder(frames)

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Return the decoder's output."""
        return self.decoder(latents)

    def decode_with_noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Decode latents (b, n, c) of `encode` with noise added to frames (b, 3, h, w), not clamped; for training.

        RAE's code draws the same deviations but adds the noise before the normalization, where its layer-normed tokens have a
        deviation of about 1, too. This one has that after the normalization alone, and so has what a generative model puts out.

        Args:
            latents: (b, n, c) from `encode`.
            generator: of the noise, on the latents' device.
        """
        device = latents.device
        sigma = self.config.noise * torch.rand(len(latents), 1, 1, generator=generator, device=device)
        noisy = latents + sigma * torch.randn(latents.shape, generator=generator, device=device)
        return self.decoder(noisy * self.std + self.mean)
