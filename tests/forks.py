"""Commands and scripts of the pages, each in a process of its own that has everything imported already.

A page's command is `python -m worldmodel.scripts.cli ...`, `python -c BLOCK` or `python SCRIPT ...`, and most of its seconds are
torch's import. So one process imports it once, and forks for each command: what a command does to its folder, environment, warnings
and modules is gone with it. That commands work in a fresh interpreter is tested by test_console.py and test_imports.py.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
CLI = ("-m", "worldmodel.scripts.cli")


@dataclass(frozen=True)
class Forks:
    """A process that forks; see `forks`."""

    process: subprocess.Popen[str]

    def python(self, *words: object, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Do what `python *words` does, for one of the three forms; with -c or a script, warnings are errors."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as files:
            request = {"words": list(map(str, words)), "folder": str(folder), "env": dict(env), "files": files}
            print(json.dumps(request), file=self.process.stdin, flush=True)
            status = int(self.process.stdout.readline())
            out, err = (Path(files, name).read_text(errors="replace") for name in ("out", "err"))
        return subprocess.CompletedProcess(words, status, out, err)


@contextmanager
def forks() -> Iterator[Forks]:
    """Start the process that forks, and end it."""
    command, env = [sys.executable, "-m", "tests.forks"], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """Import the verbs, then fork for each request until there are no more."""
    with warnings.catch_warnings(action="error"):
        for path in sorted((ROOT / "scripts").glob("*.py")):
            importlib.import_module(f"worldmodel.scripts.{path.stem}")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for, to its end."""
    signal.alarm(int(2 * PATIENCE))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["folder"]
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(Path(request["files"], name), os.O_WRONLY | os.O_CREAT) for name in ("out", "err"))
    for number, descriptor in enumerate((null, out, err)):
        os.dup2(descriptor, number)
    status: Any = 1
    try:
        status = act(request["words"])
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def act(words: Sequence[str]) -> Any:
    """Do what Python does with these words."""
    if tuple(words[:2]) == CLI:
        sys.argv = ["worldmodel", *words[2:]]
        return importlib.import_module("worldmodel.scripts.cli").run(words[2:])
    warnings.simplefilter("error")
    if words[0] != "-c":
        sys.argv = list(words)
        return runpy.run_path(words[0], run_name="__main__") and 0
    main = types.ModuleType("__main__")
    sys.argv, sys.modules["__main__"] = ["-c", *words[2:]], main
    return exec(compile(words[1], "<string>", "exec"), vars(main))


if __name__ == "__main__":
    serve()
