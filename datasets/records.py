"""JSON and TOML of other people: damaged, hostile or just large, it is read or refused, and never ends the program."""

import json
from typing import Any

DEEPEST = 100
"""Levels of lists and objects within each other."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON value.

    Raises:
        ValueError: it is damaged, nested deeper than `DEEPEST` levels, or holds a number of too many digits.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, opening)) > DEEPEST:  # type: ignore[arg-type]
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse a value of lists and dictionaries that later code, which calls itself for each level, could not follow.

    Raises:
        ValueError: it is nested deeper than `DEEPEST` levels.
    """
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
