"""Text about a task, always made from the true state: captions, questions, and actions written as text.

A task lists its `Attribute`s and says which value each one has in a state. Everything else (the caption, its
parser, the questions) follows from their phrases, so a caption and its parser cannot drift apart.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.errors import UserError

Color = tuple[float, float, float]

OBJECT_COLORS: dict[str, Color] = {
    "red": (0.86, 0.20, 0.18),
    "green": (0.18, 0.62, 0.29),
    "blue": (0.16, 0.40, 0.85),
    "yellow": (0.96, 0.80, 0.14),
    "purple": (0.55, 0.25, 0.70),
    "orange": (0.97, 0.51, 0.12),
}
FLOOR_COLORS: dict[str, Color] = {
    "cream": (0.95, 0.93, 0.88),
    "white": (1.00, 1.00, 1.00),
    "mint": (0.80, 0.92, 0.85),
    "sky": (0.78, 0.88, 0.97),
    "rose": (0.97, 0.85, 0.86),
    "gray": (0.74, 0.75, 0.77),
}
WALL_COLORS: dict[str, Color] = {
    "slate": (0.25, 0.28, 0.36),
    "black": (0.08, 0.08, 0.09),
    "brown": (0.36, 0.24, 0.17),
    "teal": (0.06, 0.33, 0.36),
}


@dataclass(frozen=True)
class Attribute:
    """One property of a scene that can be said, read back and asked about."""

    phrases: dict[str, str]
    """Value -> the words that say it in a caption; no phrase contains another of this attribute."""
    question: str
    """Open question; its answer is the value."""
    yes_no: str
    """Question with one `{}` for a phrase; its answer is `yes` or `no`."""


def with_article(word: str) -> str:
    """The word after "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def read_attributes(text: str, attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Attribute -> value for every attribute that `text` mentions; the first mention counts.

    The text may come from a model, so nothing is ever an error: what is not found is absent.
    """
    found: dict[str, str] = {}
    for name, attribute in attributes.items():
        values = {phrase: value for value, phrase in attribute.phrases.items()}
        match = re.search(r"\b(" + "|".join(map(re.escape, values)) + r")\b", text.lower())
        if match:
            found[name] = values[match.group(1)]
    return found


def make_questions(rng: np.random.Generator, attributes: Mapping[str, Attribute], truth: Mapping[str, str]) -> list[tuple[str, str]]:
    """An open and a yes/no question per attribute with the true answers, in the order of the attributes.

    The phrase of a yes/no question is the true one with probability 1/2, else one of the wrong ones.
    """
    pairs: list[tuple[str, str]] = []
    for name, attribute in attributes.items():
        pairs.append((attribute.question, truth[name]))
        wrong = [value for value in attribute.phrases if value != truth[name]]
        asked = truth[name] if rng.random() < 0.5 else wrong[rng.integers(len(wrong))]
        answer = "yes" if asked == truth[name] else "no"
        pairs.append((attribute.yes_no.format(attribute.phrases[asked]), answer))
    return pairs


def format_action(action: np.ndarray, names: Sequence[str]) -> str:
    """Write an action as text, three decimals a component: `action: dx=+0.300, dy=-0.120`."""
    rounded = np.round(np.asarray(action, dtype=np.float64), 3) + 0.0  # -0.000 becomes +0.000
    return "action: " + ", ".join(f"{name}={value:+.3f}" for name, value in zip(names, rounded, strict=True))


def parse_action(text: str, names: Sequence[str]) -> np.ndarray:
    """Read an action back from its text.

    Returns:
        float32 (a,), each component in [-1, 1].

    Raises:
        UserError: if the text has another form or a component is out of bounds.
    """
    number = r"([+-]?(?:\d+\.?\d*|\.\d+))"
    components = r"\s*,\s*".join(rf"{re.escape(name)}\s*=\s*{number}" for name in names)
    match = re.fullmatch(rf"\s*action:\s*{components}\s*", text)
    if match is None:
        example = format_action(np.zeros(len(names)), names)
        raise UserError(f"cannot read the action text {text!r}: expected the form {example!r}")
    values = np.array([float(group) for group in match.groups()], dtype=np.float32)
    if np.abs(values).max() > 1.0:
        raise UserError(f"the action text {text!r} is out of bounds: every component must lie in [-1, 1]")
    return values
