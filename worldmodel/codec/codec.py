"""What every codec is: frames to normalized latents and back, in a folder of its own.

    frames -> raw latents (the codec's own) -> normalization per position and channel -> latents
    latents -> the normalization undone -> frames (the codec's own)

Three kinds, one interface: `rae` (a frozen representation with a trained decoder), `vae` and `pixels`. Everything that comes after
sees a `Codec` and never asks which.

Axes: b batch, c channels, h w pixels, n tokens of a frame.
"""

import copy
import dataclasses
import typing
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel import __version__
from worldmodel.codec.frames import check_frames, encode_frames
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.serialization import count_numbers, flatten, read_json, read_tensors, rebuild, write_json, write_tensors

SCHEMA_VERSION = 2
FAR_LARGER = 8
"""A config may describe this many times the numbers that are there, and be read to say which ones are missing."""
Config = TypeVar("Config")
MAKE, TRAIN = "make one with `worldmodel codec`", "train the codec again"


class Codec(nn.Module, ABC):
    """Encodes frames to normalized latents and decodes latents to frames.

    A kind of codec has a config (a dataclass, whole in `config.json`), says its sizes, and implements `raw_encode`, `raw_decode`
    and `build`. What only decoding needs lies in a module `decoder`.

    Attributes:
        kind: its name in `config.json`.
        config: dataclass that it is built from.
        image_size: height and width of a frame in pixels.
        grid: (rows, columns) of tokens.
        channels: channels c of a token.
        trained_on: digests of the episodes that it was trained on (`datasets/episodes/identity.py`).
    """

    kind: ClassVar[str]
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
        if (folder / "config.json").exists():
            read_record(folder)
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
        write_json(folder / "config.json", config)


def read_record(folder: Path, remedy: str = TRAIN) -> dict[str, Any]:
    """Read a folder's config.json, if it is a codec's and of this schema version.

    Raises:
        UserError: for a missing, damaged or foreign file or another schema version; `remedy` says what to do.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no codec, there is no config.json; {MAKE if remedy == TRAIN else remedy}")
    record, kinds = read_json(path, remedy), codec_kinds()
    if str(record.get("kind")) not in kinds:
        raise UserError(
            f"{path} describes {record.get('kind')!r}, not a codec of kind {' or '.join(map(repr, kinds))}; name another folder"
        )
    if record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {record.get('schema_version')!r}, but this version of worldmodel reads {SCHEMA_VERSION}; "
            f"{remedy} or install the version that wrote it ({record.get('package_version')})"
        )
    return record


def load_codec(folder: Path | str, device: torch.device | str = "cpu", remedy: str = TRAIN) -> Codec:
    """Read what `Codec.save_pretrained` wrote, of any kind, in evaluation mode.

    Args:
        folder: that it wrote.
        device: to put the codec on.
        remedy: what to do if it cannot be read.

    Raises:
        UserError: for a missing or foreign folder, another schema version, a damaged file, tensors that are not the config's.
    """
    folder = Path(folder)
    record = read_record(folder, remedy)
    there = count_numbers(folder / "model.safetensors", remedy)
    try:
        codec = build(codec_kinds()[record["kind"]], record["config"], there)
        trained_on = rebuild(list[str], record.get("trained_on", []), "trained_on")
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        version = record.get("package_version")
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{folder / 'config.json'}, of version {version}, is not a valid codec config ({reason}); {remedy}") from None
    read_tensors(codec, folder / "model.safetensors", remedy)
    codec.trained_on = tuple(trained_on)
    return codec.to(device).eval()


def build(kind: type[Codec], config: Any, there: int) -> Codec:
    """Build the codec of a `config.json`; one that is far larger than its tensors is refused before it is built.

    Args:
        kind: of codec.
        config: as the file holds it.
        there: numbers in the tensors.

    Raises:
        KeyError, TypeError, ValueError: as `Codec.build`; or a size is greater than the tensors allow.
    """
    if not isinstance(config, dict):
        raise TypeError(f"{shortened(config)} is no config")
    for name, value in flatten(config).items():
        if type(value) is int and value > there:
            raise UserError(f"{name} is {value}, more than the {there} numbers of model.safetensors")
    with torch.device("meta"):  # without memory
        asked = sum(tensor.numel() for tensor in kind.build(copy.deepcopy(config)).state_dict().values())
    if asked > FAR_LARGER * there:
        raise UserError(f"its sizes make a codec of {asked} numbers, far more than the {there} of model.safetensors")
    return kind.build(copy.deepcopy(config))


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


def codec_kinds() -> dict[str, type[Codec]]:
    """Return the kinds of codec by the name in their `config.json`."""
    from worldmodel.codec.pixels import Pixels  # these are made of what is above
    from worldmodel.codec.rae import RAE
    from worldmodel.codec.vae import VAE

    return {kind.kind: kind for kind in (RAE, VAE, Pixels)}
