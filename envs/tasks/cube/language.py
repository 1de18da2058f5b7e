"""What can be said about cubes on a table and the gripper above them."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.language import Language
from worldmodel.envs.tasks.cube.gripper import SAMPLED
from worldmodel.envs.words import Attribute

if TYPE_CHECKING:
    from worldmodel.envs.tasks.cube.task import Cube

CUBE_COLORS = ("red", "green", "blue", "yellow")
COUNTS = ("one", "two", "three")
OVERLAP = 0.7
"""Cubes whose middles are nearer to each other than this share of an edge, seen from above, are one over the other."""
MOVED, CLOSED = 0.01, 0.006
"""Least displacement, and least closing of the fingers, that is worth a word, in meters."""


@dataclass(frozen=True)
class Scene:
    """A configuration, as far as it is spoken of."""

    hand: np.ndarray
    """x, y, z of the finger tips (3,)."""
    closing: float
    """How far the fingers are closed, in meters."""
    cubes: np.ndarray
    """Centers (k, 3) of the cubes in use."""
    colors: list[str]
    """Colors of the cubes in use."""
    edge: float
    """Edge of a cube, in meters."""
    held: int | None
    """The cube in the gripper."""
    below: Mapping[int, int]
    """Cube -> the cube that it lies on."""


class CubeLanguage(Language):
    """Speaks of the cubes, which of them is stacked, leftmost or held, and where the gripper is."""

    task: "Cube"
    attributes = {
        "count": Attribute(
            {count: f"{count} cube{'s' * (count != 'one')}" for count in COUNTS},
            "how many cubes are there?",
            "does the picture show {}?",
            "cube.count",
        ),
        "stacked": Attribute(
            {"none": "no cube is stacked"} | {c: f"the {c} cube is stacked on another" for c in CUBE_COLORS},
            "which cube is stacked on another: none or a color?",
            "is it true that {}?",
        ),
        "leftmost": Attribute(
            {c: f"the leftmost cube is {c}" for c in CUBE_COLORS}, "what color is the leftmost cube?", "is it true that {}?"
        ),
        "held": Attribute(
            {"nothing": "the gripper is empty"} | {c: f"the gripper holds the {c} cube" for c in CUBE_COLORS},
            "what does the gripper hold: nothing or a color?",
            "is it true that {}?",
        ),
        "hand": Attribute(
            {side: f"above the {side} of the table" for side in ("left", "middle", "right")},
            "where is the gripper: left, middle or right?",
            "is the gripper {}?",
        ),
    }

    def facts(self, state: np.ndarray) -> Scene:
        """Return the scene in a state (n,)."""
        return self.task.scene_of(self.task.position_of(state))

    def attributes_of(self, scene: Scene) -> dict[str, str]:
        """Return number of cubes, the topmost stacked cube, the leftmost cube, what is held, and the third where the hand is."""
        x, third = scene.hand[0], SAMPLED[0] / 3
        return {
            "count": COUNTS[len(scene.cubes) - 1],
            "stacked": scene.colors[max(scene.below, key=lambda i: scene.cubes[i, 2])] if scene.below else "none",
            "leftmost": scene.colors[int(np.argmin(scene.cubes[:, 0]))],
            "held": "nothing" if scene.held is None else scene.colors[scene.held],
            "hand": "left" if x < -third else "right" if x > third else "middle",
        }

    def captions_of(self, phrases: dict[str, str], scene: Scene) -> list[str]:
        """Write e.g. "three cubes, no cube is stacked, the leftmost cube is red, the gripper is empty above the left of the table"."""
        count, stacked, leftmost, held, hand = (phrases[name] for name in self.attributes)
        return [
            f"{count}, {stacked}, {leftmost}, {held} {hand}",
            f"{held} {hand}. {leftmost}; {stacked}",
            f"a table with {count}: {_arrangement(scene)}. {held}",
            f"{_places(scene)}; {held} {hand}",
        ]

    def goals_of(self, phrases: dict[str, str], scene: Scene) -> list[str]:
        """Write e.g. "put the red cube at the back left, the blue cube on top of the green cube, ..."."""
        aim = phrases["stacked"] if scene.below else phrases["leftmost"]
        return [
            f"put {_places(scene, verb='')}",
            f"{'place the cube' if len(scene.cubes) == 1 else 'arrange the cubes'} so that {_arrangement(scene)}",
            f"goal: {aim}; {_places(scene)}",
        ]

    def change_of(self, before: Scene, after: Scene) -> str:
        """Describe where the gripper and each cube went, and whether the fingers opened or closed."""
        parts = []
        direction = _direction_words(after.hand - before.hand)
        if direction:
            parts.append(f"the gripper moved {direction}")
        closed = after.closing - before.closing
        if abs(closed) > CLOSED:
            parts.append("the gripper closed" if closed > 0 else "the gripper opened")
        for color, gap in zip(after.colors, after.cubes - before.cubes, strict=True):
            lift = "was lifted" if gap[2] > MOVED else "came down" if gap[2] < -MOVED else ""
            slide = _direction_words(gap * [1.0, 1.0, 0.0])
            words = " and ".join(word for word in (lift, f"moved {slide}" if slide else "") if word)
            if words:
                parts.append(f"the {color} cube {words}")
        return ", ".join(parts) or "nothing moved"

    def relation_questions(self, rng: np.random.Generator, scene: Scene) -> list[tuple[str, str]]:
        """Ask which of two things is farther to a side, in random order: the names are as likely the one way as the other."""
        things = [(f"the {color} cube", place) for color, place in zip(scene.colors, scene.cubes, strict=True)]
        things.append(("the gripper", scene.hand))
        pairs = []
        for axis, words in ((0, ("left of", "right of")), (1, ("in front of", "behind"))):
            apart = [(a, b) for a, b in itertools.permutations(things, 2) if abs(a[1][axis] - b[1][axis]) > 0.02]
            if not apart:
                continue
            (first, place), (second, other) = apart[int(rng.integers(len(apart)))]
            side = int(rng.integers(2))
            true = (place[axis] < other[axis]) == (side == 0)
            pairs.append((f"is {first} {words[side]} {second}?", "yes" if true else "no"))
        return pairs


def _arrangement(scene: Scene) -> str:
    """Say where each cube is, seen from the next one; where it is on the table when it is the only one."""
    if len(scene.cubes) == 1:
        return _places(scene)
    parts = []
    for i, j in itertools.pairwise(range(len(scene.cubes))):
        x, y, z = (scene.cubes[i] - scene.cubes[j]).tolist()
        if scene.below.get(i) == j or scene.below.get(j) == i:
            words = "on top of" if scene.below.get(i) == j else "under"
        elif math.hypot(x, y) < OVERLAP * scene.edge:  # one of them is held, or falls
            words = "above" if z > 0 else "below"
        elif abs(x) >= abs(y):
            words = "left of" if x < 0 else "right of"
        else:
            words = "in front of" if y < 0 else "behind"
        parts.append(f"the {scene.colors[i]} cube is {words} the {scene.colors[j]} cube")
    return ", ".join(parts)


def _places(scene: Scene, verb: str = " is") -> str:
    """Say where each cube is: in the gripper, on another cube, or in which ninth of the table."""
    parts = []
    for i, (color, place) in enumerate(zip(scene.colors, scene.cubes, strict=True)):
        if i in scene.below:
            where = f"on top of the {scene.colors[scene.below[i]]} cube"
        else:
            where = "in the gripper" if i == scene.held else _place_words(place)
        parts.append(f"the {color} cube{verb} {where}")
    return ", ".join(parts)


def _place_words(place: np.ndarray) -> str:
    """Name a ninth of the table: "at the back left", "in the center"."""
    x, y = place[:2] / SAMPLED
    side = "left" if x < -1 / 3 else "right" if x > 1 / 3 else ""
    depth = "front" if y < -1 / 3 else "back" if y > 1 / 3 else ""
    return f"at the {' '.join(word for word in (depth, side) if word)}" if side or depth else "in the center"


def _direction_words(direction: np.ndarray) -> str:
    """Write a displacement (3,) as words: "left", "right and up"; "" when no part of it is worth a word."""
    words = (("left", "right"), ("closer", "away"), ("down", "up"))
    return " and ".join(pair[int(value > 0)] for pair, value in zip(words, direction, strict=True) if abs(value) > MOVED)
