"""Actions as text, in three forms: exact numbers, coarse words, and keys.

    exact   action: dx=+0.300, dy=-0.120      read back to three decimals
    words   move a little right and move up   three sizes an axis: nothing, a little, full
    keys    keys: w d                         what one would press to drive it

The exact form can be trained on and planned with; words and keys are how people ask for an action.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from worldmodel.errors import UserError

ActionForm = Literal["exact", "words", "keys"]

STILL = "stay still"
LITTLE = 0.3
FULL = 0.8
"""Size of a component that words or keys stand for: `a little`, and without it."""
_LITTLE_FROM, _FULL_FROM = 0.15, 0.5


@dataclass(frozen=True)
class ActionAxis:
    """One component of an action, in [-1, 1], and how people speak of it."""

    name: str
    """In the exact form, e.g. `dx`."""
    negative: tuple[str, str]
    """Verb and direction of negative values, e.g. ("move", "left")."""
    positive: tuple[str, str]
    """Verb and direction of positive values."""
    keys: tuple[str, str]
    """The keys for negative and for positive values, e.g. ("a", "d")."""


PLANAR_AXES = (
    ActionAxis("dx", ("move", "left"), ("move", "right"), ("a", "d")),
    ActionAxis("dy", ("move", "down"), ("move", "up"), ("s", "w")),
)
"""Of what moves in the plane of a picture taken from above."""


def describe_action(action: np.ndarray, axes: Sequence[ActionAxis], form: ActionForm) -> str:
    """Write an action (a,) as text; `parse_action` reads it.

    Raises:
        UserError: if there is no such form.
    """
    pairs = list(zip(axes, np.asarray(action).tolist(), strict=True))
    if form == "exact":  # + 0.0 makes -0.000 to +0.000
        return "action: " + ", ".join(f"{axis.name}={round(value, 3) + 0.0:+.3f}" for axis, value in pairs)
    if form == "words":
        return " and ".join(_words(axis, value) for axis, value in pairs if abs(value) >= _LITTLE_FROM) or STILL
    if form == "keys":
        pressed = [axis.keys[int(value > 0)] for axis, value in pairs if abs(value) >= _LITTLE_FROM]
        return f"keys: {' '.join(pressed) or 'none'}"
    raise UserError(f"unknown form {form!r} of an action text: expected exact, words or keys")


def _words(axis: ActionAxis, value: float) -> str:
    verb, direction = axis.positive if value > 0 else axis.negative
    return f"{verb} {direction}" if abs(value) >= _FULL_FROM else f"{verb} a little {direction}"


@functools.cache
def coarse_actions(axes: tuple[ActionAxis, ...]) -> tuple[tuple[str, np.ndarray], ...]:
    """Return words and action (a,) for standing still and for a full action along each axis, both ways: 1 + 2a of them."""
    actions = [np.zeros(len(axes))]
    actions += [sign * FULL * row for row in np.eye(len(axes)) for sign in (-1.0, 1.0)]
    return tuple((describe_action(action, axes, "words"), action) for action in actions)


def parse_action(text: str, axes: Sequence[ActionAxis]) -> np.ndarray:
    """Read an action from any of the three forms.

    Returns:
        float32 (a,), each component in [-1, 1].

    Raises:
        UserError: if the text has another form or a component is out of bounds.
    """
    stripped = text.strip().lower()
    if stripped.startswith("action:"):
        return _parse_exact(text, axes)
    if stripped.startswith("keys:"):
        return _parse_keys(text, axes)
    return _parse_words(text, axes)


def _parse_exact(text: str, axes: Sequence[ActionAxis]) -> np.ndarray:
    number = r"([+-]?(?:\d+\.?\d*|\.\d+))"
    components = r"\s*,\s*".join(rf"{re.escape(axis.name)}\s*=\s*{number}" for axis in axes)
    match = re.fullmatch(rf"\s*action:\s*{components}\s*", text)
    if match is None:
        raise _unreadable(text, axes)
    values = np.array([float(group) for group in match.groups()], dtype=np.float32)
    if np.abs(values).max() > 1.0:
        raise UserError(f"the action text {text!r} is out of bounds: every component must lie in [-1, 1]")
    return values


def _parse_keys(text: str, axes: Sequence[ActionAxis]) -> np.ndarray:
    values = np.zeros(len(axes), np.float32)
    pressed = text.split(":", 1)[1].lower().split()
    signs = {key: (i, sign) for i, axis in enumerate(axes) for key, sign in zip(axis.keys, (-FULL, FULL), strict=True)}
    for key in pressed if pressed != ["none"] else []:
        if key not in signs:
            raise UserError(f"unknown key {key!r} in {text!r}: the keys of this task are {', '.join(signs)}")
        values[signs[key][0]] += signs[key][1]
    return values


def _parse_words(text: str, axes: Sequence[ActionAxis]) -> np.ndarray:
    values = np.zeros(len(axes), np.float32)
    words = " ".join(text.lower().replace(",", " and ").split())
    known = {_words(axis, sign * size): (i, sign * size) for i, axis in enumerate(axes) for sign in (-1, 1) for size in (LITTLE, FULL)}
    for part in words.split(" and ") if words != STILL else []:
        if part not in known:
            raise _unreadable(text, axes)
        index, value = known[part]
        values[index] += value
    return np.clip(values, -1.0, 1.0)


def _unreadable(text: str, axes: Sequence[ActionAxis]) -> UserError:
    example = np.full(len(axes), LITTLE)
    forms = " or ".join(repr(describe_action(example, axes, form)) for form in ("exact", "words", "keys"))
    return UserError(f"cannot read the action text {text!r}: expected the form {forms}")
