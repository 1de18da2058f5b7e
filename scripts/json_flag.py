"""`--json`: a verb prints one JSON document, and what people read goes to stderr."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonFlag:
    """The flag, for the config of a verb whose `main` returns what it found."""

    json: bool = False
    """Print all that was found as one JSON document on stdout; what people read goes to stderr."""


def print_found(main: Callable[[Any], Any], config: Any) -> None:
    """Run a verb, and print what it returns if its config has the flag and it is set."""
    if not getattr(config, "json", False):
        main(config)
        return
    with contextlib.redirect_stdout(sys.stderr):
        found = main(config)
    print(json.dumps(plain(found), indent=1, allow_nan=False))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: arrays and tuples are lists, numbers that are not finite null, paths and the like text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def records(rows: Sequence[tuple[str, ...]]) -> list[dict[str, str]]:
    """Return the rows of a table, of which the first has the names of the columns, as objects."""
    names, *rest = rows
    return [dict(zip(names, row, strict=True)) for row in rest]
