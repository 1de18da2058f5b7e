"""What `--help` prints: one sentence, one example, the usual flags, and what groups of further ones there are.

All of it comes from the docstrings of the verb's configuration: the first line, the first command in it, those of the fields.
`--help-all` is tyro's page of every flag.
"""

import re
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from worldmodel.scripts.fields import Field, all_fields

WIDTH = 100
"""Characters of a line at most."""
LINES = 2
"""Of what is said of one flag."""
Row = tuple[str, str] | tuple[str, str, str]
"""A flag, what is said of it, and what ends that."""
EVERY_VERB: list[Row] = [
    ("--config FILE", "Read what FILE says, in TOML; flags count more."),
    ("--print-config", "Print everything as such a file, and do nothing."),
    ("--help-all", "Explain all flags, also those of the groups."),
]
"""Flags of all verbs."""


def sentence_of(doc: str | None) -> str:
    """Return the first line of a docstring."""
    return (doc or "").partition("\n")[0]


def example_of(doc: str | None, verb: str) -> str:
    """Return the first command of a verb that a docstring shows; empty if it shows none."""
    found = re.search(rf"`(worldmodel {verb}\b[^`]*)`", " ".join((doc or "").split()))
    return found[1] if found else ""


def page(verb: str, doc: str | None, config: Any, picked: Mapping[str, str]) -> str:
    """Write the help of a verb.

    Args:
        verb: its name.
        doc: docstring of its configuration.
        config: its configuration as it is by default.
        picked: name of each choice -> what it begins as.
    """
    fields = list(all_fields(config))
    near = sorted((f for f in fields if not f.is_group and "." not in f.path), key=lambda field: field.value is not tyro.MISSING)
    chosen = [each for each in fields if each.choice]
    usage = " ".join([verb, *(each.flag for each in near if each.positional), "[flags]"])
    flags = [(_usage(each), each.doc, _end(each)) for each in near]
    flags += [(f"--{each.name} NAME", each.doc, f"default: {picked[each.name]}") for each in chosen]
    tables: list[Sequence[Row]] = [flags, [row for each in chosen for row in _options(each)], _groups(fields), EVERY_VERB]
    return "\n".join([*_head(usage, doc, verb), *(line for rows in tables if rows for line in ("", *_table(rows)))])


def list_page(verb: str, doc: str | None, kinds: Mapping[str, type]) -> str:
    """Write the help of a verb that does one of several things."""
    rows = [(name, sentence_of(kind.__doc__)) for name, kind in kinds.items()]
    end = f"worldmodel {verb} {next(iter(kinds))} --help lists the flags of one."
    return "\n".join([*_head(f"{verb} WHAT [flags]", doc, verb), "", *_table(rows), "", end])


def _head(usage: str, doc: str | None, verb: str) -> list[str]:
    example = ["", "example: " + example_of(doc, verb)] if example_of(doc, verb) else []
    return [sentence_of(doc), *example, "", f"usage: worldmodel {usage}"]


def _table(rows: Sequence[Row]) -> list[str]:
    """Lay out rows in two columns: a flag, then what is said of it, broken into a few lines that end with the third text."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    indent = min(max(len(row[0]) for row in rows), 28) + 4
    lines = []
    for left, right, *end in rows:
        tail = f" ({end[0]})" if end and end[0] else ""
        room, cut = max(width - indent, 30), f" ...{tail}"
        words, told = right.split(), textwrap.wrap(f"{right}{tail}", room) or [""]
        while len(told) > LINES:
            words.pop()
            told = textwrap.wrap(" ".join(words) + cut, room)
        first, *others = told
        if len(left) > indent - 4:
            lines.append(f"  {left}")
            left = ""
        lines += [f"  {left:<{indent - 2}}{first}".rstrip(), *(" " * indent + line for line in others)]
    return lines


def _groups(fields: Sequence[Field]) -> list[tuple[str, str]]:
    """Say of each group of flags how many there are and what they are about."""
    groups = [each for each in fields if each.is_group and each.path and "." not in each.path]
    counts = [sum(each.path.startswith(f"{group.path}.") and not each.is_group for each in fields) for group in groups]
    return [(f"--{group.path}.* ({count} flags)", group.doc) for group, count in zip(groups, counts, strict=True)]


def _options(field: Field) -> list[tuple[str, str]]:
    """Say of each thing that a field can begin as what it is."""
    assert field.choice is not None
    return [(f"--{field.name} {name}", sentence_of(make.__doc__)) for name, make in field.choice.options.items()]


def _end(field: Field) -> str:
    """Say what a flag is by default."""
    if field.value is tyro.MISSING:
        return "required"
    plain = isinstance(field.value, int | float | str | Path) and not isinstance(field.value, bool) and field.value != ""
    return f"default: {field.value}" if plain else ""


def _usage(field: Field) -> str:
    if field.kind is bool:
        return f"--[no-]{field.path}" if field.value is True else field.flag
    return field.flag if field.positional else f"{field.flag} {metavar(field.kind)}"


def metavar(kind: Any) -> str:
    """Name what stands behind a flag of a type."""
    arguments = [each for each in typing.get_args(kind) if each is not type(None) and each is not ...]
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, arguments)) if len(arguments) < 5 else "NAME"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return "|".join(map(metavar, arguments))
    if typing.get_origin(kind) is dict:
        return "NAME NUMBER ..."
    if typing.get_origin(kind) is tuple:
        return f"{metavar(arguments[0])} ..."
    return {int: "N", float: "X", str: "TEXT"}.get(kind, str(kind.__name__).upper())
