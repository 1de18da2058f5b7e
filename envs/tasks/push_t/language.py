"""What can be said about a T-shaped block and the disc that pushes it."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.angles import wrap
from worldmodel.envs.colors import OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.language import Language
from worldmodel.envs.tasks.push_t.planning import CORNERS, gaps, to_block
from worldmodel.envs.words import Attribute, color_attribute, direction_words, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.push_t.task import PushT

THIRD = 0.2
"""Beyond this |x| or |y| the block is no longer in the middle: it rarely gets beyond 0.5."""
_NUMBERS = ("none", "one", "two", "three", "four", "five")
_PLACES = (
    "top left",
    "top middle",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)
_DIRECTIONS = ("right", "upper right", "up", "upper left", "left", "lower left", "down", "lower right")


class PushTLanguage(Language):
    """Speaks of place and angle of the block, and on which side of it the disc is."""

    task: "PushT"
    attributes = {
        "color": color_attribute("block", OBJECT_COLORS, "block.color"),
        "pusher_color": color_attribute("disc", WALL_COLORS, "pusher.color"),
        "place": Attribute(
            {place: f"in the {place}" for place in _PLACES},
            f"where is the block: {', '.join(_PLACES[:-1])} or {_PLACES[-1]}?",
            "is the block {}?",
        ),
        "stem": Attribute(
            {word: f"pointing {word}" if word in ("up", "down") else f"pointing to the {word}" for word in _DIRECTIONS},
            f"where does the stem of the block point: {', '.join(_DIRECTIONS[:-1])} or {_DIRECTIONS[-1]}?",
            "is the stem of the block {}?",
        ),
        "side": Attribute(
            {"left": "left of the block", "right": "right of the block", "above": "above the block", "below": "below the block"},
            "where is the disc, seen from the block: left, right, above or below?",
            "is the disc {}?",
        ),
    }

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return colors; where the block's center is; the nearest of 8 directions; the disc's side, by the larger offset."""
        x, y, angle, *disc = position
        row, column = (int(y < THIRD) + int(y < -THIRD), int(x > -THIRD) + int(x > THIRD))
        right, up = disc[0] - x, disc[1] - y
        side = ("right" if right > 0 else "left") if abs(right) > abs(up) else "above" if up > 0 else "below"
        return {
            "color": str(self.task.variation["block.color"]),
            "pusher_color": str(self.task.variation["pusher.color"]),
            "place": _PLACES[3 * row + column],
            "stem": _DIRECTIONS[round((angle - np.pi / 2) / (np.pi / 4)) % 8],
            "side": side,
        }

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "a red T-block in the top left, its stem pointing down, and a slate disc left of the block"."""
        block, disc = f"{with_article(phrases['color'])} T-block", f"{with_article(phrases['pusher_color'])} disc"
        return [
            f"{block} {phrases['place']}, its stem {phrases['stem']}, and {disc} {phrases['side']}",
            f"{disc} {phrases['side']}: {block} {phrases['place']} with its stem {phrases['stem']}",
            f"{phrases['place']} lies {block}, the stem {phrases['stem']}; {disc} is {phrases['side']}",
            f"from above: the T-block is {phrases['color']}, {phrases['place']}, {phrases['stem']}; the disc is {phrases['side']}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "push the red T-block until it is in the top left, its stem pointing down"; the disc does not count."""
        return [
            f"push the {phrases['color']} T-block until it is {phrases['place']}, its stem {phrases['stem']}",
            f"the {phrases['color']} T-block should be {phrases['place']} with its stem {phrases['stem']}",
            f"goal: the T-block {phrases['place']}, {phrases['stem']}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe which way the disc moved, which way the block moved and turned."""
        block_x, block_y, turn, disc_x, disc_y = after - before
        disc, block = direction_words(disc_x, disc_y, threshold=0.03), direction_words(block_x, block_y, threshold=0.02)
        turn = wrap(turn)
        changes = [f"moved {block}"] if block else []
        changes += [f"turned {'counterclockwise' if turn > 0 else 'clockwise'}"] if abs(turn) > 0.08 else []
        moved = f"the disc moved {disc}" if disc else "the disc did not move"
        return f"{moved} and the block {' and '.join(changes) or 'did not move'}"

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask about touch, height and the ends of the block, each question and its opposite equally likely; and a count of marks."""
        size = self.task.number("block.size")
        disc = to_block(position[:3], position[None, 3:])
        to_bar, to_end = gaps(disc, size)[0, 0], np.hypot(*(disc[0] - size * CORNERS[[2, 3]].mean(axis=0)))
        touching = self.task.gap(position) < self.task.number("pusher.radius") + 0.01
        facts = [
            ("does the disc touch the block?", "is there a gap between the disc and the block?", touching),
            (
                "is the disc higher than the middle of the block?",
                "is the disc lower than the middle of the block?",
                position[4] > position[1],
            ),
            (
                "is the end of the stem nearer to the disc than the bar?",
                "is the bar nearer to the disc than the end of the stem?",
                to_end < to_bar,
            ),
        ]
        asked, opposite, true = facts[int(rng.integers(len(facts)))]
        question, answer = (asked, true) if rng.random() < 0.5 else (opposite, not true)
        marks = len(self.task.marks)
        return [(question, "yes" if answer else "no"), ("how many marks are on the floor?", _NUMBERS[marks])]
