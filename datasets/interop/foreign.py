"""What all foreign formats need: an episode with what they lack left empty, a folder that appears whole, pyarrow."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.atomic import sync_and_rename
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.errors import UserError


def bare_episode(frames: np.ndarray, actions: np.ndarray, **known: Any) -> Episode:
    """An episode of which little is known: numbers that are missing have width 0, texts are empty.

    Args:
        frames: uint8 (T+1, H, W, 3).
        actions: float32 (T, a); a is 0 for video without actions.
        known: fields of `Episode` that are known.
    """
    rows, steps = len(frames), len(actions)
    fields: dict[str, Any] = dict(
        proprio=np.zeros((rows, 0), np.float32),
        state=np.zeros((rows, 0)),
        features=np.zeros((rows, 0), np.float32),
        success=np.zeros(rows, np.bool_),
        captions=[""] * rows,
        questions=[""] * rows,
        answers=[""] * rows,
        action_texts=[""] * steps,
        action_words=[""] * steps,
        changes=[""] * steps,
        seed=0,
        policy="unknown",
        variation={},
        goal_state=np.zeros(0),
        goal_text="",
    )
    return Episode(frames=frames, actions=actions, **(fields | known))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill under a temporary name; it gets its own when the block ends well, otherwise nothing is left.

    Raises:
        UserError: something has that name already, or the folder cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; remove it or choose another name")
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_and_rename(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room or choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def import_parquet() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'worldmodel[data]'") from error
    return pyarrow, pyarrow.parquet
