"""Mazes on a square grid of cells, as pure functions of a number: layout, ways out, shortest paths, walls.

A cell is (column, row), counted from the lower left; a maze of n x n cells fills the square [-1, 1] x [-1, 1].
Every cell can be reached from every other.
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Cell = tuple[int, int]

CELLS = 5
"""Cells along a side in the task."""
DIRECTIONS: dict[str, Cell] = {"left": (-1, 0), "right": (1, 0), "down": (0, -1), "up": (0, 1)}
WINDING = 0.7
"""Chance that the tree grows on from its newest cell: 1 winds long corridors, 0 makes many short dead ends."""


@dataclass(frozen=True)
class Maze:
    """Which neighboring cells are joined."""

    right: np.ndarray
    """bool (n - 1, n): [i, j] is True where cell (i, j) is open to (i + 1, j)."""
    up: np.ndarray
    """bool (n, n - 1): [i, j] is True where cell (i, j) is open to (i, j + 1)."""

    @property
    def size(self) -> int:
        """Number of cells n along a side."""
        return len(self.up)

    def open_directions(self, cell: Cell) -> list[str]:
        """List the open directions of a cell, in the order of `DIRECTIONS`."""
        i, j = cell
        is_open = {
            "left": i > 0 and self.right[i - 1, j],
            "right": i < self.size - 1 and self.right[i, j],
            "down": j > 0 and self.up[i, j - 1],
            "up": j < self.size - 1 and self.up[i, j],
        }
        return [direction for direction in DIRECTIONS if is_open[direction]]


@lru_cache(maxsize=256)
def make_maze(number: int, openness: float, size: int) -> Maze:
    """Make the maze with a number: a random spanning tree, of whose walls a share is taken away again.

    Args:
        number: Any whole number from 0; decides the tree and the order in which walls go.
        openness: Share of the tree's inner walls to remove, in [0, 1]; 0 leaves one path between any two cells.
        size: Cells along a side, at least 2.
    """
    rng = np.random.default_rng([number, size])
    right, up = np.zeros((size - 1, size), bool), np.zeros((size, size - 1), bool)
    first = (int(rng.integers(size)), int(rng.integers(size)))
    seen, growing = {first}, [first]
    while growing:
        at = len(growing) - 1 if rng.random() < WINDING else int(rng.integers(len(growing)))
        i, j = growing[at]
        new = [(i + di, j + dj) for di, dj in DIRECTIONS.values() if 0 <= i + di < size and 0 <= j + dj < size]
        new = [cell for cell in new if cell not in seen]
        if not new:
            growing.pop(at)
            continue
        cell = new[int(rng.integers(len(new)))]
        (right if cell[1] == j else up)[min(i, cell[0]), min(j, cell[1])] = True
        seen.add(cell)
        growing.append(cell)
    closed = [(grid, *index) for grid in (right, up) for index in np.argwhere(~grid)]
    for k in rng.permutation(len(closed))[: round(openness * len(closed))]:
        grid, i, j = closed[k]
        grid[i, j] = True
    right.setflags(write=False)
    up.setflags(write=False)
    return Maze(right, up)


def path_lengths(maze: Maze, goal: Cell) -> np.ndarray:
    """Count the steps from cell to cell on the shortest path to `goal`, int (n, n), indexed [column, row]."""
    lengths = np.full((maze.size, maze.size), -1)
    lengths[goal] = 0
    queue = deque([goal])
    while queue:
        i, j = queue.popleft()
        for direction in maze.open_directions((i, j)):
            di, dj = DIRECTIONS[direction]
            if lengths[i + di, j + dj] < 0:
                lengths[i + di, j + dj] = lengths[i, j] + 1
                queue.append((i + di, j + dj))
    return lengths


def next_step(maze: Maze, lengths: np.ndarray, cell: Cell) -> Cell:
    """Return the step from a cell to the next one on the shortest path, given the `path_lengths` (n, n) to its end."""
    steps = [DIRECTIONS[direction] for direction in maze.open_directions(cell)]
    return min(steps, key=lambda step: lengths[cell[0] + step[0], cell[1] + step[1]])


def cell_of(point: np.ndarray, size: int) -> Cell:
    """Return the cell that holds a point (2,); points outside belong to the nearest cell."""
    i, j = np.clip(np.floor((point + 1.0) * (size / 2)), 0, size - 1)
    return int(i), int(j)


def centre_of(cell: Cell, size: int) -> np.ndarray:
    """Return the middle (2,) of a cell."""
    return (np.array(cell) + 0.5) * (2 / size) - 1.0


def max_walls(size: int) -> int:
    """Return the largest number of boxes that `wall_boxes` returns."""
    return 2 * (size - 1) * ((size + 1) // 2)


def wall_boxes(maze: Maze, half: float) -> np.ndarray:
    """Return the inner walls as boxes (k, 4): x and y of the center, half the width, half the height.

    Walls in one line that touch are one box, so that nothing catches on a seam.

    Args:
        maze: Any maze.
        half: Half the thickness of a wall, by which its ends reach beyond the corners of the cells.
    """
    width = 2 / maze.size
    boxes = []
    for is_upright, grid in ((True, maze.right), (False, maze.up.T)):
        for line, is_open in enumerate(grid):
            edges = np.flatnonzero(np.diff(np.concatenate([[True], is_open, [True]]).astype(int)))
            for first, end in edges.reshape(-1, 2):
                across, along = (line + 1) * width - 1.0, (first + end) / 2 * width - 1.0
                length = (end - first) / 2 * width + half
                boxes.append((across, along, half, length) if is_upright else (along, across, length, half))
    return np.array(boxes, float).reshape(-1, 4)
