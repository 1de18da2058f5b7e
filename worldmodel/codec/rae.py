"""Representation Autoencoder: a frozen encoder, fixed latent statistics, a decoder (RAE, arXiv 2510.11690).

    frames -> encoder (frozen) -> layer norm without affine -> normalisation per position and channel ->
    latents latents -> the normalisation undone -> ViT decoder -> frames

The decoder is trained on latents with noise added, so that it also paints latents that a generative model
got nearly right. `encode` never adds noise.

Axes: b batch, t time, c channels, h w pixels, n tokens of a frame.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldmodel import __version__
from worldmodel.codec.frames import check_frames, frames_to_float
from worldmodel.codec.vit import Decoder, DecoderConfig, Encoder, EncoderConfig
from worldmodel.errors import UserError

SCHEMA_VERSION = 1
KIND = "rae"


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
        largest = self.encoder.num_tokens * self.encoder.channels
        if not 1 <= self.goal_features <= largest:
            raise UserError(f"goal_features is {self.goal_features}, but it must lie between 1 and {largest}")


class RAE(nn.Module):
    """Encodes frames to normalised latents and paints latents back to frames.

    Attributes:
        image_size: height and width of a frame in pixels.
        grid: (rows, columns) of tokens.
        num_tokens: tokens n of a frame.
        channels: channels c of a token.
    """

    mean: Tensor
    std: Tensor
    goal_map: Tensor

    def __init__(self, config: RAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder).requires_grad_(False)
        self.decoder = Decoder(config.decoder, config.encoder)
        shape = (config.encoder.num_tokens, config.encoder.channels)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("goal_map", torch.zeros(shape[0] * shape[1], config.goal_features))

    @property
    def image_size(self) -> int:
        """Height and width of a frame in pixels."""
        return self.config.encoder.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.config.encoder.grid

    @property
    def num_tokens(self) -> int:
        """Tokens n of a frame."""
        return self.config.encoder.num_tokens

    @property
    def channels(self) -> int:
        """Channels c of a token."""
        return self.config.encoder.channels

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames to latents; the encoder is frozen, so no gradient flows.

        Args:
            frames: (b, 3, h, w) float in [0, 1].

        Returns:
            (b, n, c) with mean 0 and standard deviation 1 per position and channel over the training frames.

        Raises:
            UserError: for frames of another size.
        """
        if frames.ndim != 4 or frames.shape[1:] != (3, self.image_size, self.image_size):
            raise UserError(
                f"frames have shape {tuple(frames.shape)}, but this codec encodes float frames of shape "
                f"(batch, 3, {self.image_size}, {self.image_size}) in [0, 1]"
            )
        return (self.encoder(frames).float() - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, n, c) to frames (b, 3, h, w) in [0, 1]; differentiable inside that range.

        Raises:
            UserError: for latents of another shape.
        """
        if latents.ndim != 3 or latents.shape[1:] != (self.num_tokens, self.channels):
            raise UserError(
                f"latents have shape {tuple(latents.shape)}, but this codec decodes (batch, {self.num_tokens}, {self.channels})"
            )
        return self.decoder(latents * self.std + self.mean).float().clamp(0, 1)

    def goal_features(self, latents: Tensor) -> Tensor:
        """A linear map of latents (..., n, c) to (..., g), in which squared distance counts steps.

        Plain distance between latents is flat far from a goal; this one falls on the way there.
        Differentiable.
        """
        return rearrange(latents, "... n c -> ... (n c)") @ self.goal_map

    def encode_frames(self, frames: np.ndarray, batch_size: int = 256) -> Tensor:
        """Frames as files hold them, uint8 (..., h, w, 3), to latents (..., n, c) on the codec's device.

        Raises:
            UserError: for frames of another size or type.
        """
        check_frames(frames, self.image_size)
        flat = frames.reshape(-1, *frames.shape[-3:])
        parts = [
            self.encode(frames_to_float(flat[start : start + batch_size], self.mean.device))
            for start in range(0, len(flat), batch_size)
        ]
        latents = torch.cat(parts) if parts else self.mean.new_zeros(0, *self.mean.shape)
        return latents.reshape(*frames.shape[:-3], self.num_tokens, self.channels)

    def set_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Sets the (n, c) mean and variance of the encoder's output that `encode` normalises with."""
        self.mean.copy_(mean)
        self.std.copy_((variance + 1e-5).sqrt())

    def set_goal_map(self, goal_map: Tensor) -> None:
        """Sets the (n * c, g) map of `goal_features`."""
        self.goal_map.copy_(goal_map)

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

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes `config.json` and `model.safetensors`, each one whole or not at all.

        Raises:
            UserError: when the folder holds a config.json of something else.
        """
        folder = Path(folder)
        if (folder / "config.json").exists():
            read_config(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors.tmp")
        os.replace(folder / "model.safetensors.tmp", folder / "model.safetensors")
        config = {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "package_version": __version__,
            "config": dataclasses.asdict(self.config),
        }
        (folder / "config.json.tmp").write_text(json.dumps(config, indent=2) + "\n")
        os.replace(folder / "config.json.tmp", folder / "config.json")

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu") -> "RAE":
        """Reads what `save_pretrained` wrote, in evaluation mode.

        Raises:
            UserError: for a missing or foreign folder, another schema version, a damaged file, missing
                tensors.
        """
        folder = Path(folder)
        codec = cls(read_config(folder))
        path = folder / "model.safetensors"
        try:
            tensors = load_file(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing, although its config.json is there; train the codec again") from None
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}); train the codec again") from None
        expected = codec.state_dict()
        wrong = sorted(
            name
            for name in expected.keys() | tensors.keys()
            if name not in expected or name not in tensors or expected[name].shape != tensors[name].shape
        )
        if wrong:
            raise UserError(
                f"{path} does not fit its config.json: {len(wrong)} tensors are missing, unknown "
                f"or of another shape (first: {wrong[0]}); train the codec again"
            )
        codec.load_state_dict(tensors)
        return codec.to(device).eval()


def read_config(folder: Path) -> RAEConfig:
    """Reads and checks a codec's config.json.

    Raises:
        UserError: for a missing, damaged or foreign file or another schema version.
    """
    path = folder / "config.json"
    try:
        record: Any = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no codec, there is no config.json; make one with `worldmodel codec`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); train the codec again") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        kind = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise UserError(f"{path} describes {kind!r}, not a codec of kind {KIND!r}; name another folder")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {record.get('schema_version')!r}, but this version of worldmodel "
            f"reads {SCHEMA_VERSION}; train the codec again or install the version that wrote it "
            f"({record.get('package_version')})"
        )
    try:
        fields = dict(record["config"])
        encoder, decoder = EncoderConfig(**fields.pop("encoder")), DecoderConfig(**fields.pop("decoder"))
        return RAEConfig(encoder=encoder, decoder=decoder, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a valid codec config ({error}); train the codec again") from None
