"""A verb's whole configuration as a TOML file: what `--print-config` prints and `--config FILE` reads.

A file says what flags say, under the same names: `--train.lr 3e-4` is `lr = 3e-4` in the table `[train]`. What it leaves out is as
without a file. What a choice begins as stands under its own name, `preset = "tiny"`, or, where its fields have a table, in there:
`name = "mppi"` in `[planner]`.

The folder of a run is such a file, too: pretrain and quickstart keep in it what they were given.
"""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldmodel.choice import Choice
from worldmodel.datasets.records import read_toml, shortened
from worldmodel.errors import UserError
from worldmodel.scripts.fields import Field, all_fields, fields_of, with_value
from worldmodel.serialization import flatten, read_json, rebuild

Table = dict[str, Any]
NONE = "none"
"""What stands for none, where neither a text nor a path is meant; those are left out."""


def read_table(path: Path) -> Table:
    """Read a TOML file as dotted name -> value.

    Raises:
        UserError: there is none, or it is no TOML.
    """
    try:
        return flat(read_toml(path))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}; --print-config prints what it reads") from None
    except ValueError as error:  # of the decoding, or of TOML
        raise UserError(f"--config {path} is no TOML: {error}") from None


def flat(table: Mapping[str, Any], prefix: str = "") -> Table:
    """Flatten nested tables into one, with dotted names."""
    found: Table = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def read_run(folder: Path, config: Any) -> Table:
    """Read what a run was given from its folder, as `read_table` reads a file.

    Args:
        folder: of the run.
        config: of the verb, as it is by default.

    Raises:
        UserError: the folder holds no run of this verb.
    """
    said = folder / "arguments.json"
    record = read_json(said).get("arguments", {}) if said.exists() else read_json(folder / "config.json", "name a run's folder")
    try:
        return _of_record({name: value for name, value in record.items() if name not in ("schema_version", "kind")}, config)
    except (KeyError, AttributeError):
        raise UserError(f"--config {folder} is no folder of a run that this verb began, or of another version of worldmodel") from None


def _of_record(record: Mapping[str, Any], config: Any, prefix: str = "") -> Table:
    """Name what a nested record of a configuration says as a file does; KeyError for a name that it does not have."""
    fields, table = {each.name: each for each in fields_of(config, prefix)}, Table()
    for name, value in record.items():
        each = fields[name]
        inner = each.value
        if each.choice is not None:
            table[each.choice_key] = _likeliest(each.choice, value)
            inner = each.choice.options[table[each.choice_key]]()
        if dataclasses.is_dataclass(inner):
            table |= _of_record(value, inner, each.path)
        elif value is not None:
            table[each.key] = value
    return table


def _likeliest(choice: Choice, record: Any) -> str:
    """Name the option that has these fields, and of several the one with most of these values; KeyError if none has them."""
    if not isinstance(record, dict):
        raise KeyError(shortened(record))
    told = flatten(record)
    found = {}
    for name, make in choice.options.items():
        values = flatten(json.loads(json.dumps(dataclasses.asdict(make()))))
        if values.keys() == told.keys():
            found[name] = sum(values[key] == value for key, value in told.items())
    if not found:
        raise KeyError(*record)
    return max(found, key=lambda name: found[name])


def check_names(table: Table, known: set[str], path: Path) -> None:
    """Refuse names that a file has and the verb has not.

    Raises:
        UserError: naming the first of them, and what may have been meant.
    """
    unknown = next((name for name in table if name not in known), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, known, 1)
        hint = f"; did you mean {close[0]}?" if close else "; --print-config prints all that it can say"
        raise UserError(f"--config {path}: unknown key {unknown}{hint}")


def with_table(config: Any, table: Table, path: Path) -> Any:
    """Return a configuration with the values of a file; call it within `unchecked`.

    Args:
        config: what stays where the file says nothing.
        table: what the file says, flat, without the choices.
        path: the file, for messages.

    Raises:
        UserError: naming a key that is unknown, or whose value is of another type.
    """
    fields = [each for each in all_fields(config) if not each.is_group]
    dicts = {each.key for each in fields if isinstance(each.value, dict)}
    table = _gathered(table, dicts)
    check_names(table, {each.key for each in fields}, path)
    for each in fields:
        if each.key in table:
            none = table[each.key] == NONE and _says_none(each)
            value = None if none else rebuild(each.kind, table[each.key], f"--config {path}: {each.key}")
            config = with_value(config, each.place, value)
    return config


def _says_none(field: Field) -> bool:
    """Test whether a field may be none, and is no text or path, which could be called so."""
    kinds = typing.get_args(field.kind)
    return type(None) in kinds and not {str, Path} & set(kinds)


def _gathered(table: Table, dicts: set[str]) -> Table:
    """Put what was flattened of the values that are tables themselves together again."""
    found: Table = {}
    for name, value in table.items():
        owner = next((each for each in dicts if name.startswith(f"{each}.")), None)
        if owner is None:
            found[name] = value
        else:
            found.setdefault(owner, {})[name.removeprefix(f"{owner}.")] = value
    return found


def as_toml(config: Any, picked: Mapping[str, str], verb: str) -> str:
    """Write a whole configuration as TOML.

    Args:
        config: the configuration.
        picked: name of each choice -> the name of what it began as.
        verb: whose configuration it is.
    """
    values: Table = {each.choice_key: picked[each.name] for each in all_fields(config) if each.choice}
    for each in all_fields(config):
        if not each.is_group and (each.value is not None or _says_none(each)):
            values[each.key] = NONE if each.value is None else each.value
    tables: dict[str, list[str]] = {"": []}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        tables.setdefault(table, []).append(f"{name} = {_toml(value)}")
    blocks = ["\n".join([f"[{table}]"] * bool(table) + lines) for table, lines in tables.items() if lines]
    return "\n\n".join([f"# worldmodel {verb} --config FILE", *blocks])


def _toml(value: Any) -> str:
    """Write one value: JSON's strings and numbers are TOML's, but for a character that JSON does not escape."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool | str | Path):
        return json.dumps(value if isinstance(value, bool) else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
