"""What can be said about any world: on which side of zero its coordinates are, how fast it moves, what changed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.envs.language import Language
from worldmodel.envs.words import Attribute

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

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

    coordinates: dict[str, float]
    speed: float | None
    """Root mean square of the velocities."""


class CoordinateLanguage(Language):
    """Speaks of `task.coordinates` and `task.speed`; for tasks without a language of their own."""

    def __init__(self, task: "Task") -> None:
        """Name the side of zero of each coordinate and, where velocities are known, how fast everything moves."""
        super().__init__(task)
        facts = self.facts(task.get_state())
        self.attributes: dict[str, Attribute] = {
            name: Attribute(
                {side: f"coordinate {name} {side}" for side in (ABOVE, AT_MOST)},
                f"is coordinate {name} above or at most zero?",
                "is {}?",
            )
            for name in facts.coordinates
        }
        if facts.speed is not None:
            phrases = {"still": "standing still", "slow": "moving slowly", "fast": "moving fast"}
            self.attributes[MOTION] = Attribute(phrases, "how fast is it moving?", "is it {}?")

    def facts(self, state: np.ndarray) -> Facts:
        """Return the first coordinates of a state, and its speed."""
        return Facts(dict(list(self.task.coordinates(state).items())[:MAX_COORDINATES]), self.task.speed(state))

    def attributes_of(self, facts: Facts) -> dict[str, str]:
        """Return the side of zero of each coordinate; how fast everything moves."""
        values = {name: ABOVE if value > 0 else AT_MOST for name, value in facts.coordinates.items()}
        if facts.speed is not None:
            values[MOTION] = "still" if facts.speed < STILL_BELOW else "slow" if facts.speed < FAST_FROM else "fast"
        return values

    def captions_of(self, phrases: dict[str, str], facts: Facts) -> list[str]:
        """Write three phrasings of what is true; each mentions every attribute."""
        motion, places = _told(phrases)
        return [
            f"a frame of {self.task.name}, {motion}, with {places}",
            f"{self.task.name} {motion}: {places}",
            f"here {self.task.name} is seen with {places}, {motion}",
        ]

    def goals_of(self, phrases: dict[str, str], facts: Facts) -> list[str]:
        """Write three phrasings of the instruction to reach a configuration."""
        _, places = _told(phrases)
        return [f"reach the goal with {places}", f"bring {self.task.name} to a state with {places}", f"move until you see {places}"]

    def change_of(self, before: Facts, after: Facts) -> str:
        """Describe which coordinate changed most, and in which direction."""
        changes = {name: after.coordinates[name] - value for name, value in before.coordinates.items()}
        most = max(changes, key=lambda name: abs(changes[name]), default="")
        if not most or abs(changes[most]) < CHANGED:
            return "nothing changed much"
        return f"coordinate {most} {'increased' if changes[most] > 0 else 'decreased'}"

    def relation_questions(self, rng: np.random.Generator, facts: Facts) -> list[tuple[str, str]]:
        """Ask a yes/no question, one way or the other way round with equal probability.

        Which of two coordinates is larger; or, when there is but one, whether it is above or below a number.
        """
        if not facts.coordinates:
            return [("what is this?", self.task.name)]
        names, values = list(facts.coordinates), list(facts.coordinates.values())
        pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if values[i] != values[j]]
        if pairs:
            i, j = pairs[int(rng.integers(len(pairs)))]
            return [(f"is coordinate {names[i]} larger than coordinate {names[j]}?", "yes" if values[i] > values[j] else "no")]
        number = float(np.round(values[0] + rng.choice([-0.5, 0.5]), 1)) + 0.0  # which makes -0 to 0
        return [(f"is coordinate {names[0]} larger than {number:g}?", "yes" if values[0] > number else "no")]


def _told(phrases: dict[str, Any]) -> tuple[str, str]:
    """Phrase how the world moves, and where the coordinates are."""
    places = dict(phrases)
    return places.pop(MOTION, "at one moment"), " and ".join(places.values()) or "no coordinates"
