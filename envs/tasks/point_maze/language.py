"""What can be said about a ball in a maze."""

from typing import TYPE_CHECKING

import numpy as np

from worldmodel.envs.colors import OBJECT_COLORS
from worldmodel.envs.language import Language
from worldmodel.envs.tasks.point_maze.mazes import CELLS, DIRECTIONS, cell_of, path_lengths
from worldmodel.envs.words import Attribute, color_attribute, direction_words, with_article

if TYPE_CHECKING:
    from worldmodel.envs.tasks.point_maze.task import PointMaze

ROWS = ("bottom", "lower", "middle", "upper", "top")
COLUMNS = ("first", "second", "third", "fourth", "fifth")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


class PointMazeLanguage(Language):
    """Speaks of the ball's color, of the cell that holds it and of the ways out."""

    task: "PointMaze"
    attributes = {
        "color": color_attribute("ball", OBJECT_COLORS, "ball.color"),
        "row": Attribute(
            {row: f"in the {row} row" for row in reversed(ROWS)},
            "in which row is the ball: top, upper, middle, lower or bottom?",
            "is the ball {}?",
        ),
        "column": Attribute(
            {column: f"in the {column} column" for column in COLUMNS},
            "in which column is the ball, counted from the left?",
            "is the ball {} from the left?",
        ),
        "place": Attribute(
            {
                "dead end": "in a dead end",
                "corridor": "in a corridor",
                "bend": "in a bend",
                "junction": "at a junction",
                "crossing": "at a crossing",
            },
            "where is the ball: in a dead end, a corridor, a bend, at a junction or a crossing?",
            "is the ball {}?",
        ),
    }

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return color; row and column of the cell that holds the ball's center; how that cell is open."""
        column, row = cell = cell_of(position, CELLS)
        directions = self.task.maze.open_directions(cell)
        straight = directions in (["left", "right"], ["down", "up"])
        place = {1: "dead end", 2: "corridor" if straight else "bend", 3: "junction", 4: "crossing"}[len(directions)]
        return {"color": str(self.task.variation["ball.color"]), "row": ROWS[row], "column": COLUMNS[column], "place": place}

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "a red ball in a dead end, in the top row and in the second column"."""
        ball, place = f"{with_article(phrases['color'])} ball", phrases["place"]
        directions = self.task.maze.open_directions(cell_of(position, CELLS))
        return [
            f"{ball} {place}, {phrases['row']} and {phrases['column']}",
            f"a maze from above. the {phrases['color']} ball is {phrases['row']}, {phrases['column']}, {place}",
            f"{phrases['column']} and {phrases['row']} there is {ball}. it is {place}",
            f"{ball} {phrases['row']} that can leave its cell by {_directions_text(directions)}: it is {place}",
        ]

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write e.g. "bring the red ball to the cell in the top row and in the second column"."""
        return [
            f"bring the {phrases['color']} ball to the cell {phrases['row']} and {phrases['column']}",
            f"find a way through the maze until the ball is {phrases['row']}, {phrases['column']}, {phrases['place']}",
            f"goal: the {phrases['color']} ball {phrases['place']}, {phrases['column']} and {phrases['row']}",
        ]

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe which way the ball moved, and what kind of cell it entered."""
        right, up = after - before
        words = direction_words(right, up, threshold=0.03)
        if not words:
            return "the ball did not move"
        if cell_of(before, CELLS) == cell_of(after, CELLS):
            return f"the ball moved {words}"
        return f"the ball moved {words} into another cell, {with_article(self.attributes_of(after)['place'])}"

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask about ways out, path length and counts.

        Whether the asked way is open is decided by a coin, and so is whether "open" or "blocked" is asked. At a
        crossing, where nothing is blocked, this is not asked.
        """
        cell = cell_of(position, CELLS)
        directions = self.task.maze.open_directions(cell)
        to_middle = int(path_lengths(self.task.maze, (CELLS // 2, CELLS // 2))[cell])
        counts = [
            ("how many ways lead out of the ball's cell?", NUMBERS[len(directions)]),
            ("how many moves from cell to cell is the middle of the maze away?", str(to_middle)),
            ("how many marks are on the floor?", NUMBERS[int(self.task.number("marks.count"))]),
        ]
        pairs = [counts[int(rng.integers(len(counts)))]]
        blocked = [direction for direction in DIRECTIONS if direction not in directions]
        if blocked:
            is_open, says_open = rng.random(2) < 0.5
            asked = directions if is_open else blocked
            question = f"is the way {asked[int(rng.integers(len(asked)))]} {'open' if says_open else 'blocked'}?"
            pairs.append((question, "yes" if is_open == says_open else "no"))
        return pairs


def _directions_text(directions: list[str]) -> str:
    """Write e.g. "the ways left, down and up"."""
    if len(directions) == 1:
        return f"the way {directions[0]} alone"
    return f"the ways {', '.join(directions[:-1])} and {directions[-1]}"
