"""The kinds of codec, and reading one of any kind from its folder."""

import copy
from pathlib import Path
from typing import Any, Literal

import torch

from worldmodel.codec.codec import SCHEMA_VERSION, Codec
from worldmodel.codec.pixels import Pixels
from worldmodel.codec.rae import RAE
from worldmodel.codec.vae import VAE
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.serialization import count_numbers, flatten, read_json, read_tensors, rebuild

CodecKind = Literal["rae", "vae", "pixels"]
KINDS: dict[CodecKind, type[Codec]] = {"rae": RAE, "vae": VAE, "pixels": Pixels}
"""By the name in `config.json`. A new kind is listed here and in the line above."""
FAR_LARGER = 8
"""A config may describe this many times the numbers that are there, and be read to say which ones are missing."""
MAKE, TRAIN = "make one with `worldmodel codec`", "train the codec again"


def read_record(folder: Path, remedy: str = TRAIN) -> dict[str, Any]:
    """Read a folder's config.json, if it is a codec's and of this schema version.

    Raises:
        UserError: for a missing, damaged or foreign file or another schema version; `remedy` says what to do.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no codec, there is no config.json; {MAKE if remedy == TRAIN else remedy}")
    record = read_json(path, remedy)
    if str(record.get("kind")) not in KINDS:
        raise UserError(
            f"{path} describes {record.get('kind')!r}, not a codec of kind {' or '.join(map(repr, KINDS))}; name another folder"
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
        codec = build(KINDS[record["kind"]], record["config"], there)
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
