"""Foreign columns as the fields of an episode: pictures in several layouts, flat numbers, discrete actions, meta data."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.interop.foreign import bare_episode
from worldmodel.errors import UserError

CHANNELS = (1, 3, 4)
"""Grey, colour, colour with transparency."""
LEAST_SIDE = 8
"""Pixels: what is smaller is no picture."""


def is_picture(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether rows of this shape and type are pictures: uint8, channels last, first, or none (grey)."""
    if dtype != np.uint8 or len(shape) not in (2, 3):
        return False
    sides = shape if len(shape) == 2 else shape[:2] if shape[2] in CHANNELS else shape[1:] if shape[0] in CHANNELS else (0, 0)
    return min(sides) >= LEAST_SIDE


def as_frames(pictures: np.ndarray) -> np.ndarray:
    """Pictures of any layout that `is_picture` takes, (N, ...), as uint8 (N, H, W, 3); transparency is left out."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    elif pictures.shape[-1] not in CHANNELS:
        pictures = np.moveaxis(pictures, 1, -1)
    colour = np.repeat(pictures, 3, axis=-1) if pictures.shape[-1] == 1 else pictures[..., :3]
    return np.ascontiguousarray(colour)


def as_rows(values: np.ndarray, dtype: type) -> np.ndarray:
    """Values (rows, ...) as (rows, width) of a type."""
    return np.asarray(values).reshape(len(values), int(np.prod(values.shape[1:]))).astype(dtype)


def one_hot(indices: np.ndarray, choices: int) -> np.ndarray:
    """Discrete actions in [0, choices), (T,), as float32 (T, choices)."""
    return np.eye(choices, dtype=np.float32)[np.asarray(indices, np.int64).reshape(-1)]


def action_names(size: int) -> list[str]:
    """Names of the numbers of an action that has no names."""
    return [f"a{i}" for i in range(size)]


def exact_texts(actions: np.ndarray) -> list[str]:
    """Actions (T, a) as texts to three decimals, as the tasks of this package write theirs; "" where a is 0."""
    names = action_names(actions.shape[1])
    pairs = [zip(names, row, strict=True) for row in actions.tolist()]
    texts = [", ".join(f"{name}={round(value, 3) + 0.0:+.3f}" for name, value in row) for row in pairs]
    return [f"action: {text}" if text else "" for text in texts]


def foreign_episode(frames: np.ndarray, actions: np.ndarray, **known: Any) -> Episode:
    """An episode of what a foreign file knows; without `action_texts` the numbers are written out as a0, a1, ..."""
    return bare_episode(frames, actions, **({"action_texts": exact_texts(actions)} | known))


def foreign_meta(layout: str, origin: str, action_size: int, dropped: Iterable[str], **facts: Any) -> dict[str, Any]:
    """Meta data of an episode file that is made from a foreign one.

    Args:
        layout: name of the format.
        origin: name of the foreign file or data set.
        action_size: numbers in an action.
        dropped: names of foreign fields that have no home here.
        facts: more, and what is known better.
    """
    meta: dict[str, Any] = {
        "env_id": origin,
        "seed": 0,
        "feature_names": [],
        "action_names": action_names(action_size),
        "action_block": 1,
        "factors": [],
        "restorable": False,
        "licence": "unknown",
        "source": {"format": layout, "name": origin},
    }
    return meta | facts | {"dropped": sorted({*dropped, *facts.get("dropped", ())})}


def no_pictures(path: object, layout: str, found: Iterable[str]) -> UserError:
    """The error for a data set in which nothing can be seen."""
    return UserError(
        f"{path} is a {layout} data set without pictures (it has {', '.join(sorted(found)) or 'no columns'}); "
        "record it with rendered frames, an episode file needs them"
    )
