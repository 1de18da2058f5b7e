"""Floor plans of the Rooms task: rooms, doors and furniture as a pure function of a number.

All lengths are meters. A rectangle is (x0, x1, y0, y1); north is +y. Heights are measured from the floor.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

HALF = 4.0
"""Half the side of the square floor."""
WALL = 0.06
"""Thickness of a room's own walls; between two rooms it counts twice."""
MIN_SIDE = 2.4
MAX_DOOR = 1.3
MAX_ROOMS, MAX_DOORS, MAX_PIECES = 6, 7, 14
GAP = 0.8
"""Least way between two pieces, or between a piece and a wall that it does not touch: everywhere else stays reachable."""
DOOR_GAP = 0.6
"""Least distance of a piece from an opening."""

Box = tuple[float, float, float, float, float, float, float]
KINDS: dict[str, tuple[float, float, float, tuple[Box, ...]]] = {
    "sofa": (
        1.4,
        0.7,
        0.72,
        (
            (-0.8, 0.8, -0.5, 0.9, 0.0, 0.55, 1.0),
            (-1, 1, -1, -0.5, 0.0, 1.0, 0.85),
            (-1, -0.8, -0.5, 1, 0, 0.78, 0.85),
            (0.8, 1, -0.5, 1, 0, 0.78, 0.85),
        ),
    ),
    "table": (
        1.1,
        0.7,
        0.58,
        ((-1, 1, -1, 1, 0.86, 1, 1.0), (-0.9, -0.76, -0.85, 0.85, 0, 0.86, 0.7), (0.76, 0.9, -0.85, 0.85, 0, 0.86, 0.7)),
    ),
    "shelf": (
        1.0,
        0.36,
        1.1,
        ((-1, 1, -1, -0.5, 0, 1, 0.6), (-1, 1, -1, 1, 0, 0.1, 1.0), (-1, 1, -1, 1, 0.45, 0.53, 1.0), (-1, 1, -1, 1, 0.92, 1, 1.0)),
    ),
    "crate": (0.6, 0.6, 0.55, ((-0.94, 0.94, -0.94, 0.94, 0, 0.8, 0.78), (-1, 1, -1, 1, 0.8, 1.0, 1.0))),
    "lamp": (
        0.38,
        0.38,
        1.15,
        ((-0.7, 0.7, -0.7, 0.7, 0, 0.06, 0.35), (-0.15, 0.15, -0.15, 0.15, 0.06, 0.66, 0.35), (-1, 1, -1, 1, 0.66, 1, 1.0)),
    ),
    "plant": (0.44, 0.44, 0.95, ((-0.6, 0.6, -0.6, 0.6, 0, 0.4, 0.5), (-1, 1, -1, 1, 0.4, 1, 1.0))),
}
"""Kind -> width along the wall, depth, height, boxes. A box: (u0, u1, v0, v1, z0, z1, shade), u along the width and v from
the wall to the front, both in [-1, 1], z in [0, 1]. The boxes fill the outline at the top."""
FREE_STANDING = ("table", "crate")
MAX_PARTS = 48


@dataclass(frozen=True)
class Furniture:
    """A piece of furniture."""

    kind: str
    color: int
    """Index of its color, unique among the pieces of its kind."""
    room: int
    rect: tuple[float, float, float, float]
    height: float
    front: int
    """Where its front looks: 0 east, 1 north, 2 west, 3 south."""

    def parts(self) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Return the center (3,), half sizes (3,) and shade of every box."""
        x0, x1, y0, y1 = self.rect
        center, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([(x1 - x0) / 2, (y1 - y0) / 2])
        boxes = []
        for u0, u1, v0, v1, z0, z1, shade in KINDS[self.kind][3]:
            u, v = np.array([u0, u1]), np.array([v0, v1])
            local = {0: (v, u), 1: (-u, v), 2: (-v, -u), 3: (u, -v)}[self.front]
            low, high = (np.array([pick(axis) for axis in local]) for pick in (np.min, np.max))
            place = np.append(center + half * (low + high) / 2, self.height * (z0 + z1) / 2)
            boxes.append((place, np.append(half * (high - low) / 2, self.height * (z1 - z0) / 2), shade))
        return boxes


@dataclass(frozen=True, eq=False)
class FloorPlan:
    """Rooms, their walls, the doors and the furniture."""

    rooms: np.ndarray
    """(r, 4) rectangles that tile the floor."""
    colors: tuple[int, ...]
    """Index of the color of each room's walls; all differ."""
    walls: np.ndarray
    """(w, 4) rectangles, solid."""
    wall_rooms: tuple[int, ...]
    """The room of each wall."""
    doors: np.ndarray
    """(d, 4) rectangles, the openings."""
    door_rooms: tuple[tuple[int, int], ...]
    pieces: tuple[Furniture, ...]
    solids: np.ndarray
    """(w + p, 4) rectangles: walls, then pieces."""
    targets: np.ndarray
    """(w + p + d, 4) rectangles that a look may meet: the solids, then the doors."""
    heights: np.ndarray
    """(p,) heights of the pieces."""

    def room_of(self, x: float, y: float) -> int:
        """Return the index of the room that holds a point; of the nearest one for a point outside."""
        rooms = self.rooms
        outside = np.maximum(np.maximum(rooms[:, 0] - x, x - rooms[:, 1]), np.maximum(rooms[:, 2] - y, y - rooms[:, 3]))
        return int(outside.argmin())

    def clearances(self, x: float, y: float) -> np.ndarray:
        """Compute the distance (w + p,) of a point to every wall and piece; 0 inside."""
        solids = self.solids
        dx = np.maximum(np.maximum(solids[:, 0] - x, x - solids[:, 1]), 0.0)
        dy = np.maximum(np.maximum(solids[:, 2] - y, y - solids[:, 3]), 0.0)
        return np.hypot(dx, dy)


