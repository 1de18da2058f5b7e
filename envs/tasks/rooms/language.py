"""What can be said about what a walker sees in a furnished flat."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.language import Language
from worldmodel.envs.tasks.rooms.plans import KINDS
from worldmodel.envs.tasks.rooms.scene import RADIUS, ROOM_COLORS
from worldmodel.envs.tasks.rooms.views import Seen, View, look
from worldmodel.envs.words import Attribute, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.rooms.task import Rooms

COMPASS = ("east", "north", "west", "south")
TOUCH = 0.02
SIDE = 0.06
"""Bearing in rad from which something is said to be on the left or on the right."""


class RoomsLanguage(Language):
    """Speaks of the room, the heading and what is in view."""

    task: "Rooms"
    attributes = {
        "room": Attribute({c: f"in the {c} room" for c in ROOM_COLORS}, "what color are the walls of this room?", "are you {}?"),
        "facing": Attribute({d: f"facing {d}" for d in COMPASS}, "which way do you face: north, east, south or west?", "are you {}?"),
        "ahead": Attribute(
            {kind: f"{kind} straight ahead" for kind in (*KINDS, "doorway", "wall")},
            "what is straight ahead?",
            "is there a {}?",
        ),
    }

    def view_of(self, position: np.ndarray) -> View:
        """Compute what the eye sees from a configuration (3,)."""
        return look(self.task.plan, *(float(value) for value in position), self.task.eye)

    def _room(self, position: np.ndarray) -> str:
        return list(ROOM_COLORS)[self.task.plan.colors[self.task.plan.room_of(position[0], position[1])]]

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return color of the room; the nearest point of the compass; what the middle of the picture meets first."""
        kind, index = self.view_of(position).ahead
        ahead = {"piece": "", "door": "doorway", "wall": "wall"}[kind] or self.task.plan.pieces[index].kind
        return {"room": self._room(position), "facing": COMPASS[round(position[2] / (np.pi / 2)) % 4], "ahead": ahead}

    def _ahead(self, phrase: str, view: View) -> str:
        """Phrase what is ahead, with an article and the color of a piece."""
        return (
            with_article(phrase)
            if view.ahead[0] != "piece"
            else with_article(f"{self.task.name_of(view.ahead[1]).split()[0]} {phrase}")
        )

    def _sides(self, view: View) -> list[str]:
        """Phrase what is in view to the sides, from left to right: at most two pieces and a doorway on either side."""
        said = [(each, self.task.name_of(each.index)) for each in view.pieces if ("piece", each.index) != view.ahead]
        said = sorted(said, key=lambda pair: pair[0].distance)[:2]
        said += [(each, "doorway") for each in view.doors if ("door", each.index) != view.ahead][:1]
        said = sorted((pair for pair in said if abs(pair[0].bearing) >= SIDE), key=lambda pair: -pair[0].bearing)
        return [f"{with_article(name)} on the {_side(each)}" for each, name in said]

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "in the green room, facing north; a red sofa straight ahead, a blue shelf on the right"."""
        view = self.view_of(position)
        ahead, sides = self._ahead(phrases["ahead"], view), self._sides(view)
        listed = ", ".join([ahead, *sides])
        rest = f", with {' and '.join(sides)}" if sides else ""
        return [
            f"{phrases['room']}, {phrases['facing']}; {listed}",
            f"you stand {phrases['room']}, {phrases['facing']}. there is {ahead}{rest}",
            f"{phrases['facing']} {phrases['room']}: {listed}",
            f"{listed}, seen from a place {phrases['room']}, {phrases['facing']}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "stop in the green room, facing north, with a red sofa straight ahead"."""
        view = self.view_of(position)
        ahead = self._ahead(phrases["ahead"], view)
        return [
            f"stop {phrases['room']}, {phrases['facing']}, with {ahead}",
            f"walk until you are {phrases['room']}, {phrases['facing']}, and see {ahead}",
            f"goal: {phrases['room']}, {phrases['facing']}; {', '.join([ahead, *self._sides(view)])}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe how the body moved in its own frame, and into which room; what it touches when it stayed."""
        cos, sin, (dx, dy, _) = np.cos(before[2]), np.sin(before[2]), after - before
        forward, left, turn = cos * dx + sin * dy, cos * dy - sin * dx, after[2] - before[2]
        words = [
            word for word, part in (("forward", forward), ("backward", -forward), ("left", left), ("right", -left)) if part > 0.03
        ]
        parts = ["moved " + " and ".join(words)] if words else []
        parts += [f"turned {'left' if turn > 0 else 'right'}"] if abs(turn) > 0.03 else []
        rooms = [self._room(position) for position in (before, after)]
        entered = f" into the {rooms[1]} room" if rooms[0] != rooms[1] and words else ""
        if words:
            return "you " + " and ".join([parts[0] + entered, *parts[1:]])
        gaps = self.task.plan.clearances(after[0], after[1]) - RADIUS
        nearest = int(gaps.argmin())
        return (
            "you "
            + " and ".join(parts or ["did not move"])
            + (f", touching {self.task.solid_name(nearest)}" if gaps[nearest] < TOUCH else "")
        )

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask for counts, sides and distances of what is certainly in view; each question and its opposite are equally likely."""
        view, pairs = self.view_of(position), [("how many rooms does the flat have?", str(len(self.task.plan.rooms)))]
        if view.complete:
            pairs.append(("how many pieces of furniture are in view?", str(len(view.pieces))))
        if len(view.pieces) >= 2:
            order = rng.permutation(len(view.pieces))
            one, other = (view.pieces[int(i)] for i in order[:2])
            names = self.task.name_of(one.index), self.task.name_of(other.index)
            if abs(one.bearing - other.bearing) > SIDE:
                word, answer = ("left", one.bearing > other.bearing) if rng.random() < 0.5 else ("right", one.bearing < other.bearing)
                pairs.append((f"is the {names[0]} to the {word} of the {names[1]}?", "yes" if answer else "no"))
            if abs(one.distance - other.distance) > 0.1:
                pairs.append(
                    (f"which is nearer, the {names[0]} or the {names[1]}?", f"the {names[int(other.distance < one.distance)]}")
                )
        missing = [i for i in range(len(self.task.plan.pieces)) if i not in {each.index for each in view.pieces}]
        if view.complete and view.pieces and missing:
            seen = rng.random() < 0.5
            index = view.pieces[int(rng.integers(len(view.pieces)))].index if seen else missing[int(rng.integers(len(missing)))]
            pairs.append((f"is the {self.task.name_of(index)} in view?", "yes" if seen else "no"))
        return pairs


def _side(seen: Seen) -> str:
    return "left" if seen.bearing > 0 else "right"
