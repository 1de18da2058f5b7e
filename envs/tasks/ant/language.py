"""What can be said about a four-legged ant."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.angles import wrap
from worldmodel.envs.colors import OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.language import Language
from worldmodel.envs.tasks.ant.gait import LEGS
from worldmodel.envs.tasks.ant.scene import LEG_RADIUS, heading_of, joints_of, legs_of, rotation_of
from worldmodel.envs.words import Attribute, direction_words, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.ant.task import Ant

THIRD = 0.8
"""|x| and |y| up to which the ant is in the middle."""
FOOT_CLEARANCE = 0.03
"""Height of a foot above the floor from which it does not touch, in meters."""
COUNTS = ("no foot", "one foot", "two feet", "three feet", "four feet")


class AntLanguage(Language):
    """Speaks of the ant's colors, where it is, which way it faces and what its legs do."""

    task: "Ant"
    attributes = {
        "color": Attribute({c: f"{c} ant" for c in OBJECT_COLORS}, "what color is the ant's body?", "is this the {}?", "torso.color"),
        "legs": Attribute({c: f"{c} legs" for c in WALL_COLORS}, "what color are the legs?", "does the ant have {}?", "leg.color"),
        "side": Attribute(
            {"left": "on the left", "center": "in the center", "right": "on the right"},
            "on which side is the ant: left, center or right?",
            "is the ant {}?",
        ),
        "depth": Attribute(
            {"near": "near the camera", "middle": "halfway back", "far": "far from the camera"},
            "how far is the ant from the camera: near, middle or far?",
            "is the ant {}?",
        ),
        "facing": Attribute(
            {"left": "facing left", "right": "facing right", "away": "facing away", "camera": "facing the camera"},
            "which way does the ant face: left, right, away or camera?",
            "is the ant {}?",
        ),
    }

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return colors; thirds of the arena; the nearest of four headings."""
        x, y = position[:2]
        ahead, left = rotation_of(position)[:2, 0]
        if abs(ahead) > abs(left):
            facing = "right" if ahead > 0 else "left"
        else:
            facing = "away" if left > 0 else "camera"
        return {
            "color": str(self.task.variation["torso.color"]),
            "legs": str(self.task.variation["leg.color"]),
            "side": "left" if x < -THIRD else "right" if x > THIRD else "center",
            "depth": "near" if y < -THIRD else "far" if y > THIRD else "middle",
            "facing": facing,
        }

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "a red ant with slate legs on the left, far from the camera, facing right"."""
        ant = f"{with_article(phrases['color'])} with {phrases['legs']}"
        return [
            f"{ant} {phrases['side']}, {phrases['depth']}, {phrases['facing']}",
            f"{phrases['side']} and {phrases['depth']} is {ant}, {phrases['facing']}",
            f"a walled arena. the {phrases['color']} is {phrases['side']} and {phrases['depth']}, {phrases['facing']}",
            f"{phrases['facing']}, {ant} has {COUNTS[self._feet_down(position)]} on the floor, {phrases['side']}, {phrases['depth']}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "walk until the red ant is on the left, far from the camera"; how it stands there does not matter."""
        return [
            f"walk until the {phrases['color']} is {phrases['side']}, {phrases['depth']}",
            f"the ant should be {phrases['side']} and {phrases['depth']}",
            f"goal: the {phrases['color']} {phrases['side']}, {phrases['depth']}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe which way the ant walked and turned; while it stays, what its leg did that moved most."""
        right, away = (after - before)[:2]
        words = direction_words(right, away, threshold=0.1).replace("up", "away from the camera").replace("down", "towards the camera")
        turn = wrap(heading_of(after) - heading_of(before))
        turned = "" if abs(turn) < 0.15 else f" and turned {'left' if turn > 0 else 'right'}"
        if words:
            return f"the ant moved {words}{turned}"
        change = joints_of(after) - joints_of(before)
        most = int(np.abs(change).argmax())
        if abs(change[most]) < 0.25:
            return f"the ant stayed where it was{turned}"
        axis = self.task.action_axes[most]
        verb, direction = axis.positive if change[most] > 0 else axis.negative
        past = verb.replace("swing", "swung").replace("move", "moved").replace(" the ", " its ")
        return f"the ant stayed where it was{turned} and {past} {direction}"

    def _feet_down(self, position: np.ndarray) -> int:
        return int((legs_of(position)[1][:, 2] < LEG_RADIUS + FOOT_CLEARANCE).sum())

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask how many feet touch the floor, and which of two feet is nearer or further to the right."""
        feet, down = legs_of(position)[1], self._feet_down(position)
        one, other = rng.permutation(4)[:2]
        word, answer = [
            ("nearer to the camera than", feet[one, 1] < feet[other, 1]),
            ("farther from the camera than", feet[one, 1] >= feet[other, 1]),
            ("to the left of", feet[one, 0] < feet[other, 0]),
            ("to the right of", feet[one, 0] >= feet[other, 0]),
        ][int(rng.integers(4))]
        return [
            (f"is the {LEGS[one]} foot {word} the {LEGS[other]} foot?", "yes" if answer else "no"),
            ("how many feet touch the floor?", "none" if down == 0 else COUNTS[down].split()[0]),
        ]