@lru_cache(maxsize=64)
def plan_of(layout: int, pieces: int, door_width: float, colors: int) -> FloorPlan:
    """Make the floor plan of a number; equal numbers give equal rooms, whatever the doors' width and the furniture.

    Args:
        layout: Any number from 0.
        pieces: Wanted pieces of furniture, at most MAX_PIECES; fewer where the rooms are full.
        door_width: Up to MAX_DOOR.
        colors: How many colors there are, for rooms and for furniture alike; piece and room of equal index never meet.
    """
    rng = np.random.default_rng(layout)
    count = int(rng.integers(3, MAX_ROOMS + 1))
    rooms, links = _joined_rooms(rng, count)
    room_colors = tuple(int(c) for c in rng.permutation(colors)[: len(rooms)])
    doors = [_opening(link, door_width) for link in links]
    furniture = _furnish(rng, rooms, room_colors, [_opening(link, MAX_DOOR) for link in links], colors)[:pieces]
    walls, wall_rooms = [], []
    for i, room in enumerate(rooms):
        for wall in _walls_of(room, doors):
            walls.append(wall)
            wall_rooms.append(i)
    solids = np.array([*walls, *(piece.rect for piece in furniture)])
    return FloorPlan(
        rooms=np.array(rooms),
        colors=room_colors,
        walls=np.array(walls),
        wall_rooms=tuple(wall_rooms),
        doors=np.array(doors),
        door_rooms=tuple((i, j) for i, j, *_ in links),
        pieces=tuple(furniture),
        solids=solids,
        targets=np.array([*solids, *doors]),
        heights=np.array([piece.height for piece in furniture]),
    )


Rect = tuple[float, float, float, float]
Link = tuple[int, int, bool, float, float]
"""Two rooms, whether the wall between them runs along x, its coordinate across, and the door's center along it."""


def _split(rng: np.random.Generator, count: int) -> list[Rect]:
    """Cut the floor `count - 1` times, always the largest room that can be cut, across its longer side."""
    rooms: list[Rect] = [(-HALF, HALF, -HALF, HALF)]
    while len(rooms) < count:
        rooms.sort(key=lambda r: (r[1] - r[0]) * (r[3] - r[2]))
        x0, x1, y0, y1 = rooms.pop()
        along_x = x1 - x0 > y1 - y0 if abs((x1 - x0) - (y1 - y0)) > 1e-9 else bool(rng.random() < 0.5)
        low, high = (x0, x1) if along_x else (y0, y1)
        slack = max((high - low) / 2 - MIN_SIDE, 0.0)
        cut = round((low + high) / 2 + float(rng.uniform(-slack, slack)), 2)
        rooms += [(x0, cut, y0, y1), (cut, x1, y0, y1)] if along_x else [(x0, x1, y0, cut), (x0, x1, cut, y1)]
    return rooms


def _joined_rooms(rng: np.random.Generator, count: int) -> tuple[list[Rect], list[Link]]:
    """Cut rooms, and doors by which each is reached from each; cut anew where walls too short for a door leave one alone."""
    while True:
        rooms = _split(rng, count)
        links, joined = _links(rng, rooms)
        if joined:
            return rooms, links


def _links(rng: np.random.Generator, rooms: list[Rect]) -> tuple[list[Link], bool]:
    """Choose doors that join as many rooms as can be joined, and some more; also return whether they join all."""
    margin = MAX_DOOR / 2 + 2 * WALL
    shared: list[tuple[int, int, bool, float, float, float]] = []
    for i, a in enumerate(rooms):
        for j, b in enumerate(rooms):
            for along_x, edge in ((True, a[3] == b[2]), (False, a[1] == b[0])):  # equal to the bit: cuts are rounded
                low, high = (max(a[0], b[0]), min(a[1], b[1])) if along_x else (max(a[2], b[2]), min(a[3], b[3]))
                if edge and high - low >= 2 * margin:
                    shared.append((i, j, along_x, a[3] if along_x else a[1], low, high))
    joined = list(range(len(rooms)))
    links: list[Link] = []
    for k in rng.permutation(len(shared)):
        i, j, along_x, across, low, high = shared[k]
        first, last = low + margin, high - margin  # a wall that a door just fits may round to last < first
        center = float(rng.uniform(first, max(first, last)))
        apart, extra = joined[i] != joined[j], rng.random() < 0.35
        if apart or (extra and len(links) < MAX_DOORS - len(set(joined)) + 1):
            links.append((i, j, along_x, across, center))
            joined = [joined[i] if group == joined[j] else group for group in joined]
    return links, len(set(joined)) == 1


