"""The flat of the Rooms task: pools of boxes, which a floor plan puts in place, and the body of the walker."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, Color
from worldmodel.envs.scenery import BOX, CYLINDER, HINGE, SEEN, SLIDE, SPHERE, add_pattern, add_servo, material_of
from worldmodel.envs.tasks.rooms.plans import MAX_PARTS, MAX_PIECES, FloorPlan
from worldmodel.envs.variation import Value

ROOM_COLORS: dict[str, Color] = {  # in the order of OBJECT_COLORS: no piece stands before walls of its own hue
    "pink": (0.93, 0.60, 0.64),
    "green": (0.53, 0.76, 0.55),
    "blue": (0.50, 0.68, 0.90),
    "yellow": (0.95, 0.84, 0.48),
    "lilac": (0.73, 0.60, 0.86),
    "gray": (0.66, 0.67, 0.71),
}
SKY_COLORS: dict[str, Color] = {
    "day": (0.86, 0.93, 0.99),
    "dusk": (0.96, 0.78, 0.66),
    "night": (0.10, 0.12, 0.22),
    "plaster": (0.94, 0.93, 0.90),
}
FLOOR_SHADES = (1.0, 0.9, 0.95, 0.86, 0.97, 0.92)
PATTERNS = ("plain", "checker", "planks")
MAX_WALLS, MAX_FLOORS, MAX_PICTURES = 40, 6, 8
RADIUS = 0.2
"""Of the body."""
MARKER_Z = 2.2
"""The body as the map shows it hovers above its eye, out of its sight."""


def add_flat(spec: mujoco.MjSpec) -> None:
    """Add pools of walls, floors and furniture, which `furnish` puts in place, and the sky."""
    _add_materials(spec)
    world = spec.worldbody
    away = {"type": BOX, "size": [1, 1, 1], "pos": [0, 0, -50]}  # not at the origin: MuJoCo would take it for granted
    for i in range(MAX_WALLS):
        world.add_geom(name=f"wall{i}", **away)
    for i in range(MAX_PIECES):  # touched, not seen
        world.add_geom(name=f"piece{i}", group=3, **away)
    for pool, count in (("part", MAX_PARTS), ("picture", MAX_PICTURES), ("floor", MAX_FLOORS)):
        for i in range(count):
            world.add_geom(name=f"{pool}{i}", **away, **SEEN)
    world.add_geom(name="sky", type=BOX, size=[150, 150, 0.1], pos=[0, 0, 8], material="sky", **SEEN)


def _add_materials(spec: mujoco.MjSpec) -> None:
    """Add a checker board and planks, in shades that the color of the floor tints."""
    plank = np.full((32, 32), 255)
    plank[:, 16:] = 236
    plank[:, [0, 16]] = 205
    board = np.full((32, 32), 255)
    board[:16, :16] = board[16:, 16:] = 222
    spec.add_material(name="sky", emission=0.5)
    for name, shades in (("checker", board), ("planks", plank)):
        add_pattern(spec, name, shades, texrepeat=[1, 1], texuniform=True)


def add_body(spec: mujoco.MjSpec) -> None:
    """Add two slides and a hinge; a hull to touch with; a disc with an arrow for the map; the eye."""
    body = spec.worldbody.add_body(name="body")
    look = {**SEEN, "mass": 0.0}
    for name, kind, axis, armature in (("x", SLIDE, [1, 0, 0], 0.0), ("y", SLIDE, [0, 1, 0], 0.0), ("yaw", HINGE, [0, 0, 1], 1.0)):
        body.add_joint(name=name, type=kind, axis=axis, armature=armature)
        add_servo(spec, name, [0.0, 0.0, 0.0])  # a factor sets how strong
    # A sphere at half the height of the lowest piece meets upright boxes like a cylinder, but with analytic contacts.
    body.add_geom(name="hull", type=SPHERE, size=[RADIUS, 0, 0], pos=[0, 0, 0.27], mass=1.0, condim=1, group=3)
    body.add_geom(
        name="disc",
        type=CYLINDER,
        size=[RADIUS, 0.02, 0],
        pos=[0, 0, MARKER_Z],
        rgba=[0.12, 0.13, 0.18, 1],
        **look,
    )
    body.add_geom(
        name="arrow",
        type=BOX,
        size=[0.2, 0.06, 0.02],
        pos=[0.2, 0, MARKER_Z + 0.05],
        rgba=[0.98, 0.25, 0.1, 1],
        **look,
    )
    body.add_camera(name="first_person", pos=[0, 0, 0.65], xyaxes=[0, -1, 0, 0, 0, 1], fovy=84)


def furnish(model: mujoco.MjModel, plan: FloorPlan, values: dict[str, Value]) -> None:
    """Place walls, floors, furniture and pictures of the plan; what is left of a pool is put out of sight and touch."""
    height, wash = float(values["wall.height"]), float(values["wall.wash"])
    room_colors = [np.array(list(ROOM_COLORS.values())[color]) * (1 - wash) + wash for color in plan.colors]
    floor = np.array(FLOOR_COLORS[str(values["floor.color"])])
    boxes: dict[str, list[tuple[np.ndarray, np.ndarray, Any]]] = {"part": []}
    boxes["wall"] = [(*_upright(w, 0.0, height), room_colors[room]) for w, room in zip(plan.walls, plan.wall_rooms, strict=True)]
    boxes["floor"] = [(*_upright(room, -0.1, 0.0), floor * FLOOR_SHADES[i]) for i, room in enumerate(plan.rooms)]
    boxes["piece"] = [(*_upright(np.array(piece.rect), 0.0, piece.height), floor) for piece in plan.pieces]
    for piece in plan.pieces:
        color = np.array(list(OBJECT_COLORS.values())[piece.color])
        boxes["part"] += [(center, half, color * shade) for center, half, shade in piece.parts()]
    boxes["picture"] = _pictures(plan, int(values["layout"]), int(values["wall.pictures"]))
    for pool, count in (
        ("wall", MAX_WALLS),
        ("piece", MAX_PIECES),
        ("part", MAX_PARTS),
        ("picture", MAX_PICTURES),
        ("floor", MAX_FLOORS),
    ):
        first, used = model.geom(f"{pool}0").id, len(boxes[pool])
        ids = slice(first, first + used)
        model.geom_pos[first + used : first + count] = 0, 0, -50
        model.geom_size[first + used : first + count] = 0.01
        model.geom_rgba[first + used : first + count] = 0
        if used:
            model.geom_pos[ids], model.geom_size[ids] = (np.array([box[i] for box in boxes[pool]]) for i in (0, 1))
            model.geom_rgba[ids, :3], model.geom_rgba[ids, 3] = np.array([box[2] for box in boxes[pool]]), 1
        model.geom_rbound[first : first + count] = np.linalg.norm(model.geom_size[first : first + count], axis=1)
    first = model.geom("floor0").id
    model.geom_matid[first : first + MAX_FLOORS] = material_of(model, str(values["floor.pattern"]))


def _upright(rect: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return center and half sizes of the box over a rectangle."""
    x0, x1, y0, y1 = rect
    return np.array([x0 + x1, y0 + y1, low + high]) / 2, np.array([x1 - x0, y1 - y0, high - low]) / 2


def _pictures(plan: FloorPlan, layout: int, count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lay out colored panels on the inner faces of walls: center, half sizes and color of each."""
    rng = np.random.default_rng([layout, 1])
    walls = [i for i in rng.permutation(len(plan.walls)) if np.ptp(plan.walls[i][:2]) > 1 or np.ptp(plan.walls[i][2:]) > 1]
    boxes = []
    for i in walls[:count]:
        center, half = _upright(plan.walls[i], 0.8, 1.1)
        axis = int(half[0] < half[1])  # along which the wall runs
        room = plan.rooms[plan.wall_rooms[i]]
        inwards = np.sign(room[[0, 1]].sum() / 2 - center[0]) if axis else np.sign(room[[2, 3]].sum() / 2 - center[1])
        center[1 - axis] += 0.02 * inwards
        center[axis] += rng.uniform(-0.5, 0.5) * half[axis]
        half[axis] = rng.uniform(0.15, 0.3)
        boxes.append((center, half, rng.uniform(0.1, 0.95, 3)))
    return boxes
