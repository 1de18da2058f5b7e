"""What every verb shares: read its flags with tyro, run it, show its stages, and turn a user's mistake into one sentence.

A verb is a file of this folder with `main(config: SomeConfig)`; the annotation says which dataclass the flags fill, and what it
returns is printed for `--json`. Exit status: 0 done, 2 a mistake that the user can mend (one line on stderr), 130 interrupted.
Anything else is our own bug and keeps its traceback.
"""

import contextlib
import dataclasses
import errno
import io
import logging
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tyro
from tqdm import tqdm

from worldmodel.errors import UserError
from worldmodel.scripts.json_flag import print_found
from worldmodel.training.torchrun import surroundings

Main = Callable[[Any], Any]
logger = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_SEED = 2**63
"""Seeds are below it: what draws from them counts on by a little in 64 bits."""
TRAINING = ("pretrain", "quickstart", "ablate", "isoflop")
"""Verbs in which several processes may train together."""
_SURROUNDINGS = frozenset(
    getattr(errno, name)
    for name in "ENAMETOOLONG ELOOP ENOSPC EDQUOT EFBIG EROFS ENOLCK EMFILE ENFILE EIO ESTALE ETXTBSY ENODEV ENXIO".split()
    if hasattr(errno, name)
)
"""Numbers of errors that come from the file system, never from a bug here."""


def run_verb(verb: str, load: Callable[[], Main], args: Sequence[str]) -> int:
    """Run one verb with its command-line flags and return the exit status.

    Args:
        verb: Name for messages and usage lines.
        load: Returns the verb's `main`; called here, so that a mistake found on import is reported too.
        args: The flags, without program and verb.
    """
    # OpenMP threads that spin long while they wait slow each other down as soon as anything else runs on the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    prepare_streams()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("worldmodel").setLevel(logging.INFO)

    def act() -> None:
        main = load()
        config = read_config(verb, main, args)
        if verb in TRAINING:
            check_processes(os.environ)
        print_found(main, config)

    return guarded(verb, act)


def guarded(verb: str, act: Callable[[], object]) -> int:
    """Do something that prints, turn mistakes into one line on stderr, and return the exit status."""
    try:
        act()
        status = 0
    except UserError as error:
        status = complain(verb, str(error))
    except BrokenPipeError:
        status = 1
    except OSError as error:
        known = FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError | PermissionError
        if not isinstance(error, known) and error.errno not in _SURROUNDINGS:
            raise
        status = complain(verb, f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except KeyboardInterrupt:
        _say(f"worldmodel {verb}: interrupted")
        status = 130
    except SystemExit:  # --help
        if _flush_output() is None:
            raise
        return 1
    failure = _flush_output()
    if status == 0 and failure is not None:
        # A reader that leaves early, as in `worldmodel envs | head -1`, has what it wants.
        return 1 if isinstance(failure, BrokenPipeError) else complain(verb, f"cannot write what is printed: {failure.strerror}")
    return status


def prepare_streams() -> None:
    """Make sure that printing cannot fail for what is printed, nor reach a file that has taken the number of a closed stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the least number that is free: its own
            os.set_inheritable(nowhere, True)  # processes that are started must not take it either
            stream = os.fdopen(nowhere, "r" if number == 0 else "w")
            setattr(sys, name, stream)
        elif number and hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors="replace")  # a terminal without the sign for an item of a list


def _flush_output() -> OSError | None:
    """Print what waits; what cannot be printed is thrown away, and the reason returned."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def check_processes(environment: Mapping[str, str]) -> None:
    """Check what torchrun, or whatever replaces it, says about the processes that train together, and name those that wait.

    Raises:
        UserError: it is said that there are others, and not where.
    """
    own = surroundings(environment)
    if own.world_size > 1 and environment.get("LOCAL_RANK", "0") == "0":
        logger.info("process %d of %d (0 is the first): they wait for each other at %s", own.rank, own.world_size, own.place)


def command(*words: object) -> str:
    """Format a `worldmodel` command so that it can be pasted into a shell."""
    return shlex.join(["worldmodel", *map(str, words)])


def _check_seeds(config: Any, path: str = "") -> None:
    """Refuse seeds, of this config and of those within it, that generators do not take; UserError names the flag."""
    if not dataclasses.is_dataclass(config):
        return
    for each in dataclasses.fields(config):
        value = getattr(config, each.name, None)
        if each.name == "seed" and isinstance(value, int) and not 0 <= value < MAX_SEED:
            raise UserError(f"--{path}seed {value} must be at least 0 and below 2 ** 63")
        _check_seeds(value, f"{path}{each.name.replace('_', '-')}.")


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
            config = tyro.cli(config_class, prog=f"worldmodel {verb}", args=list(args))
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
    _check_seeds(config)
    return config


def complain(verb: str, message: str) -> int:
    """Print one line on stderr and return the exit status for mistakes, 2."""
    name = f"worldmodel {verb}".strip()
    _say(f"{name}: error: {' '.join(message.split())}")
    return 2


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # there is nowhere to print
        print(line, file=sys.stderr, flush=True)


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def stages(*names: str) -> Iterator[Callable[[], None]]:
    """Show a bar that says which stage is running; where stderr is no terminal, nothing.

    Args:
        names: of the stages, in their order; the first begins at once.

    Yields:
        A function that ends a stage and begins the next one.
    """
    with tqdm(total=len(names), unit="stage", desc=names[0], leave=False, disable=None) as bar:

        def end() -> None:
            bar.update()
            if bar.n < len(names):
                bar.set_description(names[int(bar.n)])

        yield end


def _preset_hint(args: Sequence[str], complaint: str) -> str:
    """Say how presets are named, for flags that name one in another way or stand on the wrong side of it; empty if none does."""
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
    """Find the `UserError` of a config's `__post_init__`, which tyro frames and turns into an exit."""
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
