"""A setting that begins as one of several objects, picked by a word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Choice:
    """Marks the type of a setting, in `Annotated`: on the command line `--SETTING NAME` picks what it begins as.

    The fields of what was picked are flags of their own, in any order: `--planner mppi --planner.horizon 4`.
    """

    options: Mapping[str, Callable[[], Any]]
    """Name -> makes the object."""

    def name_of(self, value: object) -> str:
        """Name the first option that makes objects of the type of `value`."""
        return next(name for name, make in self.options.items() if type(make()) is type(value))
