"""What every verb shares: run it, show its stages, and turn a user's mistake into one sentence.

A verb is a file of this folder with `main(config: SomeConfig)`; the annotation says which dataclass the flags fill (`flags.py`), and
what it returns is printed for `--json`. Exit status: 0 done, 2 a mistake that the user can mend (one line on stderr), 130 interrupted.
Anything else is our own bug and keeps its traceback.
"""

import contextlib
import errno
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from tqdm import tqdm

from worldmodel.datasets.outputs import aligned
from worldmodel.errors import UserError
from worldmodel.scripts.flags import Main, read_config
from worldmodel.scripts.json_flag import print_found
from worldmodel.training.torchrun import surroundings

logger = logging.getLogger(__name__)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

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


def complain(verb: str, message: str) -> int:
    """Print one line on stderr and return the exit status for mistakes, 2."""
    name = f"worldmodel {verb}".strip()
    _say(f"{name}: error: {' '.join(message.split())}")
    return 2


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # there is nowhere to print
        print(harmless(line), file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """Replace the control characters in a text of a model or a file but for tabs and ends of lines: a terminal obeys them."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text with their columns aligned."""
    print(aligned([tuple(map(harmless, row)) for row in rows]))


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
