"""From the words behind a verb to its configuration: what choices begin as, then a file, then the flags.

`--preset NAME`, `--planner NAME` and their like, `--config`, `--print-config` and `--help` are taken out first, wherever they stand;
tyro fills what is left into the configuration that they begin with.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import tyro

from worldmodel.errors import UserError
from worldmodel.scripts.fields import Field, all_fields, checked, draft, fields_of, unchecked, with_value
from worldmodel.scripts.help_page import list_page, page

Main = Callable[[Any], Any]
logger = logging.getLogger(__name__)
NARROWEST, WIDEST = 40, 10_000
"""Columns that tyro is given for a help page at least (with fewer than ten it never ends), and for a message: paths stay whole."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def read_config(verb: str, main: Main, args: Sequence[str]) -> Any:
    """Fill the dataclass that `main` takes from flags; `--help`, `--help-all` and `--print-config` print and exit.

    Raises:
        UserError: the flags or the file do not parse, or the dataclass refuses their values.
    """
    kind = typing.get_type_hints(main)["config"]
    kinds = {each.__name__.lower(): each for each in typing.get_args(kind)}
    if kinds:
        kind, args = _one_of(verb, main, kinds, args)
        verb = f"{verb} {kind.__name__.lower()}"
    words, printed = list(args), "--print-config" in args
    with unchecked(kind):
        words, file = _take([word for word in words if word != "--print-config"], "config", "FILE")
        words, picked, start = _begin(draft(kind), words, file)
        if not {"-h", "--help"}.isdisjoint(words):
            print(page(verb, kind.__doc__, start, picked))
            raise SystemExit(0)
        config = _parse(kind, verb, start, words)
    config = checked(config)
    if printed:
        from worldmodel.scripts.config_file import as_toml

        print(as_toml(config, picked, verb))
        raise SystemExit(0)
    return config


def _one_of(verb: str, main: Main, kinds: Mapping[str, type], args: Sequence[str]) -> tuple[type, Sequence[str]]:
    """Find which of several things a verb is to do, and the words behind its name."""
    name = args[0] if args else ""
    if name in ("-h", "--help", "--help-all"):
        print(list_page(verb, main.__doc__, kinds))
        raise SystemExit(0)
    if name not in kinds:
        said = f"there is no {verb} '{name}'" if name else "say what to do"
        said = f"unrecognized options: {name}" if name.startswith("-") else said
        close = difflib.get_close_matches(name, kinds, 1)
        raise UserError(f"{said}; did you mean {close[0]}?" if close else f"{said}; name one of {', '.join(kinds)} first")
    return kinds[name], args[1:]


def _take(words: Sequence[str], name: str, meaning: str) -> tuple[list[str], str | None]:
    """Take `--NAME VALUE` out of the words, also as `--NAME=VALUE`; the last of several counts."""
    left, value, waiting = list[str](), None, iter(words)
    for word in waiting:
        if word.startswith(f"--{name}="):
            value = word.partition("=")[2]
        elif word == f"--{name}":
            value = next(waiting, "")
            if not value or value.startswith("-"):
                raise UserError(f"--{name} needs a {meaning}")
        else:
            left.append(word)
    return left, value


def _begin(start: Any, words: Sequence[str], file: str | None) -> tuple[list[str], dict[str, str], Any]:
    """Return the words without choices, what was chosen, and the configuration that flags change, with what a file says."""
    picked, left, table = dict[str, str](), list(words), _read(file, start)
    for each in [each for each in all_fields(start) if each.choice]:
        assert each.choice is not None
        left, flag = _take(left, each.name, "NAME")
        said = table.pop(each.choice_key, None)
        _check_name(each, said, f"--config {file}: {each.choice_key}")
        _check_name(each, flag, f"--{each.name}")
        if None not in (flag, said) and flag != said:
            table = _without(table, each, said, f"--{each.name} {flag}: what {file} says of {said}")
        picked[each.name] = flag or said or each.choice.name_of(each.value)
        if flag or said:
            start = with_value(start, each.place, each.choice.options[picked[each.name]]())
    if table:
        from worldmodel.scripts.config_file import with_table

        start = with_table(start, table, Path(file or ""))
    return left, picked, start


def _read(file: str | None, start: Any) -> dict[str, Any]:
    """Read what a file, or the folder of a run, says; nothing if there is none."""
    if file is None:
        return {}
    from worldmodel.scripts.config_file import read_run, read_table  # which wait for torch

    return read_run(Path(file), start) if Path(file).is_dir() else read_table(Path(file))


def _check_name(field: Field, name: Any, place: str) -> None:
    assert field.choice is not None
    if name is not None and name not in list(field.choice.options):
        raise UserError(f"{place} is {name!r}, must be one of {', '.join(field.choice.options)}")


def _without(table: dict[str, Any], field: Field, name: str, why: str) -> dict[str, Any]:
    """Leave out what a file says of a choice that a flag has made otherwise, and say so."""
    assert field.choice is not None
    heads = [each.key for each in fields_of(field.choice.options[name](), field.path)]
    lost = [key for key in table if any(key == head or key.startswith(f"{head}.") for head in heads)]
    if lost:
        logger.info("%s is left out (%s)", why, ", ".join(lost[:4] + ["..."] * (len(lost) > 4)))
    return {key: value for key, value in table.items() if key not in lost}


def _parse(kind: type, verb: str, start: Any, words: list[str]) -> Any:
    """Let tyro fill the flags into a configuration.

    Raises:
        UserError: they do not parse.
    """
    tables = [each for each in all_fields(start) if isinstance(each.value, dict) and each.value]
    for each in tables:  # a flag, since tyro would make one of each of its keys
        start = with_value(start, each.place, {})
        if not any(word == each.flag or word.startswith(f"{each.flag}=") for word in words):
            words = [*words, each.flag, *(str(part) for pair in each.value.items() for part in pair)]
    everything = "--help-all" in words
    words = ["--help"] if everything else words
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _columns(max(NARROWEST, get_terminal_size().columns) if everything else WIDEST):
            return tyro.cli(kind, prog=f"worldmodel {verb}", args=words, default=start, config=(tyro.conf.AvoidSubcommands,))
    except SystemExit as stop:
        if not stop.code:
            raise
        said = re.sub(r" \(applied to [^)]*\)", "", _one_sentence(messages.getvalue()))
        raise UserError(f"{said} (worldmodel {verb} --help-all lists the flags)") from None


def _one_sentence(message: str) -> str:
    """Reduce tyro's framed message to what is wrong and one suggestion.

    The message has a title, what is wrong, hints, with rules between, in Unicode or ASCII lines.
    """
    lines = [line.strip("│╭╰╯─ ") for line in _COLOUR.sub("", message).replace("╮", "\n").splitlines()]
    text = "\n".join(line if line.strip("-") else "" for line in lines)
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    if len(paragraphs) < 2:
        return " ".join(paragraphs)
    sentence = paragraphs[1].rstrip(".")
    suggestion = re.search(r"Perhaps you meant: (--\S+)", " ".join(paragraphs[2:]))
    if suggestion:
        sentence += f"; perhaps you meant {suggestion[1]}"
    return sentence[:1].lower() + sentence[1:]


@contextlib.contextmanager
def _columns(number: int) -> Iterator[None]:
    """Let tyro take the terminal to be so wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
