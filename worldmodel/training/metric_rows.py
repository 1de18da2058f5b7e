"""The files of a run that have one JSON object a line: written whole, and read past what a killed process or a disk left of a line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.records import parse_json, shortened

logger = logging.getLogger(__name__)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read all rows of a run's `metrics.jsonl`; [] where there is no file. Lines that are no rows are left out with a warning."""
    return read_lines(path, _is_row)


def _is_row(row: dict[str, Any]) -> bool:
    return is_count(row.get("step")) and all(
        type(value) is float or (type(value) is int and abs(value) < 2**63) for value in row.values()
    )


def is_count(value: Any) -> bool:
    """Tell whether a value of a JSON file is a whole number that counts something."""
    return type(value) is int and value >= 0


def read_lines(path: Path, fits: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Read the JSON objects of a file that has one in each line; lines that hold none are left out, and a warning names them.

    Such are the last one where a process was killed while it wrote, what a disk damaged, and what others wrote.

    Args:
        path: the file; where there is none, there are no lines.
        fits: whether an object is one of those that belong there.
    """
    rows, others = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.exists() else [], start=1):
        try:
            row = parse_json(line.decode("utf8"))
        except ValueError:
            row = None
        if isinstance(row, dict) and fits(row):
            rows.append(row)
        elif line:
            others.append((number, line))
    if others:
        number, line = others[0]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        text = shortened(line.decode("utf8", "replace"))
        logger.warning("%s: line %d%s holds no row of a run and is left out: %s", path, number, more, text)
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line; whole or not at all."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
