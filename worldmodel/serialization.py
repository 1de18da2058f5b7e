"""What lies in a folder: JSON objects and tensors, read strictly, and a note of what the folder is for."""

import contextlib
import dataclasses
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldmodel.datasets.atomic import replacing, write_atomic
from worldmodel.datasets.records import parse_json, shortened
from worldmodel.errors import UserError

OTHER = "use another folder"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object, indented; whole or not at all."""
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path: Path, remedy: str = OTHER) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        remedy: what to do if it cannot be read.

    Raises:
        UserError: the file is missing, damaged, nested too deeply, or holds something else.
    """
    try:
        record = parse_json(path.read_text("utf8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the folder is not whole, {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except ValueError as error:  # of the decoding, or of the JSON
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path} holds {type(record).__name__}, expected a JSON object: {remedy}")
    return record


def rebuild(kind: Any, value: Any, where: str) -> Any:
    """Rebuild a value of the annotated type `kind` from JSON: every field must be there, and no other; numbers are finite.

    Raises:
        UserError: naming the place `where` something differs from the type.
    """
    if dataclasses.is_dataclass(kind):
        types_of = typing.get_type_hints(kind)
        if not isinstance(value, dict):
            raise UserError(f"{where} is {shortened(value)}, expected the fields {', '.join(types_of)}")
        missing, unknown = sorted(types_of.keys() - value.keys()), sorted(value.keys() - types_of.keys())
        if missing or unknown:
            parts = [f"misses {', '.join(missing)}"] * bool(missing) + [f"has the unknown {', '.join(unknown)}"] * bool(unknown)
            raise UserError(f"{where} {' and '.join(parts)}; it was written by another version of worldmodel")
        fields = {name: rebuild(inner, value[name], f"{where}.{name}") for name, inner in types_of.items()}
        try:
            assert isinstance(kind, type)
            return kind(**fields)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise UserError(f"{where}: {error}") from None
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        errors = []
        for inner in arguments:
            try:
                return rebuild(inner, value, where)
            except UserError as error:
                errors.append(error)
        raise errors[0]
    if origin is tuple and isinstance(value, list) and arguments[1:] == (...,):
        return tuple(rebuild(arguments[0], each, where) for each in value)
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(rebuild(inner, v, where) for inner, v in zip(arguments, value, strict=True))
    if kind is Any:
        return value
    if origin is list and isinstance(value, list):
        return [rebuild(arguments[0], each, where) for each in value]
    if origin is dict and isinstance(value, dict):
        return {name: rebuild(arguments[1], each, f"{where}.{name}") for name, each in value.items()}
    if origin is typing.Literal and value in arguments:
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if origin is None and kind is not float and type(value) is kind:
        return value
    expected = f"one of {', '.join(map(repr, arguments))}" if origin is typing.Literal else str(getattr(kind, "__name__", kind))
    raise UserError(f"{where} is {shortened(value)}, expected {expected}")


def read_tensors(module: nn.Module, path: Path, remedy: str = OTHER) -> None:
    """Fill a module from a safetensors file that has exactly its tensors.

    Args:
        module: filled in place.
        path: the file.
        remedy: what to do if it cannot be read.

    Raises:
        UserError: the file is missing or damaged, or a tensor is missing, unexpected, of another shape or type, or not finite.
    """
    with reading_tensors(path, remedy):
        tensors = load_file(path)
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape or type": sorted(
            name
            for name in expected.keys() & tensors.keys()
            if (tensors[name].shape, tensors[name].dtype) != (expected[name].shape, expected[name].dtype)
        ),
    }
    found = [f"{len(names)} {problem} (first: {names[0]})" for problem, names in problems.items() if names]
    if found:
        raise UserError(f"{path} does not fit its config.json, tensors: {', '.join(found)}; {remedy}")
    wild = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wild:
        raise UserError(f"{path} holds numbers that are not finite, in {len(wild)} tensors (first: {wild[0]}): {remedy}")
    module.load_state_dict(tensors)


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: from the system, with `path` as its file name; the library has an error of its own for it.
    """
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def count_numbers(path: Path, remedy: str = OTHER) -> int:
    """Count the numbers in a safetensors file, by its header.

    Raises:
        UserError: the file is missing or damaged.
    """
    with reading_tensors(path, remedy), safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


@contextlib.contextmanager
def reading_tensors(path: Path, remedy: str) -> Iterator[None]:
    """Turn what goes wrong with a safetensors file into a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the folder is not whole, {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None


def check_or_write_config(path: Path, record: dict[str, Any]) -> None:
    """Write to a file what its folder is for, or check that the file says the same.

    Args:
        path: JSON file in the folder, which the caller holds.
        record: settings, as JSON values.

    Raises:
        UserError: other settings are noted, or the file is damaged.
    """
    record = json.loads(json.dumps(record))
    if not path.exists():
        write_json(path, record)
        return
    before, now = flatten(read_json(path)), flatten(record)
    different = [name for name in now | before if before.get(name) != now.get(name)]
    if different:
        told = [[shortened(found[name]) if name in found else "not there" for found in (before, now)] for name in different[:4]]
        shown = ", ".join(f"{name} was {old} and is now {new}" for name, (old, new) in zip(different, told, strict=False))
        more = f", and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            f"the run folder {path.parent} holds a run with other settings: {shown}{more}; "
            "name another folder, or give the same settings to go on, to the version of worldmodel that began it"
        )


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects into one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
