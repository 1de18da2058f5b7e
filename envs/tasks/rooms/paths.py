"""Ways through a floor plan, on a grid of cells."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from worldmodel.envs.tasks.rooms.plans import HALF, FloorPlan

CELL = 0.1
"""Side of a cell in meters."""
CELLS = round(2 * HALF / CELL)


@dataclass(frozen=True, eq=False)
class Ground:
    """Where the center of a body may be, on a grid of CELL."""

    free: np.ndarray
    """bool (CELLS * CELLS,), row by row from the south-west; only the largest connected part."""
    cells: np.ndarray
    """Indices of the free cells."""

    def cell_of(self, x: float, y: float) -> int:
        """Return the free cell nearest to a point."""
        column, row = (int(np.clip((value + HALF) / CELL, 0, CELLS - 1)) for value in (x, y))
        cell = row * CELLS + column
        if self.free[cell]:
            return cell
        rows, columns = np.divmod(self.cells, CELLS)
        return int(self.cells[((rows - row) ** 2 + (columns - column) ** 2).argmin()])

    def steps_from(self, cell: int) -> np.ndarray:
        """Return the cells (CELLS * CELLS,) to walk, east, west, north or south, from a cell; -1 where there is no path."""
        return _flood(self.free, cell)

    def sees(self, start: np.ndarray, end: np.ndarray) -> bool:
        """Test whether the straight path between two points (2,) is free."""
        count = int(np.hypot(*(end - start)) / (CELL / 2)) + 2
        points = start + np.linspace(0, 1, count)[:, None] * (end - start)
        index = np.clip(((points + HALF) / CELL).astype(int), 0, CELLS - 1)
        return bool(self.free[index[:, 1] * CELLS + index[:, 0]].all())

    def path(self, start: np.ndarray, goal: np.ndarray) -> list[np.ndarray]:
        """Find the corners (2,) of a short path from one point to another; the last one is the goal."""
        steps = self.steps_from(self.cell_of(*goal))
        cell = self.cell_of(*start)
        cells = [cell]
        while steps[cell] > 0:
            around = cell + _NEIGHBOURS
            cell = int(around[np.flatnonzero(steps[around] == steps[cell] - 1)[0]])
            cells.append(cell)
        points = [place_of(cell) for cell in cells] + [goal]
        corners, at, here = [] if self.sees(start, start) else [points[0]], 0, points[0]
        while at < len(points) - 1:
            at = next((i for i in range(len(points) - 1, at + 1, -2) if self.sees(here, points[i])), at + 1)
            here = points[at]
            corners.append(here)
        return corners


_NEIGHBOURS = np.array([1, -1, CELLS, -CELLS])


def place_of(cell: int) -> np.ndarray:
    """Return the center (2,) of a cell."""
    row, column = divmod(cell, CELLS)
    return np.array([column + 0.5, row + 0.5]) * CELL - HALF


@lru_cache(maxsize=64)
def ground_of(plan: FloorPlan, clearance: float) -> Ground:
    """Find the cells whose center keeps `clearance` from all walls and pieces, without pockets that no door reaches."""
    free = np.ones((CELLS, CELLS), bool)
    centers = (np.arange(CELLS) + 0.5) * CELL - HALF
    bounds = plan.solids + clearance * np.array([-1, 1, -1, 1])
    lows = np.searchsorted(centers, bounds[:, [0, 2]])
    highs = np.searchsorted(centers, bounds[:, [1, 3]])
    for (column0, row0), (column1, row1) in zip(lows, highs, strict=True):
        free[row0:row1, column0:column1] = False
    flat = free.ravel()
    best = np.zeros_like(flat)
    rest = flat.copy()
    while best.sum() < rest.sum():
        part = _flood(rest, int(rest.argmax())) >= 0
        best = part if part.sum() > best.sum() else best
        rest &= ~part
    return Ground(best, np.flatnonzero(best))


def _flood(free: np.ndarray, cell: int) -> np.ndarray:
    """Count breadth-first steps from a cell over the free ones, -1 elsewhere. The border of the grid is never free."""
    steps = np.where(free, -1, -2)
    front, level = np.array([cell]), 0
    while front.size:
        steps[front] = level
        around = (front[:, None] + _NEIGHBOURS).ravel()
        around = around[steps[around] == -1]
        level += 1
        steps[around] = level
        order = np.arange(around.size)
        owner = np.empty_like(steps)
        owner[around] = order
        front = around[owner[around] == order]
    return np.where(steps < 0, -1, steps)
