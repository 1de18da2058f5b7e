"""Text about a task, always made from the true state: captions and questions.

A task lists its `Attribute`s and says which value each one has in a state. Everything else (the caption, its
parser, the questions) follows from their phrases, so a caption and its parser cannot drift apart.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

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


def make_questions(rng: np.random.Generator, attributes: Mapping[str, Attribute], truth: Mapping[str, str]) -> list[tuple[str, str]]:
    """Make an open and a yes/no question per attribute with the true answers, in the order of the attributes.

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


_OPPOSITE = {"yes": "no", "no": "yes"}


def episode_questions(
    rng: np.random.Generator,
    attributes: Mapping[str, Attribute],
    truths: Sequence[Mapping[str, str]],
    sampled: Set[str],
    others: Callable[[int], list[tuple[str, str]]],
) -> list[tuple[str, str]]:
    """Choose one (question, answer) per state of an episode; who sees the questions alone scores chance on yes and no.

    About a third are open, a third yes/no, the rest come from `others`. A yes/no question about something that
    changes in the episode is asked of two states, once for a yes and once for a no; where no second state is found an
    open question takes its place. About an attribute that stays it is asked only if a sampled factor decided it; then
    all values are equally likely and so are yes and no.

    Args:
        rng: Source of all choices.
        attributes: The attributes of the task.
        truths: Attribute -> value for each state.
        sampled: Names of the factors that were sampled.
        others: Other questions about state i.
    """
    names = list(attributes)
    kinds = rng.permutation(np.arange(len(truths)) % 3)
    drawn = [names[k] for k in rng.integers(len(names), size=len(truths)).tolist()]
    track: list[tuple[str, str] | None] = [None] * len(truths)
    for i in np.flatnonzero(kinds == 0).tolist():
        track[i] = (attributes[drawn[i]].question, truths[i][drawn[i]])
    waiting: dict[str, int] = {}  # attribute -> a state that still lacks its counterpart
    for i in rng.permutation(np.flatnonzero(kinds == 1)).tolist():
        name = drawn[i]
        attribute, truth = attributes[name], truths[i][name]
        if attribute.factor in sampled:
            wrong = [value for value in attribute.phrases if value != truth]
            yes = rng.random() < 0.5
            asked = truth if yes else wrong[int(rng.integers(len(wrong)))]
            track[i] = (attribute.yes_no.format(attribute.phrases[asked]), "yes" if yes else "no")
        elif attribute.factor is None and name not in waiting:
            waiting[name] = i
        elif attribute.factor is None and truths[waiting[name]][name] != truth:
            other = waiting.pop(name)
            yes_state, no_state = (i, other) if rng.random() < 0.5 else (other, i)
            question = attribute.yes_no.format(attribute.phrases[truths[yes_state][name]])
            track[yes_state], track[no_state] = (question, "yes"), (question, "no")
    unpaired: dict[tuple[str, str], int] = {}  # the yes/no question that would complete a pair -> the state of the other half
    for i in rng.permutation([i for i, pair in enumerate(track) if pair is None]).tolist():
        pairs = others(i)
        match = next((pair for pair in pairs if pair in unpaired), None)
        question, answer = match or pairs[int(rng.integers(len(pairs)))]
        if match is not None:
            track[unpaired.pop(match)] = (question, _OPPOSITE[answer])
            track[i] = match
        elif answer in _OPPOSITE:
            unpaired[question, _OPPOSITE[answer]] = i
        else:
            track[i] = (question, answer)
    return [pair or (attributes[drawn[i]].question, truths[i][drawn[i]]) for i, pair in enumerate(track)]


def direction_words(right: float, up: float, threshold: float) -> str:
    """Write a displacement in the picture as words: "left", "up and right"; "" when both parts are below the threshold."""
    vertical = "" if abs(up) < threshold else "up" if up > 0 else "down"
    horizontal = "" if abs(right) < threshold else "right" if right > 0 else "left"
    return " and ".join(word for word in (vertical, horizontal) if word)
