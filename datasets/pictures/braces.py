"""Braces in names of files, as a shell expands them."""

import itertools
import re

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(pattern: str) -> list[str]:
    """What a shell makes of `{000..127}` and `{a,b}`; other braces stay."""
    match = _BRACES.search(pattern)
    if match is None or not (parts := _alternatives(match.group(1))):
        return [pattern]
    before, after = pattern[: match.start()], expand_braces(pattern[match.end() :])
    return [f"{before}{part}{tail}" for part, tail in itertools.product(parts, after)]


def _alternatives(inside: str) -> list[str]:
    if span := _RANGE.fullmatch(inside):
        first, last = span.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else []
