"""How a mistake must be told, and what the tests of mistakes share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.scripts.conftest import Tiny

Refused = Callable[..., str]
PROBLEMS = "--problems.problems 1 --problems.goal-offset 4 --problems.budget 6 --problems.min-distance 0.1".split()
READERS = {
    "dream": ["--dream.clips", "2", "--dream.horizon", "2"],
    "plan": PROBLEMS,
    "evaluate": [*PROBLEMS, "--workers", "0"],
    "generate": ["--frames", "2"],
}
"""Verbs that read a checkpoint and episodes."""


def sentence(verb: str, status: int, out: str, err: str) -> str:
    """What a complaint says; only progress may come before it."""
    assert (status, out) == (2, ""), out + err
    assert err.endswith("\n") and "Traceback" not in err
    lines = err.replace("\r", "\n").splitlines()
    start = f"worldmodel {verb}: error: "
    others = [line for line in lines[:-1] if line.strip() and not re.search(r"%\||step/s|it/s|episode/s", line)]
    assert others == [], err
    assert lines[-1].startswith(start), err
    said = lines[-1].removeprefix(start)
    return said


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder with its time and content; lock files aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def reading(tiny: "Tiny", verb: str, out: Path, data: Path | None = None, checkpoint: Path | None = None) -> list[Any]:
    """A verb of `READERS` and its flags."""
    output = [] if verb == "generate" else ["--out", out / {"evaluate": "evaluation"}.get(verb, f"{verb}.mp4")]
    return [verb, "--checkpoint", checkpoint or tiny.run, "--data", data or tiny.data, *output, *READERS[verb]]


def replaced(flags: list[str], **values: object) -> list[str]:
    """The same flags with other values of some."""
    flags = list(flags)
    for name, value in values.items():
        flags[flags.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    return flags
