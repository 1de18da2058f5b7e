"""Pictures of other packages' environments, whatever their numbers and axes: what is drawn, and what is observed.

What can be read in one way only is translated; anything else is refused in one sentence, never recorded as something else.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from worldmodel.errors import UserError

CHANNELS = (1, 3, 4)
"""Gray, color, color with transparency, which is left out."""
GLIMPSE = 8
"""Pictures among the observations are reduced to this many pixels a side, gray; smaller ones are numbers like any others."""
WHITE = {np.dtype(np.bool_): 1, np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
"""The brightest value of pictures of these types; of floats it is 1, of all other integers 255."""


def as_picture(frame: Any, name: str) -> np.ndarray:
    """Convert what an environment draws to uint8 (H, W, 3).

    Args:
        frame: (H, W), (H, W, C) or (C, H, W) with C of `CHANNELS`: floats from 0 to 1, bool, 16 bits, or integers from 0 to 255.
        name: of the environment, for messages.

    Raises:
        UserError: it is no picture, or the brightness of its numbers is ambiguous.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype.kind not in "fiub" or not frame.size:
        raise UserError(f"{name} draws no pictures with render_mode='rgb_array': render() gave {_described(frame)}")
    picture = frame[..., None] if frame.ndim == 2 else frame
    if picture.ndim == 3 and picture.shape[2] not in CHANNELS and picture.shape[0] in CHANNELS:
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim != 3 or picture.shape[2] not in CHANNELS:
        raise UserError(f"{name} draws {_described(frame)}, which is no picture: let render() return uint8 (height, width, 3)")
    bytes_ = _as_bytes(picture if picture.shape[2] != 4 else picture[..., :3], name)
    return np.ascontiguousarray(np.broadcast_to(bytes_, (*bytes_.shape[:2], 3)))


def _as_bytes(picture: np.ndarray, name: str) -> np.ndarray:
    if picture.dtype == np.uint8:
        return picture
    low, high = picture.min(), picture.max()
    white = 1 if picture.dtype.kind == "f" else WHITE.get(picture.dtype, 255)
    if not 0 <= low <= high <= white:  # also where one is not a number
        raise UserError(
            f"{name} draws {picture.dtype} from {low:g} to {high:g}, expected 0 to {white}: let render() return uint8 pictures"
        )
    if white == 65535 and 0 < high < 256:
        raise UserError(
            f"{name} draws {picture.dtype} of at most {high}: these are 8 bits, or nearly black; let render() return uint8 pictures"
        )
    return np.round(picture.astype(np.float64) * (255 / white)).astype(np.uint8)


def glimpses(space: spaces.Space[Any], value: Any) -> np.ndarray | None:
    """Shrink an observed picture to gray float64 (n * GLIMPSE * GLIMPSE,) in [0, 1], n of a stack; None if it is no picture.

    Pictures are boxes of bytes from 0 to 255, (H, W), or those and floats from 0 to 1 or 255, (H, W, C) or (C, H, W) with C of
    `CHANNELS`, or a stack of n of these. A stack of four gray ones, (4, H, W), is blended into one.
    """
    if not isinstance(space, spaces.Box) or (channels := _channel_axis(space.shape)) is None:
        return None
    white = float(space.high.max())
    if space.low.min() != 0 or space.high.min() != white or white not in _whites(space):
        return None
    pictures = np.asarray(value, np.float64)
    pictures = pictures if len(space.shape) == 2 else pictures.mean(channels)
    grey = np.round(pictures * (255 / white)).clip(0, 255).astype(np.uint8).reshape(-1, *pictures.shape[-2:])
    small = [Image.fromarray(each).resize((GLIMPSE, GLIMPSE), Image.Resampling.BOX) for each in grey]
    return np.concatenate([np.asarray(each, np.float64).ravel() / 255 for each in small])


def _whites(space: spaces.Box) -> tuple[float, ...]:
    """Return the brightest values that a box of this type may have as a picture."""
    return (255.0,) if space.dtype == np.uint8 else () if len(space.shape) == 2 else (1.0, 255.0)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Find the channel axis of pictures of this shape, from the end; None if they cannot be pictures. Of (H, W) no matter where."""
    if len(shape) not in (2, 3, 4):
        return None
    first, height, width = (1, *shape)[-3:]
    if width in CHANNELS and min(first, height) >= GLIMPSE:
        return -1
    return -3 if first in CHANNELS and min(height, width) >= GLIMPSE else None


def _described(frame: Any) -> str:
    return f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
