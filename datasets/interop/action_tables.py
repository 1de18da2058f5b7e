"""Tables of actions that lie next to films and pictures, as .npy, .csv or .jsonl; what could be read in two ways is refused."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from worldmodel.datasets.records import parse_json

ENDINGS = (".npy", ".csv", ".jsonl")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_COUNTING = frozenset({"index", "unnamed: 0", "row", "step", "timestep", "frame", "t", "i", "n", "id"})
"""Names, in small letters, of a column that counts the rows."""


class UnreadableTable(Exception):
    """A table that cannot be used; the text says why."""


@dataclass(frozen=True)
class Table:
    """Actions, one a row."""

    rows: np.ndarray
    """float32 (rows, a)."""
    doubt: str = ""
    """Why the first row may be the head of the table; only the number of frames can decide it."""


def load_table(path: Path) -> Table:
    """Read a table by its ending; UnreadableTable where it is none of finite numbers, or could be read in two ways."""
    try:
        table = {".npy": _load_npy, ".csv": _load_csv, ".jsonl": _load_jsonl}[path.suffix](path)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, csv.Error) as error:
        raise UnreadableTable(f"{path.name} cannot be read as a table of numbers") from error
    if not np.isfinite(table.rows).all():
        raise UnreadableTable(f"{path.name} holds numbers that are not finite")
    return table


def _load_npy(path: Path) -> Table:
    _refuse_size(path)
    rows = np.load(path, allow_pickle=False)
    if rows.dtype.kind not in "fiub":
        raise UnreadableTable(f"{path.name} holds {rows.dtype}, which are no plain numbers")
    return Table(_as_rows(rows.astype(np.float32)))


def _refuse_size(path: Path) -> None:
    """Refuse an array that is larger than its file before memory is made for it: a few bytes may ask for terabytes."""
    with path.open("rb") as file:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if not 0 <= math.prod(shape) * dtype.itemsize <= path.stat().st_size - file.tell():
            raise UnreadableTable(f"{path.name} is cut off: it says that it holds {math.prod(shape)} numbers")


def _load_jsonl(path: Path) -> Table:
    rows = [parse_json(line) for line in _lines(path)]
    return Table(_as_rows(np.array([row["action"] if isinstance(row, dict) else row for row in rows], np.float32)))


def _load_csv(path: Path) -> Table:
    lines = _lines(path)
    mark = next((mark for mark in ";\t" if all(mark in line for line in lines)), ",")
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
    cells = [[cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in row] for row in cells]
    first, said = cells[0], mark.join(cells[0])
    if first[0] == "":  # as pandas writes them: its index would pass for a part of the action
        raise UnreadableTable(f"{path.name} begins with {said!r}, which may number its columns; write no index, and name them")
    head = [cell.lstrip("# ") for cell in first] if _names_columns(first) else []
    rows = cells[1:] if head else cells
    _refuse_split_numbers(path, head, rows)
    table = np.array(rows, np.float32)
    _refuse_count(path, head, table)
    numbered = not head and first == [str(i) for i in range(len(first))]
    doubt = f"{path.name} begins with {said!r}, which may number its columns; write no index, and name them" if numbered else ""
    return Table(_as_rows(table), doubt)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _as_rows(rows: np.ndarray) -> np.ndarray:
    return rows[:, None] if rows.ndim == 1 else rows.reshape(len(rows), int(np.prod(rows.shape[1:])))


def _names_columns(cells: list[str]) -> bool:
    """Test whether each cell is a name, which begins with a letter; NaN and infinity are numbers, and damaged ones are no names."""
    return all(re.match(r"[#\s]*[^\W\d]", cell) and not _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse_split_numbers(path: Path, head: list[str], rows: list[list[str]]) -> None:
    """Refuse rows like 0,10 that may be one number with a decimal comma, unless there is a name for each of their cells."""
    pairs = all(len(row) % 2 == 0 for row in rows) and len(rows) > 0
    whole = all(re.fullmatch(r"[-+]?\d+" if i % 2 == 0 else r"\d+", cell) for row in rows for i, cell in enumerate(row))
    if pairs and whole and len(head) != len(rows[0]):
        raise UnreadableTable(
            f"{path.name} has rows like {','.join(rows[0])!r}, whose commas may be decimal commas; write decimal points, or a first "
            "row with a name for each column"
        )


def _refuse_count(path: Path, head: list[str], table: np.ndarray) -> None:
    """Refuse a first column that counts the rows: an index, which would pass for a part of the action."""
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 3 or head and head[0].lower() not in _COUNTING:
        return
    if np.array_equal(table[:, 0] - table[0, 0], np.arange(len(table))) and table[0, 0] in (0, 1):
        raise UnreadableTable(f"the first column of {path.name} counts its rows; write no index, or give it a name of its own")
