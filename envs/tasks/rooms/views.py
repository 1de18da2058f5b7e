"""What a walker in a floor plan sees: computed from the plan, not from a picture."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from worldmodel.envs.tasks.rooms.plans import FloorPlan

RAYS = 33
"""Columns of the picture in which is looked what is seen."""


@dataclass(frozen=True)
class Eye:
    """A pinhole camera with a square picture."""

    height: float
    pitch: float
    """rad, positive upward."""
    view: float
    """Angle of view in rad."""


@dataclass(frozen=True)
class Seen:
    """A piece or a door in view."""

    index: int
    bearing: float
    """rad, positive to the left, of the middle of what is seen."""
    distance: float
    """To its nearest part in view, along the floor."""


@dataclass(frozen=True)
class View:
    """What a camera sees."""

    ahead: tuple[str, int]
    """What the middle of the picture meets first, along the floor: ("piece" | "door" | "wall", index)."""
    pieces: tuple[Seen, ...]
    """From left to right. Certainly in view: each takes at least two of RAYS columns."""
    doors: tuple[Seen, ...]
    complete: bool
    """Whether `pieces` is all there is: no piece is in view so little, or through such a gap, that it is in doubt."""


@lru_cache(maxsize=256)
def look(plan: FloorPlan, x: float, y: float, yaw: float, eye: Eye) -> View:
    """Compute what is in view from a place.

    Casts RAYS rays along the floor, evenly spaced in the picture. A piece is seen in a column when part of its height shows
    above all pieces before it (taken as solid) and lies between the upper and the lower edge of the picture.
    """
    bearings, inside, bounds = _columns(eye)
    walls, pieces, middle = len(plan.walls), len(plan.pieces), RAYS // 2
    enter, leave = _cast(plan.targets, x, y, yaw + bearings)
    first = int(enter[:, middle].argmin())
    ahead = (
        ("wall", first) if first < walls else ("piece", first - walls) if first < walls + pieces else ("door", first - walls - pieces)
    )

    wall_at = enter[:walls].min(axis=0)
    candidate = enter[walls : walls + pieces] < wall_at
    index = candidate.any(axis=1).nonzero()[0]
    candidate, near, far = candidate[index], enter[walls + index], leave[walls + index]
    rises = (plan.heights[index] - eye.height)[:, None]
    top = np.where(candidate, rises / np.where(rises > 0, near, far), -np.inf)  # tangent of the elevation
    feet = -eye.height / near
    # What stands before others hides them up to its own top.
    hiding = np.where(near[:, None] < near, top[:, None], -np.inf).max(axis=0, initial=-np.inf)
    sure = inside & (np.minimum(top, bounds[1]) - np.maximum(np.maximum(feet, bounds[0]), hiding) > 0.04)
    maybe = np.minimum(top, bounds[3]) > np.maximum(feet, bounds[2])
    certain = sure.sum(axis=1) >= 2
    seen = [_seen(index[i], bearings[sure[i]], near[i][sure[i]]) for i in certain.nonzero()[0]]
    door_at = enter[walls + pieces :]
    opened = inside & (door_at < np.minimum(wall_at, near.min(axis=0, initial=np.inf)))
    doors = [_seen(i, bearings[opened[i]], door_at[i][opened[i]]) for i in (opened.sum(axis=1) >= 2).nonzero()[0]]
    return View(ahead, _sorted(seen), _sorted(doors), complete=bool((maybe.any(axis=1) == certain).all()))


@lru_cache(maxsize=64)
def _columns(eye: Eye) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rays and the edges of the picture.

    Returns:
        Bearing of every ray (RAYS,), from a little beyond the left edge to a little beyond the right one.
        Which of them are well inside the picture (RAYS,).
        Edges (4, RAYS) as tangents of the elevation: lower and upper, a little inside, then a little outside.
    """
    columns = np.linspace(1.05, -1.05, RAYS)
    bearings = np.arctan(columns * np.tan(eye.view / 2))
    edges = [np.tan(eye.pitch + share * eye.view / 2) * np.cos(bearings) for share in (-0.94, 0.94, -1.06, 1.06)]
    return bearings, abs(columns) < 0.95, np.array(edges)


def _seen(index: int, bearings: np.ndarray, distances: np.ndarray) -> Seen:
    return Seen(int(index), float(bearings.mean()), float(distances.min()))


def _sorted(seen: list[Seen]) -> tuple[Seen, ...]:
    return tuple(sorted(seen, key=lambda each: -each.bearing))


def _cast(rects: np.ndarray, x: float, y: float, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute where rays enter and leave rectangles, (n, rays) each; infinite where they miss or start inside."""
    inverse_x, inverse_y = 1.0 / (np.cos(angles) + 1e-12), 1.0 / (np.sin(angles) + 1e-12)
    ax, bx = (rects[:, 0:1] - x) * inverse_x, (rects[:, 1:2] - x) * inverse_x
    ay, by = (rects[:, 2:3] - y) * inverse_y, (rects[:, 3:4] - y) * inverse_y
    enter = np.maximum(np.minimum(ax, bx), np.minimum(ay, by))
    leave = np.minimum(np.maximum(ax, bx), np.maximum(ay, by))
    hit = (enter <= leave) & (enter >= 0)
    return np.where(hit, enter, np.inf), np.where(hit, leave, np.inf)
