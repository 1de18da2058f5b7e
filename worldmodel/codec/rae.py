"""Representation Autoencoder: a frozen encoder, fixed latent statistics, a decoder (RAE, arXiv 2510.11690).

    frames -> encoder (frozen) -> layer norm without affine -> normalization per position and channel ->
    latents -> the normalization undone -> ViT decoder -> frames

The encoder is our own, trained by self-supervision on the frames themselves, or a pretrained one (`pretrained.py`).
The decoder is trained on latents with noise added, so that it also decodes latents that a generative model
got nearly right. `encode` never adds noise.

Axes: b batch, t time, c channels, h w pixels, n tokens of a frame.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldmodel.codec.codec import Codec, read_config
from worldmodel.codec.data import FrameBatchSampler, LatentSampler
from worldmodel.codec.pretrained import PretrainedConfig, PretrainedEncoder
from worldmodel.codec.ssl import JointEmbedding, MaskedAutoencoder
from worldmodel.codec.vit import Decoder, DecoderConfig, Encoder, EncoderConfig
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.codec.config import CodecConfig, SSLObjective
    from worldmodel.codec.training_stages import EncoderVariant, Stages


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

    @classmethod
    def frame_size(cls, config: "CodecConfig") -> int | None:
        """Return the size of our own encoder's frames; a pretrained one resizes them."""
        return None if config.encoder_name else config.encoder.image_size

    @classmethod
    def training_steps(cls, config: "CodecConfig") -> int:
        """Count the steps of the objectives, unless the encoder is a pretrained one, and of the decoder."""
        steps = {"mae": config.masked.steps, "vicreg": config.joint.steps}
        return config.decoder_steps + (0 if config.encoder_name else sum(steps[name] for name in config.objectives))

    @classmethod
    def variants(cls, stages: "Stages") -> dict[str, "EncoderVariant"]:
        """Take the pretrained encoder, or train one by each objective."""
        if stages.pretrained is not None:
            return {stages.config.encoder_name: cls.take_encoder(stages, stages.pretrained)}
        return {name: cls.train_encoder(stages, name) for name in stages.config.objectives}

    @classmethod
    def untrained(cls, stages: "Stages", encoder: PretrainedEncoder | None = None) -> "RAE":
        """Build the codec that is asked for, with fresh weights; a loaded encoder keeps its own."""
        config = stages.config
        shape = config.encoder if encoder is None else encoder.config
        return cls(RAEConfig(shape, config.decoder, config.noise, config.goal_features), encoder).to(stages.device).eval()

    @classmethod
    def take_encoder(cls, stages: "Stages", encoder: PretrainedEncoder) -> "EncoderVariant":
        """Build a codec with a pretrained encoder and a fresh decoder."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stages.config.seed * 10 + 4)
            codec = cls.untrained(stages, encoder)
        codec.decoder.set_background(stages.background())
        return stages.measured(codec, stages.config.encoder_name, 0, 0.0)

    @classmethod
    def train_encoder(cls, stages: "Stages", name: "SSLObjective") -> "EncoderVariant":
        """Train one encoder by one self-supervised objective."""
        config, seed = stages.config, stages.config.seed * 10 + (1 if name == "mae" else 2)
        objective: MaskedAutoencoder | JointEmbedding
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            codec = cls.untrained(stages)
            if name == "mae":
                objective = MaskedAutoencoder(config.encoder, config.decoder, config.masked).to(stages.device)
                objective.decoder.set_background(stages.background())
                steps, sampler = config.masked.steps, FrameBatchSampler(stages.data, config.batch_size, config.extra_share)
            else:  # extra pictures have no neighbors, and beside them the frames would look all alike
                objective = JointEmbedding(config.encoder, config.joint).to(stages.device)
                steps = config.joint.steps
                sampler = FrameBatchSampler(stages.data, config.batch_size, 0.0, config.joint.neighbour_steps)

        def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            return objective(sampler.draw(generator), generator)

        seconds = stages.fit(name, objective, loss, steps, seed, replace(config.fit, ema=0.0))
        codec.encoder.load_state_dict(objective.encoder.state_dict())
        if isinstance(objective, MaskedAutoencoder):
            codec.decoder.load_state_dict(objective.decoder.state_dict())
        else:
            codec.decoder.set_background(stages.background())
        return stages.measured(codec, name, steps, seconds)

    def train_decoder(self, stages: "Stages") -> float:
        """Train the decoder on latents of the frozen encoder."""
        config, sources = stages.config, stages.batch_sources()
        sampler = LatentSampler(sources, self.encode_frames, 4 * self.num_tokens * self.channels)
        reconstruction_loss = stages.reconstruction_loss(sources)

        def loss(generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            latents, frames, scale = sampler.draw(generator)
            reconstruction = self.decode_with_noise(latents, generator)
            return reconstruction_loss(reconstruction, frames, scale, self.decoder.last_layer, progress)

        seed = config.seed * 10 + 3
        return stages.fit("decoder", self, loss, config.decoder_steps, seed, config.fit, reconstruction_loss.discriminator)

    @property
    def encoder_name(self) -> str:
        """Name of a pretrained encoder, or what made our own."""
        return "self-supervised" if isinstance(self.config.encoder, EncoderConfig) else self.config.encoder.name

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
