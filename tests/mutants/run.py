"""Plants errors one at a time in a copy of the tree, and tells which of them the tests named for them do not notice.

    python -m tests.mutants.run                    all of errors.toml, on as many processes as there are cores
    python -m tests.mutants.run dream interval     those whose names hold one of these words
    python -m tests.mutants.run --sample WORD --seconds 20    a few, drawn by the word, as many as there is time for

Each entry of `errors.toml` is a sentence about a number that must not go wrong in silence, a text in a file, what it becomes, and the
tests that must fail then. Tools that make every small change by rule (mutmut, cosmic-ray) cannot plant errors that somebody thought
of, do not know which test guards what, and run for days on this tree; so the list is ours, and only the planting is done here.

Torch and the like are imported once; each error has a process of its own, forked from there, that imports the changed copy.
"""

import argparse
import ast
import compileall
import contextlib
import hashlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("errors.toml")
CODE = ("worldmodel", "agents", "datasets", "envs", "scripts", "tests")
BESIDE = ("docs", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE", ".ci")
"""What of the tree is copied: not what else may lie in a checkout, which may be large."""
PRELOADED = ("numpy", "torch", "torch.utils.tensorboard", "einops", "safetensors", "h5py", "hdf5plugin", "gymnasium", "PIL.Image")
PRELOADED += ("pytest", "tokenizers", "tqdm", "tyro", "imageio.v3", "torch._dynamo", "matplotlib.figure")
"""What nearly all tests import from elsewhere, but for plugins of pytest, which it wants to import itself."""
LIMIT_S = 180
"""Of the tests of one error."""
FAILED = 1
"""Pytest's status where tests ran and some failed."""


@dataclass(frozen=True)
class PlantedError:
    """One entry of the list."""

    name: str
    """A word for it."""
    file: str
    """From the root of the tree."""
    old: str
    """A text that stands in the file once."""
    new: str
    """What it becomes."""
    tests: tuple[str, ...]
    """Of pytest, as `file::name` from the root; each error must make at least one of them fail."""
    guards: str
    """What would be wrong in silence."""


@dataclass
class MutantRun:
    """The tests of one planted error, in a process."""

    error: PlantedError
    pid: int
    tree: Path
    deadline: float
    said: Path


@dataclass
class Outcome:
    """What came of the errors, by name."""

    killed: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    """Not planted: why."""
    broken: dict[str, str] = field(default_factory=dict)
    """The tests could not run, or not to their end: why."""
    left: int = 0
    """Not tried for want of time."""

    @property
    def good(self) -> bool:
        """Whether every error that was tried was killed."""
        return not (self.survived or self.stale or self.broken)


def read_errors(path: Path = LIST) -> list[PlantedError]:
    """The list, in its order.

    Raises:
        ValueError: two entries have one name.
    """
    entries = tomllib.loads(path.read_text())["error"]
    errors = [PlantedError(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    names = [error.name for error in errors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two planted errors have the name {name}")
    return errors


def why_stale(error: PlantedError, root: Path = ROOT) -> str:
    """Why an entry does not fit the tree any more: its text is not there just once, or a test is missing; empty if it fits."""
    path = root / error.file
    if not path.is_file():
        return f"{error.file} does not exist"
    count = path.read_text().count(error.old)
    if count != 1:
        return f"its old text stands {count} times in {error.file}, not once"
    if error.old == error.new:
        return "its new text is its old one"
    for test in error.tests:
        file, _, name = test.partition("::")
        if not (root / file).is_file() or name.partition("[")[0] not in functions_of(root / file):
            return f"there is no test {test}"
    return "" if error.tests else "it names no test"


def functions_of(path: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def drawn(errors: Sequence[PlantedError], word: str) -> list[PlantedError]:
    """The errors in an order that a word decides."""
    return sorted(errors, key=lambda error: hashlib.blake2b(f"{word} {error.name}".encode()).digest())


def copied(root: Path, to: Path) -> Path:
    """A copy of a tree with its links, compiled."""
    to.mkdir()
    for path in (root / name for name in (*CODE, *BESIDE)):
        if path.is_dir():
            shutil.copytree(path, to / path.name, symlinks=True)
        elif path.exists():
            shutil.copy2(path, to)
    for folder in CODE:
        compileall.compile_dir(to / folder, quiet=2)
    return to


@contextlib.contextmanager
def planted(error: PlantedError, tree: Path) -> Iterator[None]:
    """The error stands in the tree while the block runs; what is compiled of the file counts again afterwards, and only then."""
    path = tree / error.file
    before, about = path.read_text(), path.stat()
    path.write_text(before.replace(error.old, error.new))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**10))
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def start(tests: Sequence[str], tree: Path, said: Path) -> int:
    """Run tests on a tree in a forked process, which says what it says in a file and ends with pytest's status; returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a caller may have; the child starts its own
        pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.chdir(tree)
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
        sys.path[:] = [str(tree), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("worldmodel", "tests")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        import pytest

        status = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={tree}", *tests]))
        import worldmodel

        if not Path(worldmodel.__file__ or "").is_relative_to(tree):
            print(f"{worldmodel.__file__} was tested instead of the copy")
            status = 70
    except BaseException:  # nothing of this process may run on as if it were its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(pid: int) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run_all(errors: Sequence[PlantedError], trees: Sequence[Path], folder: Path, seconds: float, verbose: bool) -> Outcome:
    """Plant each error in one of the trees and run its tests, as many at a time as there are trees.

    Args:
        errors: in this order.
        trees: copies of the tree.
        folder: for what the tests say.
        seconds: no error is planted later than this.
        verbose: print each outcome as it comes; else the bad ones alone.
    """
    from tqdm import tqdm

    outcome, began = Outcome(), time.monotonic()
    todo, free, running = list(errors), list(trees), list[tuple[MutantRun, contextlib.ExitStack]]()
    bar = tqdm(total=len(todo), unit="error", disable=None)

    def note(error: PlantedError, what: str, why: str = "") -> None:
        bar.update()
        if verbose or what != "killed":
            bar.write(f"{what:<9} {error.name}{f': {why}' if why else ''}", file=sys.stdout)

    while todo or running:
        while todo and free:
            if time.monotonic() - began > seconds:
                outcome.left, todo = len(todo), []
                break
            error, tree = todo.pop(0), free.pop()
            if why := why_stale(error, tree):
                outcome.stale[error.name] = why
                note(error, "stale", why)
                free.append(tree)
                continue
            stack = contextlib.ExitStack()
            stack.enter_context(planted(error, tree))
            said = folder / f"{error.name}.txt"
            running.append((MutantRun(error, start(error.tests, tree, said), tree, time.monotonic() + LIMIT_S, said), stack))
        for each in list(running):
            run, stack = each
            done, status = os.waitpid(run.pid, os.WNOHANG)
            if not done and time.monotonic() < run.deadline:
                continue
            running.remove(each)
            if done:
                code = os.waitstatus_to_exitcode(status)
            else:
                end(run.pid)
                code = -1
            stack.close()
            free.append(run.tree)
            if code == FAILED:
                outcome.killed.append(run.error.name)
                note(run.error, "killed")
            elif code == 0:
                outcome.survived.append(run.error.name)
                note(run.error, "survived", run.error.guards)
            else:
                last = run.said.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing said"]
                why = last[0] if done else f"its tests take more than {LIMIT_S} s"
                outcome.broken[run.error.name] = f"status {code}, {why}"
                note(run.error, "broken", outcome.broken[run.error.name])
        time.sleep(0.02)
    bar.close()
    return outcome


def unchanged(errors: Sequence[PlantedError], tree: Path, folder: Path) -> str:
    """What the named tests say of the tree as it is; empty where all pass."""
    said = folder / "unchanged.txt"
    pid = start(sorted({test for error in errors for test in error.tests}), tree, said)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if status == 0 else said.read_text(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its status: 0 where every error that was tried was killed."""
    parser = argparse.ArgumentParser(prog="tests.mutants.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only errors whose names hold one of these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="errors at a time")
    parser.add_argument("--sample", help="take the errors in an order that this word decides")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="plant none later than this")
    parser.add_argument("--only-planted", action="store_true", help="do not run the tests without any error first")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    errors = [error for error in read_errors() if not given.words or any(word in error.name for word in given.words)]
    if not errors:
        parser.error(f"no planted error has a name with {' or '.join(given.words)}")
    if given.sample is not None:
        errors = drawn(errors, given.sample)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name).resolve()
        trees = [copied(ROOT, folder / f"tree{number}") for number in range(max(1, min(given.jobs, len(errors))))]
        for module in PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        if not given.only_planted and (said := unchanged(errors, trees[0], folder)):
            print(f"{said}\nthe named tests fail without any planted error")
            return 2
        outcome = run_all(errors, trees, folder, given.seconds, verbose=given.sample is None)
    tried = len(errors) - outcome.left
    counts = (
        f"{len(outcome.killed)} killed, {len(outcome.survived)} survived, {len(outcome.stale)} stale, {len(outcome.broken)} broken"
    )
    left = f", {outcome.left} not tried for want of time" if outcome.left else ""
    print(f"{tried} planted errors: {counts}{left}; {(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
