"""Captions that come with pictures: text files, JSON records, file names."""

import json
import re
from typing import Any

from worldmodel.datasets.pictures.skipped_pairs import BadPairError

CAPTION_KEYS = ("caption", "text", "captions", "texts", "prompt", "description", "alt_text")
"""Fields of a record that hold its caption, the first that is there."""


def caption_of_text(data: bytes) -> str:
    """Read the caption in the bytes of a text file, stripped; BadPairError where it is empty or not UTF-8."""
    try:
        return _not_empty(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadPairError("the caption is not UTF-8") from error


def caption_of_json(data: bytes, key: str | None = None) -> str:
    """Read the caption in a JSON record; BadPairError where it is no JSON object, or has no caption."""
    return caption_of_record(record_of_json(data), key)


def record_of_json(data: bytes) -> dict[str, Any]:
    """Read a JSON object; BadPairError where it is none."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BadPairError(f"its JSON cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise BadPairError(f"its JSON is a {type(record).__name__}, not an object")
    return record


def caption_of_record(record: dict[str, Any], key: str | None = None) -> str:
    """Return the caption of a record, of a list of captions the first: at `key`, or the first of `CAPTION_KEYS` that is there.

    BadPairError where there is none.
    """
    name = key if key is not None else next((name for name in CAPTION_KEYS if record.get(name)), None)
    value = record.get(name) if name is not None else None
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise BadPairError(f"no caption: the record has {', '.join(map(str, record)) or 'nothing'}, not {key or 'caption or text'}")
    return _not_empty(value)


def caption_of_name(stem: str) -> str:
    """Return the words of a file name, "red_apple-2" -> "red apple 2"; BadPairError where there are none."""
    return _not_empty(re.sub(r"[_\-\s]+", " ", stem))


def _not_empty(caption: str) -> str:
    caption = caption.strip()
    if not caption:
        raise BadPairError("the caption is empty")
    return caption
