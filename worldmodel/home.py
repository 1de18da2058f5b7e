"""Where worldmodel keeps what it makes, unless a command is given `--out`."""

import os
from pathlib import Path


def home() -> Path:
    """`WORLDMODEL_HOME`, or `~/.worldmodel`."""
    return Path(os.environ.get("WORLDMODEL_HOME", "~/.worldmodel")).expanduser()


def datasets_dir() -> Path:
    """Collected episode files."""
    return home() / "datasets"


def checkpoints_dir() -> Path:
    """Pretrained codecs and models."""
    return home() / "checkpoints"


def runs_dir() -> Path:
    """Training runs and reports."""
    return home() / "runs"


def cache_dir() -> Path:
    """What can be made again: cut corpora, indices, latents."""
    return home() / "cache"