def _opening(link: Link, width: float) -> Rect:
    _, _, along_x, across, center = link
    half = width / 2
    return (
        (center - half, center + half, across - WALL, across + WALL)
        if along_x
        else (across - WALL, across + WALL, center - half, center + half)
    )


def _walls_of(room: Rect, doors: list[Rect]) -> list[Rect]:
    """Return the four sides of a room, inside its rectangle, without the openings."""
    x0, x1, y0, y1 = room
    walls = []
    for side in ((x0, x1, y1 - WALL, y1), (x0, x1, y0, y0 + WALL), (x0, x0 + WALL, y0, y1), (x1 - WALL, x1, y0, y1)):
        axis = 0 if side[1] - side[0] > side[3] - side[2] else 2
        holes = sorted((door[axis], door[axis + 1]) for door in doors if _distance(side, door) <= 0 and _is_along(door, axis))
        start = side[axis]
        for low, high in [*holes, (side[axis + 1], 0.0)]:
            walls.append((start, low, *side[2:]) if axis == 0 else (*side[:2], start, low))
            start = high
    return [wall for wall in walls if wall[1] > wall[0] and wall[3] > wall[2]]


def _is_along(door: Rect, axis: int) -> bool:
    return (door[1] - door[0] > door[3] - door[2]) == (axis == 0)


def _distance(a: Rect, b: Rect) -> float:
    """Compute the distance between two rectangles; negative when they overlap, 0 when they touch."""
    dx, dy = max(a[0] - b[1], b[0] - a[1]), max(a[2] - b[3], b[2] - a[3])
    return max(dx, dy) if dx < 0 or dy < 0 else float(np.hypot(dx, dy))


def _furnish(
    rng: np.random.Generator, rooms: list[Rect], room_colors: tuple[int, ...], doors: list[Rect], colors: int
) -> list[Furniture]:
    """Put pieces along the walls, and some free-standing, so that no way is blocked."""
    pieces: list[Furniture] = []
    parts = 0
    for attempt in range(8 * MAX_PIECES):
        room = attempt % len(rooms)
        kind = list(KINDS)[int(rng.integers(len(KINDS)))]
        free = kind in FREE_STANDING and rng.random() < 0.5
        rect, front = _spot(rng, rooms[room], kind, free)
        taken = {piece.color for piece in pieces if piece.kind == kind} | {room_colors[room]}
        allowed = [color for color in range(colors) if color not in taken]
        color = allowed[int(rng.integers(len(allowed)))] if allowed else -1
        x0, x1, y0, y1 = rooms[room]
        gaps = (rect[0] - x0 - WALL, x1 - WALL - rect[1], rect[2] - y0 - WALL, y1 - WALL - rect[3])
        fits = all(abs(gap) < 1e-9 or gap >= GAP for gap in gaps)
        fits = fits and all(_distance(rect, door) >= DOOR_GAP for door in doors)
        fits = fits and all(_distance(rect, piece.rect) >= GAP for piece in pieces if piece.room == room)
        parts_of = len(KINDS[kind][3])
        if fits and color >= 0 and parts + parts_of <= MAX_PARTS and len(pieces) < MAX_PIECES:
            pieces.append(Furniture(kind, color, room, rect, KINDS[kind][2], front))
            parts += parts_of
    return pieces


def _spot(rng: np.random.Generator, room: Rect, kind: str, free: bool) -> tuple[Rect, int]:
    """Sample a rectangle for a piece: its back at a random wall, often in a corner, or anywhere."""
    width, depth, *_ = KINDS[kind]
    front = int(rng.integers(4))
    size_x, size_y = (depth, width) if front % 2 == 0 else (width, depth)
    x0, x1, y0, y1 = room[0] + WALL, room[1] - WALL - size_x, room[2] + WALL, room[3] - WALL - size_y
    along = float(np.clip(rng.uniform(-0.2, 1.2), 0, 1))  # a third of the pieces stands in a corner
    across = float(rng.random()) if free else (0.0 if front < 2 else 1.0)
    tx, ty = (across, along) if front % 2 == 0 else (along, across)
    x, y = x0 + tx * (x1 - x0), y0 + ty * (y1 - y0)
    return (x, x + size_x, y, y + size_y), front
