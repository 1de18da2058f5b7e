"""Where worldmodel keeps what it makes, unless a command is given `--out`."""

import os
from pathlib import Path

from worldmodel.errors import UserError


def home() -> Path:
    """Return `WORLDMODEL_HOME`, or `~/.worldmodel` where that is not set or empty.

    Raises:
        UserError: it names the home of a user who has none.
    """
    named = os.environ.get("WORLDMODEL_HOME") or "~/.worldmodel"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise UserError(f"{named}: there is no such home; set WORLDMODEL_HOME to a folder") from error


def datasets_dir() -> Path:
    """Return the folder of collected episode files."""
    return home() / "datasets"


def checkpoints_dir() -> Path:
    """Return the folder of pretrained codecs and models."""
    return home() / "checkpoints"


def runs_dir() -> Path:
    """Return the folder of training runs and reports."""
    return home() / "runs"


def cache_dir() -> Path:
    """Return the folder of what can be made again: tokenized corpora, indices, latents."""
    return home() / "cache"
