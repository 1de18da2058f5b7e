"""What can be said about any environment: on which side of zero its coordinates are, how fast it moves, what changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.envs.language import Attribute

MAX_COORDINATES = 4
"""Coordinates that are spoken of, from the first; that of the root come first in a model."""
STILL_BELOW, FAST_FROM = 0.05, 1.0
"""Root mean square of the velocities, in units a second, below which it stands still and from which it is fast."""
CHANGED = 1e-3
"""Least change of a coordinate that is worth a word."""
MOTION = "motion"
ABOVE, AT_MOST = "above zero", "at most zero"


@dataclass(frozen=True)
class Facts:
    """A state, as far as it is spoken of."""

    env_id: str
    coordinates: Sequence[tuple[str, int, int]]
    """(name, index into `position`, index into `speed`)."""
    position: np.ndarray
    speed: np.ndarray | None

    def value(self, coordinate: tuple[str, int, int]) -> float:
        """Return the coordinate's value."""
        return float(self.position[coordinate[1]])


def attributes_of_world(coordinates: Sequence[tuple[str, int, int]], has_speed: bool) -> dict[str, Attribute]:
    """Name the side of zero of each coordinate and, where velocities are known, how fast everything moves."""
    attributes = {
        name: Attribute(
            {side: f"coordinate {name} {side}" for side in (ABOVE, AT_MOST)},
            f"is coordinate {name} above or at most zero?",
            "is {}?",
        )
        for name, _, _ in coordinates
    }
    if has_speed:
        phrases = {"still": "standing still", "slow": "moving slowly", "fast": "moving fast"}
        attributes[MOTION] = Attribute(phrases, "how fast is it moving?", "is it {}?")
    return attributes


def truth(facts: Facts) -> dict[str, str]:
    """Return the true value of every attribute."""
    values = {each[0]: ABOVE if facts.value(each) > 0 else AT_MOST for each in facts.coordinates}
    if facts.speed is not None:
        speed = float(np.sqrt(np.mean(np.square(facts.speed)))) if facts.speed.size else 0.0
        values[MOTION] = "still" if speed < STILL_BELOW else "slow" if speed < FAST_FROM else "fast"
    return values


def _phrases(facts: Facts, attributes: Mapping[str, Attribute]) -> tuple[str, str]:
    """Phrase how the world moves, and where the coordinates are."""
    phrases = {name: attributes[name].phrases[value] for name, value in truth(facts).items()}
    return phrases.pop(MOTION, "at one moment"), " and ".join(phrases.values()) or "no coordinates"


def captions(facts: Facts, attributes: Mapping[str, Attribute]) -> list[str]:
    """Write three phrasings of what is true; each mentions every attribute."""
    motion, places = _phrases(facts, attributes)
    return [
        f"a frame of {facts.env_id}, {motion}, with {places}",
        f"{facts.env_id} {motion}: {places}",
        f"here {facts.env_id} is seen with {places}, {motion}",
    ]


def goals(facts: Facts, attributes: Mapping[str, Attribute]) -> list[str]:
    """Write three phrasings of the instruction to reach a configuration."""
    _, places = _phrases(facts, attributes)
    return [f"reach the goal with {places}", f"bring {facts.env_id} to a state with {places}", f"move until you see {places}"]


def change(before: Facts, after: Facts) -> str:
    """Describe which coordinate changed most, and in which direction."""
    changes = [after.value(each) - before.value(each) for each in before.coordinates]
    if not changes or max(map(abs, changes)) < CHANGED:
        return "nothing changed much"
    most = int(np.argmax(np.abs(changes)))
    return f"coordinate {before.coordinates[most][0]} {'increased' if changes[most] > 0 else 'decreased'}"


def relations(rng: np.random.Generator, facts: Facts) -> list[tuple[str, str]]:
    """Ask a yes/no question, one way or the other way round with equal probability.

    Which of two coordinates is larger; or, when there is but one, whether it is above or below a number.
    """
    if not facts.coordinates:
        return [("what is this?", facts.env_id)]
    names = [each[0] for each in facts.coordinates]
    values = [facts.value(each) for each in facts.coordinates]
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if values[i] != values[j]]
    if pairs:
        i, j = pairs[int(rng.integers(len(pairs)))]
        return [(f"is coordinate {names[i]} larger than coordinate {names[j]}?", "yes" if values[i] > values[j] else "no")]
    number = float(np.round(values[0] + rng.choice([-0.5, 0.5]), 1)) + 0.0  # which makes -0 to 0
    return [(f"is coordinate {names[0]} larger than {number:g}?", "yes" if values[0] > number else "no")]
