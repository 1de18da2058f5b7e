"""What can be said about an arm of two links."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.language import Language
from worldmodel.envs.words import Attribute, color_attribute, direction_words, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.reacher.task import Reacher


class ReacherLanguage(Language):
    """Speaks of the arm's color, its elbow and its hand."""

    task: "Reacher"
    attributes = {
        "color": color_attribute("arm", OBJECT_COLORS, "arm.color"),
        "elbow": Attribute(
            {"straight": "straight", "bent": "bent", "folded": "folded"},
            "how is the arm: straight, bent or folded?",
            "is the arm {}?",
        ),
        "hand": Attribute(
            {name: f"in the {name}" for name in ("upper left", "upper right", "lower left", "lower right")},
            "in which corner is the hand?",
            "is the hand {}?",
        ),
    }

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return color; how far the elbow is bent (0.7 and 1.7 rad divide); the quadrant of the hand."""
        bend = abs(position[1])
        x, y = self.task.hand_of(position)
        return {
            "color": str(self.task.variation["arm.color"]),
            "elbow": "straight" if bend < 0.7 else "bent" if bend < 1.7 else "folded",
            "hand": f"{'upper' if y > 0 else 'lower'} {'right' if x > 0 else 'left'}",
        }

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "a blue arm, bent, with its hand in the upper left"."""
        arm = f"{with_article(phrases['color'])} arm"
        return [
            f"{arm}, {phrases['elbow']}, with its hand {phrases['hand']}",
            f"{arm} that is {phrases['elbow']} and holds its hand {phrases['hand']}",
            f"the hand is {phrases['hand']} and the {phrases['color']} arm is {phrases['elbow']}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "the hand should be in the upper left and the arm bent"."""
        return [
            f"the hand should be {phrases['hand']} and the {phrases['color']} arm {phrases['elbow']}",
            f"turn the arm until it is {phrases['elbow']} with its hand {phrases['hand']}",
            f"goal: the {phrases['color']} arm {phrases['elbow']}, its hand {phrases['hand']}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe which way the hand moved, and whether the elbow opened or closed."""
        right, up = self.task.hand_of(after) - self.task.hand_of(before)
        words = direction_words(right, up, threshold=0.04)
        bend = abs(after[1]) - abs(before[1])
        hand = f"the hand moved {words}" if words else "the hand stayed where it was"
        return hand + ("" if abs(bend) < 0.1 else " and the arm bent more" if bend > 0 else " and the arm straightened")

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask where the hand is, seen from the elbow: each question and its opposite are equally likely."""
        elbow = float(self.task.variation["arm.upper_length"]) * np.array([np.cos(position[0]), np.sin(position[0])])
        x, y = self.task.hand_of(position) - elbow
        word, answer = [("left of", x < 0), ("right of", x >= 0), ("above", y > 0), ("below", y <= 0)][int(rng.integers(4))]
        return [(f"is the hand {word} the elbow?", "yes" if answer else "no"), ("how many joints does the arm have?", "two")]
