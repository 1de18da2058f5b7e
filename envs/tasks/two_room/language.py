"""What can be said about a disc in two rooms."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.language import Language
from worldmodel.envs.words import Attribute, color_attribute, direction_words, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.two_room.task import TwoRoom


class TwoRoomLanguage(Language):
    """Speaks of the disc: its color, its room and its height."""

    task: "TwoRoom"
    attributes = {
        "color": color_attribute("disc", OBJECT_COLORS, "disc.color"),
        "room": Attribute(
            {"left": "in the left room", "right": "in the right room", "door": "in the doorway"},
            "where is the disc: left, right or door?",
            "is the disc {}?",
        ),
        "height": Attribute(
            {"top": "near the top", "middle": "near the middle", "bottom": "near the bottom"},
            "how high is the disc: top, middle or bottom?",
            "is the disc {}?",
        ),
    }

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return color; room ("door" within a radius of the wall's plane); third of the height."""
        x, y = position
        room = "door" if abs(x) < self.task.number("disc.radius") else "left" if x < 0 else "right"
        height = "top" if y > 1 / 3 else "bottom" if y < -1 / 3 else "middle"
        return {"color": str(self.task.variation["disc.color"]), "room": room, "height": height}

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "a red disc in the left room, near the top"."""
        disc = f"{with_article(phrases['color'])} disc"
        return [
            f"{disc} {phrases['room']}, {phrases['height']}",
            f"{phrases['room']} is {disc}, {phrases['height']}",
            f"two rooms from above. the {phrases['color']} disc is {phrases['room']}, {phrases['height']}",
            f"{phrases['height']} of the picture and {phrases['room']}: {disc}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "bring the red disc to the left room, near the top"; the words of the place are the caption's."""
        return [
            f"the {phrases['color']} disc should be {phrases['room']}, {phrases['height']}",
            f"move the {phrases['color']} disc until it is {phrases['room']}, {phrases['height']}",
            f"goal: the disc {phrases['room']}, {phrases['height']}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe which way the disc moved, and whether it changed rooms."""
        right, up = after - before
        words = direction_words(right, up, threshold=0.03)
        if not words:
            return "the disc did not move"
        rooms = [self.attributes_of(position)["room"] for position in (before, after)]
        entered = {"left": " into the left room", "right": " into the right room", "door": " into the doorway"}
        return f"the disc moved {words}{entered[rooms[1]] if rooms[0] != rooms[1] else ''}"

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask where the door is, seen from the disc: each question and its opposite are equally likely."""
        above = position[1] > self.task.number("door.position")
        asked = rng.random() < 0.5
        word, answer = ("higher", above) if asked else ("lower", not above)
        rooms = [("how many rooms are there?", "two"), ("how many discs are there?", "one")]
        return [(f"is the disc {word} than the middle of the door?", "yes" if answer else "no"), rooms[int(rng.integers(2))]]
