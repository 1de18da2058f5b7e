"""Every command: the verbs, and each of the things that `datasets` does, with the example that their help shows."""

import importlib
import shlex
import typing
from typing import Any

from worldmodel.scripts.cli import VERBS
from worldmodel.scripts.flags import read_config
from worldmodel.scripts.help_page import example_of


def kinds_of(verb: str) -> dict[str, type]:
    """Words of each command that a verb has -> the configuration that it takes."""
    kind = typing.get_type_hints(main_of(verb))["config"]
    inner = typing.get_args(kind)
    return {f"{verb} {each.__name__.lower()}": each for each in inner} if inner else {verb: kind}


def main_of(verb: str) -> Any:
    """What a verb runs."""
    return importlib.import_module(f"worldmodel.scripts.{verb}").main


def commands() -> dict[str, type]:
    """Words of every command -> the configuration that it takes."""
    return {words: kind for verb in VERBS for words, kind in kinds_of(verb).items()}


def example(words: str) -> list[str]:
    """The flags of a command's example."""
    shown = shlex.split(example_of(commands()[words].__doc__, words))
    assert shown[: 1 + len(words.split())] == ["worldmodel", *words.split()], f"{words} shows no example"
    return shown[1 + len(words.split()) :]


def read(words: str, *flags: str) -> Any:
    """What a command makes of flags."""
    verb, *what = words.split()
    return read_config(verb, main_of(verb), [*what, *flags])


COMMANDS = list(commands())
