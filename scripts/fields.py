"""The fields of a verb's configuration, and of the configurations within it, as flags; and their values, checked.

A field `lr` of `train` is the flag `--train.lr`, and `train.lr` in a file. What tyro is told by `tyro.conf.arg` counts here, too:
another name, or a prefix left out.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import tyro

from worldmodel.choice import Choice
from worldmodel.errors import UserError

MAX_SEED = 2**63
"""Seeds are below it: what draws from them counts on by a little in 64 bits."""
FOLLOWED = r"(?= is | are | must | above | below | '| \(?-?[\d.]| nan| inf|=)"
"""What stands behind the name of a field that is no underscored word, where a message speaks of the field."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a configuration, or of one within it."""

    place: tuple[str, ...]
    """Names of the fields that lead to it."""
    path: str
    """Its flag without dashes, e.g. train.log-every; empty for a group whose name is left out."""
    kind: Any
    """Its type."""
    value: Any
    """Its value; tyro.MISSING if it must be given."""
    doc: str
    """What it means."""
    positional: bool
    """Whether it is given by its place among the words, not by a flag."""
    choice: Choice | None
    """What it can begin as."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.place[-1]

    @property
    def flag(self) -> str:
        """How it is called on the command line."""
        return self.name.upper() if self.positional else f"--{self.path}"

    @property
    def key(self) -> str:
        """How it is called in a file."""
        return self.path.replace("-", "_")

    @property
    def choice_key(self) -> str:
        """How a file says what it begins as: in the table of its fields, if they have one of their own."""
        return f"{self.key}.name" if self.path else self.name

    @property
    def is_group(self) -> bool:
        """Whether it has fields itself."""
        return dataclasses.is_dataclass(self.value)


def fields_of(config: Any, prefix: str = "", place: tuple[str, ...] = ()) -> Iterator[Field]:
    """List the fields of a configuration whose flags begin with `prefix`; not of those within it."""
    kind: Any = type(config)
    hints, told = hints_of(kind), docs(kind)
    for each in dataclasses.fields(config):
        marks = getattr(hints[each.name], "__metadata__", ())
        naming: Any = next((mark for mark in marks if hasattr(mark, "prefix_name")), None)
        name = each.name.replace("_", "-") if naming is None or naming.name is None else naming.name
        before = "" if naming is not None and naming.prefix_name is False else prefix
        yield Field(
            (*place, each.name),
            ".".join(filter(None, (before, name))),
            typing.get_args(hints[each.name])[0] if marks else hints[each.name],
            getattr(config, each.name),
            told.get(each.name, ""),
            tyro.conf.Positional in marks,
            next((mark for mark in marks if isinstance(mark, Choice)), None),
        )


def all_fields(config: Any, prefix: str = "", place: tuple[str, ...] = ()) -> Iterator[Field]:
    """List the fields of a configuration and of those within it, groups before what they hold."""
    for each in fields_of(config, prefix, place):
        yield each
        if each.is_group:
            yield from all_fields(each.value, each.path, each.place)


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Collect name -> type of the fields of a dataclass."""
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def docs(kind: type) -> dict[str, str]:
    """Collect name -> docstring of the fields of a dataclass, those of its bases too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in itertools.pairwise(tree.body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


# ---------------------------------------------------------------- Values that are not checked yet


@contextlib.contextmanager
def unchecked(kind: type) -> Iterator[None]:
    """Let configurations of a class, and of those within it, be made without their checks: their flags are not known there."""
    classes = [each for each in classes_of(kind) if "__post_init__" in vars(each)]
    checks = [vars(each)["__post_init__"] for each in classes]
    for each in classes:
        each.__post_init__ = lambda self: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for each, check in zip(classes, checks, strict=True):
            each.__post_init__ = check  # type: ignore[attr-defined]


def classes_of(kind: Any) -> set[type]:
    """Collect the dataclasses that an annotated type speaks of, with their bases."""
    if typing.get_origin(kind) in (Annotated, typing.Union, types.UnionType):
        return set().union(*map(classes_of, typing.get_args(kind)))
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        return set()
    inner = [classes_of(each) for each in typing.get_type_hints(kind).values()]
    return set(kind.__mro__[:-1]).union(*inner)


def draft(kind: type) -> Any:
    """Make a configuration of what its fields are by default, tyro.MISSING where nothing is; call it within `unchecked`."""
    return kind(**{each.name: tyro.MISSING for each in dataclasses.fields(kind) if _is_required(each)})


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def with_value(config: Any, place: tuple[str, ...], value: Any) -> Any:
    """Return a configuration with another value at a place; call it within `unchecked`."""
    name, *rest = place
    return dataclasses.replace(config, **{name: with_value(getattr(config, name), tuple(rest), value) if rest else value})


# ---------------------------------------------------------------- Checks that name the flags


def checked(config: Any, prefix: str = "") -> Any:
    """Make a configuration anew, with all checks, from within outward.

    Raises:
        UserError: a value is refused; it names the flag.
    """
    values = {}
    for each in fields_of(config, prefix):
        if each.name == "seed" and isinstance(each.value, int) and not 0 <= each.value < MAX_SEED:
            raise UserError(f"{each.flag} {each.value} must be at least 0 and below 2 ** 63")
        values[each.name] = checked(each.value, each.path) if each.is_group else each.value
    try:
        return type(config)(**values)
    except UserError as error:
        raise UserError(in_flags(str(error), flags_in(config, prefix), prefix)) from None


def flags_in(config: Any, prefix: str) -> dict[str, str]:
    """Map the names of the fields of a configuration to flags; names of fields further within it count where none is nearer."""
    found = sorted(all_fields(config, prefix), key=lambda each: len(each.place))
    leaves = [each for each in reversed(found) if not each.is_group]
    return {".".join(each.place[-2:]): each.flag for each in leaves} | {each.name: each.flag for each in leaves}


def in_flags(message: str, flags: Mapping[str, str], prefix: str) -> str:
    """Put flags in place of the names of fields that a message speaks of; it begins with their prefix if it speaks of none."""
    forms = {form for name in flags for form in (name, name.replace("_", "-"))}
    names = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    group = f"(?:{prefix.rpartition('.')[2]} )?" if prefix else ""
    plain = rf"{group}(?:(?P<plain>{names})|\w+\.(?P<inner>{names}))(?![\w\-/]|\.\w)"
    pattern = rf"(?<![\w\-/'\"])(?<!\w\.)(?:--(?P<dashed>{names})(?![\w\-.])|{plain})"

    def replaced(found: re.Match[str]) -> str:
        name = (found["dashed"] or found["plain"] or found["inner"]).replace("-", "_")
        meant = found["dashed"] or "_" in name or re.match(FOLLOWED, message[found.end() :])
        return flags[name] if meant else found[0]

    said = re.sub(pattern, replaced, message)
    return said if "--" in said or not prefix else f"--{prefix}: {said}"
