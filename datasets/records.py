"""JSON of other people: damaged, hostile or just large, it is read or refused, and never ends the program; and what reads Parquet."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError

DEEPEST = 100
"""Levels of lists and objects within each other."""
LARGEST_TOML = 2**20
"""Bytes of a TOML file that people write."""
_LONG_KEY = re.compile(r"(?:[\w\"'-]+[ \t]*\.[ \t]*){100}")
"""Each part of a key is a table in a table."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON value; ValueError where it is damaged, nested deeper than `DEEPEST`, or holds a number of too many digits."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, opening)) > DEEPEST:  # type: ignore[arg-type]
        check_depth(value)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, larger than `LARGEST_TOML`, or nested deeper than `DEEPEST` levels, by its keys or its values.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_TOML + 1)
    if len(content) > LARGEST_TOML:
        raise ValueError(f"it is larger than {LARGEST_TOML:,} bytes")
    text = content.decode("utf8").replace("\r\n", "\n")
    if _LONG_KEY.search(text):
        raise ValueError("it has a key of very many parts")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_depth(table)
    return table


def check_depth(value: Any) -> None:
    """Refuse, with a ValueError, a value nested deeper than `DEEPEST`: code that calls itself for each level could not follow it."""
    level = [value]
    for _ in range(DEEPEST):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, list | dict)]
        level = [inner for each in lists for inner in each]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def shortened(value: Any, most: int = 100) -> str:
    """Shorten a value for a message: as Python writes it, its end left out where that is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def import_parquet(what: object) -> tuple[Any, Any]:
    """Import `pyarrow` and `pyarrow.parquet`; UserError, which says what needs them, where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{what} needs the package pyarrow; `pip install 'worldmodel[data]'` brings it") from error
    return pyarrow, pyarrow.parquet
