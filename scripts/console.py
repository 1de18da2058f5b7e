"""What every verb shares: read its flags with tyro, run it, and turn a user's mistake into one sentence.

A verb is a file of this folder with `main(config: SomeConfig) -> None`; the annotation says which dataclass
the flags fill. Exit status: 0 done, 2 a mistake that the user can mend (one line on stderr), 130 interrupted.
Anything else is our own bug and keeps its traceback.
"""

import contextlib
import io
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from worldmodel.errors import UserError

Main = Callable[[Any], None]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run_verb(verb: str, load: Callable[[], Main], args: Sequence[str]) -> int:
    """Run one verb with its command-line flags and return the exit status.

    Args:
        verb: Name for messages and usage lines.
        load: Returns the verb's `main`; called here, so that a mistake found on import is reported too.
        args: The flags, without program and verb.
    """
    # OpenMP threads that spin long while they wait slow each other down as soon as anything else runs on the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("worldmodel").setLevel(logging.INFO)
    try:
        main = load()
        main(read_config(verb, main, args))
        sys.stdout.flush()
    except UserError as error:
        return complain(verb, str(error))
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        return complain(verb, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except BrokenPipeError:  # the reader of our output left, as in `worldmodel envs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"worldmodel {verb}: interrupted", file=sys.stderr)
        return 130
    return 0


def read_config(verb: str, main: Main, args: Sequence[str]) -> Any:
    """Fill the dataclass that `main` takes from flags; `--help` prints and exits as usual.

    Raises:
        UserError: The flags do not parse, or the dataclass refuses their values.
    """
    config_class = typing.get_type_hints(main)["config"]
    wants_help = not {"-h", "--help"}.isdisjoint(args)
    messages = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(messages),
            contextlib.nullcontext() if wants_help else _wide_terminal(),
        ):
            return tyro.cli(config_class, prog=f"worldmodel {verb}", args=list(args))
    except SystemExit as stop:
        if not stop.code:
            raise
        refusal = _user_error_behind(stop)
        if refusal is not None:
            raise refusal from None
        said = re.sub(r" \(applied to [^)]*\)", "", _one_sentence(messages.getvalue()))
        hint = _preset_hint(args, said) if said.startswith("unrecognized") else ""
        said = f"{said.partition('; perhaps you meant')[0]}; {hint}" if hint else said
        raise UserError(f"{said} (worldmodel {verb} --help lists the flags)") from None


def complain(verb: str, message: str) -> int:
    """Print one line on stderr and return the exit status for mistakes, 2."""
    name = f"worldmodel {verb}".strip()
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _preset_hint(args: Sequence[str], complaint: str) -> str:
    """How presets are named, for flags that name one in another way or stand on the wrong side of it; empty if none does."""
    named = next((place for place, word in enumerate(args) if word.startswith("preset:")), len(args))
    early = [word for word in args[:named] if word.startswith("--preset.")]
    late = [word for word in args[named:] if word.startswith("--") and not word.startswith("--preset.")]
    if "--preset" in args:
        return "a preset is named without dashes, behind the verb's own flags: ... preset:small"
    if early:
        return f"flags of a preset stand behind its name: ... preset:tiny {early[0]} VALUE"
    if named < len(args) and args[named] in complaint:
        return "the presets are preset:tiny, preset:small, preset:base and preset:paper"
    return f"the verb's own flags stand before {args[named]}" if late else ""


def _user_error_behind(error: BaseException) -> UserError | None:
    """The `UserError` of a config's `__post_init__`, which tyro frames and turns into an exit."""
    behind = error.__context__
    while behind is not None and not isinstance(behind, UserError):
        behind = behind.__context__
    return behind


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
def _wide_terminal() -> Iterator[None]:
    """Keep tyro from breaking messages, and the paths in them, at the terminal's edge."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
