"""Words of captions: attributes with the phrases that say them, colors, articles, directions.

A language lists its `Attribute`s and says which value each one has in a state. Everything else (the caption, its
parser, the questions) follows from their phrases, so a caption and its parser cannot drift apart.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One property of a scene that can be said, read back and asked about."""

    phrases: dict[str, str]
    """Value -> the words that say it in a caption; no phrase contains another of this attribute."""
    question: str
    """Open question; its answer is the value."""
    yes_no: str
    """Question with one `{}` for a phrase; its answer is `yes` or `no`."""
    factor: str | None = None
    """The factor of variation that decides the value, when one does."""


def with_article(word: str) -> str:
    """Return the word after "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def read_attributes(text: str, attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Read attribute -> value for every attribute that `text` mentions; the first mention counts.

    The text may come from a model, so nothing is ever an error: what is not found is absent.
    """
    found: dict[str, str] = {}
    for name, attribute in attributes.items():
        values = {phrase: value for value, phrase in attribute.phrases.items()}
        match = re.search(r"\b(" + "|".join(map(re.escape, values)) + r")\b", text.lower())
        if match:
            found[name] = values[match.group(1)]
    return found


def color_attribute(thing: str, colors: Iterable[str], factor: str) -> Attribute:
    """Return the attribute of the color of a thing, e.g. "disc", that a factor decides."""
    return Attribute({color: color for color in colors}, f"what color is the {thing}?", f"is the {thing} {{}}?", factor)


def direction_words(right: float, up: float, threshold: float) -> str:
    """Write a displacement in the picture as words: "left", "up and right"; "" when both parts are below the threshold."""
    vertical = "" if abs(up) < threshold else "up" if up > 0 else "down"
    horizontal = "" if abs(right) < threshold else "right" if right > 0 else "left"
    return " and ".join(word for word in (vertical, horizontal) if word)
