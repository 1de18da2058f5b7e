"""The folder of a codec run: whose it is, and whole files only."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worldmodel.datasets.atomic import write_atomic
from worldmodel.errors import UserError


@contextmanager
def claim(out: Path, run: dict[str, Any]) -> Iterator[None]:
    """Holds the folder for this run, and checks that what lies there is this run.

    Args:
        out: made if it is missing.
        run: what was asked, written to run.json.

    Raises:
        UserError: when another process uses the folder, or it holds something else or another run.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the codec")
    mark = out / "run.json"
    if out.exists() and not mark.exists() and any(path.name != ".lock" for path in out.iterdir()):
        raise UserError(f"{out} holds something else, there is no run.json; name an empty or new folder")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out} is in use by another process; wait for it or name another folder") from None
        asked = json.loads(json.dumps(run))
        if not mark.exists():
            write_json(mark, asked)
        elif read_run(mark) != asked:
            raise UserError(
                f"{out} holds a codec run with another configuration or other data, see {mark.name} there; "
                "name another folder, or go on with the same arguments"
            )
        yield


def read_run(path: Path) -> Any:
    """What a run.json holds.

    Raises:
        UserError: when it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); name another folder for the codec") from None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())
