"""What a verb writes for people to look at: it is checked at the start, and replaces nothing but what a verb wrote before.

Everything written here says in its own format's metadata that it was made by worldmodel, which distinguishes it from other files.
"""

import io
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.datasets.atomic import write_atomic, writing
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MARK = "made by worldmodel"
"""Stands in every file that a verb may replace."""
SEARCHED = 2**16
"""Bytes at the beginning and at the end of a file in which the mark is looked for."""
LEAST_ROOM = 2**20
"""Bytes that must be free on the disk."""


def check_output(
    path: Path, endings: Sequence[str] = (), inputs: Iterable[Path] = (), overwrite: bool = False, mark: str = MARK
) -> None:
    """Make sure, before the work begins, that a file may be written at its end; writes nothing.

    Args:
        path: the file to write.
        endings: of its name that are allowed, such as `.png`; any if there are none.
        inputs: files that are read, which are never replaced.
        overwrite: it may replace a file that worldmodel did not make.
        mark: what a file of worldmodel holds that may be replaced.

    Raises:
        UserError: another ending; it is an input, a folder or no file; it was not made by worldmodel; it cannot be written.
    """
    if "\0" in str(path):
        raise UserError(f"cannot write {str(path)!r}: a file's name holds no NUL")
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"{path} must end in {' or '.join(endings)}")
    try:
        _check_place(path)
        if not path.exists():
            return
        if not path.is_file():
            raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}, name a file to write")
        if any(Path(each).exists() and path.samefile(each) for each in inputs):
            raise UserError(f"{path} is read by this command, which would destroy it: name another file to write")
        if not overwrite and not holds(path, mark):
            raise UserError(f"{path} exists and was not made by worldmodel: name another file, or replace it with --overwrite")
    except OSError as error:  # a name that is too long, for one
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _check_place(path: Path) -> None:
    """Make sure that the folder is one, or can be made, and has room."""
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: {folder} may not be written to")
    if shutil.disk_usage(folder).free < LEAST_ROOM:
        raise UserError(f"cannot write {path}: the disk of {folder} is full; make room or name another place")


def holds(path: Path, mark: str) -> bool:
    """Test whether a file has these words at its beginning or its end."""
    try:
        with path.open("rb") as file:
            ends = file.read(SEARCHED)
            file.seek(max(0, path.stat().st_size - SEARCHED))
            return mark.encode() in ends + file.read(SEARCHED)
    except OSError:
        return False


def write_output(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and make its folder, as `check_output` has said that one may; UserError where one cannot."""
    with writing(path):
        write_atomic(path, data)


def json_bytes(record: Mapping[str, Any], indent: int = 2) -> bytes:
    """Write a JSON object that says who made it; numbers that are not finite are refused by a ValueError."""
    return (json.dumps({"generator": MARK, **record}, indent=indent, allow_nan=False) + "\n").encode()


def png_bytes(image: "Image.Image") -> bytes:
    """Encode a picture as a PNG file that says who made it."""
    from PIL.PngImagePlugin import PngInfo

    facts = PngInfo()
    facts.add_text("Software", MARK)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True, pnginfo=facts)
    return data.getvalue()


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Set rows of cells in columns, two blanks apart; the columns with these numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [">" if column in right else "<" for column in range(len(widths))]
    lines = ("  ".join(f"{cell:{place}{width}}" for cell, place, width in zip(row, places, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
