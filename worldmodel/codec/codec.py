"""What every codec is: frames to normalized latents and back, in a folder of its own.

    frames -> raw latents (the codec's own) -> normalization per position and channel -> latents
    latents -> the normalization undone -> frames (the codec's own)

A kind of codec is one class in a file of its own, listed in `kinds.py`. Everything that comes after sees a `Codec` and never asks
which.

Axes: b batch, c channels, h w pixels, n tokens of a frame.
"""

import dataclasses
import typing
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel import __version__
from worldmodel.codec.frames import check_frames, encode_frames
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.serialization import read_json, rebuild, write_json, write_tensors

if TYPE_CHECKING:
    from worldmodel.codec.config import CodecConfig
    from worldmodel.codec.training_stages import EncoderVariant, Stages

SCHEMA_VERSION = 2
Config = TypeVar("Config")


class Codec(nn.Module, ABC):
    """Encodes frames to normalized latents and decodes latents to frames.

    A kind of codec has a config (a dataclass, whole in `config.json`), says its sizes, and implements `raw_encode`, `raw_decode` and
    `build`; and to be trained, `frame_size` and `variants`. What only decoding needs lies in a module `decoder`.

    Attributes:
        kind: its name in `config.json`.
        counts_pictures: whether extra pictures enter the statistics of its latents.
        config: dataclass that it is built from.
        image_size: height and width of a frame in pixels.
        grid: (rows, columns) of tokens.
        channels: channels c of a token.
        trained_on: digests of the episodes that it was trained on (`datasets/episodes/identity.py`).
    """

    kind: ClassVar[str]
    counts_pictures: ClassVar[bool] = True
    config: Any
    image_size: int
    grid: tuple[int, int]
    channels: int
    mean: Tensor
    std: Tensor
    goal_map: Tensor

    def __init__(self, config: Any, image_size: int, grid: tuple[int, int], channels: int, goal_features: int) -> None:
        super().__init__()
        self.config, self.image_size, self.grid, self.channels = config, image_size, grid, channels
        self.trained_on: tuple[str, ...] = ()
        shape = (grid[0] * grid[1], channels)
        if not 1 <= goal_features <= shape[0] * shape[1]:
            raise UserError(f"goal_features is {goal_features}, but it must lie between 1 and {shape[0] * shape[1]}")
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("goal_map", torch.zeros(shape[0] * shape[1], goal_features))

    @property
    def num_tokens(self) -> int:
        """Tokens n of a frame."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def raw_encode(self, frames: Tensor) -> Tensor:
        """Encode frames (b, 3, h, w) in [0, 1] to latents (b, n, c) before normalization."""

    @abstractmethod
    def raw_decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, n, c) without normalization to frames (b, 3, h, w), not clamped; differentiable."""

    @classmethod
    @abstractmethod
    def build(cls, config: dict[str, Any]) -> "Codec":
        """Build a codec with fresh weights from the config that `config.json` holds.

        Raises:
            KeyError, TypeError, ValueError: the fields are not those of this kind (UserError is a ValueError).
        """

    @classmethod
    @abstractmethod
    def frame_size(cls, config: "CodecConfig") -> int | None:
        """Return the height and width in pixels of the frames that a codec of this config is for; None: any."""

    @classmethod
    @abstractmethod
    def variants(cls, stages: "Stages") -> dict[str, "EncoderVariant"]:
        """Make or train the codecs to choose from, by what made their encoder; each ends with `stages.measured`."""

    @classmethod
    def training_steps(cls, config: "CodecConfig") -> int:
        """Count the steps of all stages of a training; 0: nothing is trained."""
        return 0

    def train_decoder(self, stages: "Stages") -> float:
        """Train what is trained only if the codec is chosen, and return the seconds that it took; nothing by default."""
        return 0.0

    @property
    def encoder_name(self) -> str:
        """What makes the latents, in a word."""
        return self.kind

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames to latents; the encoder is frozen, so no gradient flows.

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
        return (self.raw_encode(frames).float() - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, n, c) to frames (b, 3, h, w) in [0, 1]; differentiable inside that range.

        Raises:
            UserError: for latents of another shape.
        """
        if latents.ndim != 3 or latents.shape[1:] != (self.num_tokens, self.channels):
            raise UserError(
                f"latents have shape {tuple(latents.shape)}, but this codec decodes (batch, {self.num_tokens}, {self.channels})"
            )
        return self.raw_decode(latents * self.std + self.mean).float().clamp(0, 1)

    def goal_features(self, latents: Tensor) -> Tensor:
        """Map latents (..., n, c) linearly to features (..., g), in which squared distance counts steps.

        Plain distance between latents is flat far from a goal; this one falls on the way there.
        Differentiable.
        """
        return rearrange(latents, "... n c -> ... (n c)") @ self.goal_map

    def encode_frames(self, frames: np.ndarray, batch_size: int = 256) -> Tensor:
        """Encode frames as files hold them, uint8 (..., h, w, 3), to latents (..., n, c) on the codec's device.

        Raises:
            UserError: for frames of another size or type.
        """
        check_frames(frames, self.image_size)
        if not frames.size:
            return self.mean.new_zeros(*frames.shape[:-3], *self.mean.shape)
        return encode_frames(self, frames, self.mean.device, batch_size)

    def set_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Set the (n, c) mean and variance of `raw_encode`'s output that `encode` normalizes with."""
        self.mean.copy_(mean)
        self.std.copy_((variance + 1e-5).sqrt())

    def set_goal_map(self, goal_map: Tensor) -> None:
        """Set the (n * c, g) map of `goal_features`."""
        self.goal_map.copy_(goal_map)

    def encoding_state(self) -> dict[str, Tensor]:
        """Return the tensors that latents depend on, by name."""
        return {name: tensor for name, tensor in self.state_dict().items() if name != "goal_map" and not name.startswith("decoder.")}

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`, each one whole or not at all.

        Raises:
            UserError: when the folder holds a config.json of something else.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if path.exists() and (found := read_json(path).get("kind")) != self.kind:
            raise UserError(f"{path} describes {found!r}, not a codec of kind {self.kind!r}; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_tensors(tensors, folder / "model.safetensors")
        config = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "package_version": __version__,
            "config": dataclasses.asdict(self.config),
            "trained_on": list(self.trained_on),
        }
        write_json(path, config)


def read_config(kind: type[Config], given: Any, **parts: Any) -> Config:
    """Build a config from its fields in a `config.json`; fields that did not exist when it was written get their defaults.

    Args:
        kind: dataclass.
        given: its fields as JSON values.
        parts: fields that have been read.

    Raises:
        TypeError, ValueError: a field is missing, unknown, of another type or of a value that cannot be.
    """
    types = typing.get_type_hints(kind)
    if not isinstance(given, dict):
        raise TypeError(f"{shortened(given)} is no {kind.__name__}")
    unknown = sorted(given.keys() - types.keys())
    if unknown:
        raise TypeError(f"the unknown {', '.join(unknown)}")
    return kind(**parts, **{name: rebuild(types[name], value, name) for name, value in given.items()})
