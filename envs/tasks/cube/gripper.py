"""The scene of a two-finger gripper that hangs over a table, what it holds, and how it moves cubes from place to place."""

from collections.abc import Sequence

import mujoco
import numpy as np

from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.scenery import BOX, PLANE, SEEN, SLIDE, add_servo

REACH = np.array([[-0.235, -0.165, 0.006], [0.235, 0.165, 0.2]])
"""Lowest and highest x, y and z of the finger tips, in meters."""
OPENING = 0.048
"""How far each open finger is from the middle."""
PAD = (0.006, 0.013, 0.026)
"""Half sizes of a finger, which stands on its tip."""
CLOSING_RATE = 0.3
"""Meters per second that a full `grip` moves each finger's target."""
VELOCITY_GAIN, FORCE_LIMIT = 120.0, 16.0
LOAD = 3.0
"""Weight in newtons that the hand holds without sinking."""
FINGER_STIFFNESS, FINGER_DAMPING = 400.0, 15.0
GRASP_DEPTH = 0.6
"""How far the tips reach below the middle of a cube that is grasped, in half cubes."""
EXTENT = 1.0
"""Size of the scene in meters: what is closer to a camera than 1/50 of it is not drawn."""
TABLE = np.array([0.265, 0.195])
"""Half the length and depth of the table between its walls."""
SAMPLED = np.array([0.2, 0.13])
"""Half the length and depth of the area in which cubes start and end."""
DISTRACTORS = ((-0.16, 0.018, (0.93, 0.60, 0.66)), (0.15, 0.024, (0.45, 0.72, 0.70)), (0.01, 0.014, (0.60, 0.52, 0.42)))
"""x, half size and color of the objects behind the table's wall."""
_AXES = (("x", [1, 0, 0]), ("y", [0, 1, 0]), ("z", [0, 0, 1]))
_HELD_GAP = 0.003
_NEAR, _AT = 0.02, 0.015
"""Horizontal errors within which the demonstrator goes on down, and starts to."""
_DEPTH = 0.014
"""Error of the height at which it closes or opens the fingers."""


def add_table(spec: mujoco.MjSpec) -> None:
    """Add a table with walls, objects behind it, a lamp, and the cameras `front` and `top`."""
    spec.visual.headlight.ambient, spec.visual.map.znear, spec.stat.extent = [0.58] * 3, 0.02, EXTENT
    world = spec.worldbody
    for name, builtin in (("checker", mujoco.mjtBuiltin.mjBUILTIN_CHECKER), ("gradient", mujoco.mjtBuiltin.mjBUILTIN_GRADIENT)):
        texture = spec.add_texture(name=name, type=int(mujoco.mjtTexture.mjTEXTURE_2D), builtin=int(builtin), width=64, height=64)
        texture.rgb1, texture.rgb2 = [1.0] * 3, [0.8] * 3
        material = spec.add_material(name=name, specular=0.0, texrepeat=[4, 3] if name == "checker" else [1, 1])
        material.textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = name
    # Touched: the plane of the table and four planes that look inward.
    ground = {"type": PLANE, "size": [1, 1, 1], "contype": 0, "conaffinity": 1, "friction": [0.1, 0.002, 0.0001], "group": 3}
    world.add_geom(name="ground", pos=[0, 0, 0], **ground)
    for name, x, y in (("left_wall", -1, 0), ("right_wall", 1, 0), ("back_wall", 0, 1), ("front_wall", 0, -1)):
        world.add_geom(name=name, pos=[x * TABLE[0], y * TABLE[1], 0], zaxis=[-x, -y, 0], **ground)
    # Seen: the table, which goes on behind its wall, the walls and what is beyond.
    world.add_geom(name="table", type=BOX, size=[0.285, 0.275, 0.015], pos=[0, 0.06, -0.015], **SEEN)
    for name, x, y in (("left_rim", -1, 0), ("right_rim", 1, 0), ("back_rim", 0, 1), ("front_rim", 0, -1)):
        size = [0.006 if x else TABLE[0] + 0.012, 0.006 if y else TABLE[1] + 0.012, 0.006]
        world.add_geom(name=name, type=BOX, size=size, pos=[x * (TABLE[0] + 0.006), y * (TABLE[1] + 0.006), 0.006], **SEEN)
    world.add_geom(name="background", type=BOX, size=[4, 4, 0.01], pos=[0, 1, -0.35], **SEEN)
    for i, (place, half, color) in enumerate(DISTRACTORS):
        world.add_geom(name=f"distractor{i}", type=BOX, size=[half] * 3, pos=[place, 0.265, half], rgba=[*color, 1.0], **SEEN)
    lamp = world.add_light(name="lamp", type=int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL), pos=[0, 0, 2], castshadow=True)
    lamp.ambient, lamp.specular = [0.0] * 3, [0.0] * 3
    world.add_camera(name="front", fovy=38)
    world.add_camera(name="top", pos=[0, 0, 1.0], fovy=32)


def add_gripper(spec: mujoco.MjSpec) -> None:
    """Add joints in this order, x, y, z slides with velocity servos and two fingers with position servos; and the camera `wrist`.

    The fingers' targets are activations, so part of the physics state. Geoms: `shadow`, `rod`, `palm`, `left`, `right`;
    they touch what has bit 2 in its `conaffinity`. The gripper has no weight.
    """
    touch, look = {"contype": 2, "conaffinity": 0}, {**SEEN, "mass": 0.0}
    body = spec.worldbody
    for i, (name, axis) in enumerate(_AXES):
        body = body.add_body(name=f"hand_{name}", gravcomp=1.0, mass=0.2, inertia=[1e-4] * 3, explicitinertial=True)
        hold = LOAD if name == "z" else 0.0
        body.add_joint(name=name, type=SLIDE, axis=axis, limited=1, range=REACH[:, i].tolist(), armature=0.2, frictionloss=hold)
        motor = add_servo(spec, name, [0.0, 0.0, -VELOCITY_GAIN], VELOCITY_GAIN)
        motor.forcelimited, motor.forcerange = 1, [-FORCE_LIMIT, FORCE_LIMIT]
        if name == "y":  # below the hand, on the table: shows where it is
            body.add_geom(name="shadow", type=BOX, size=[0.05, 0.016, 0.0005], pos=[0, 0, 0.0006], **look)
    body.add_geom(name="rod", type=BOX, size=[0.008, 0.008, 0.1], pos=[0, 0, 0.175], **look)
    body.add_geom(name="palm", type=BOX, size=[OPENING + 0.012, 0.017, 0.012], pos=[0, 0, 0.066], mass=0.2, **touch)
    body.add_camera(name="wrist", pos=[0, -0.12, 0.12], xyaxes=[1, 0, 0, 0, 0.75, 0.66], fovy=70)
    for name, side in (("left", -1.0), ("right", 1.0)):
        finger = body.add_body(name=name, pos=[side * (OPENING + PAD[0]), 0, PAD[2]], gravcomp=1.0)
        finger.add_joint(name=name, type=SLIDE, axis=[-side, 0, 0], limited=1, range=[-0.002, OPENING + 0.002], armature=0.1)
        finger.add_geom(name=name, type=BOX, size=list(PAD), mass=0.1, friction=[1.2, 0.005, 0.0001], **touch)
        motor = add_servo(spec, name, [0.0, -FINGER_STIFFNESS, -FINGER_DAMPING], FINGER_STIFFNESS)
        motor.dyntype = int(mujoco.mjtDyn.mjDYN_INTEGRATOR)
        motor.actlimited, motor.actrange = 1, [0.0, OPENING]


def held_cube(hand: np.ndarray, fingers: np.ndarray, cubes: np.ndarray, half: float) -> int | None:
    """Return the index of the cube between the fingers, with both touching it; None when there is none.

    Args:
        hand: x, y, z of the tips (3,).
        fingers: How far each finger is closed (2,).
        cubes: Centers (k, 3).
        half: Half the edge of a cube.
    """
    hand_x, hand_y, hand_z = hand.tolist()
    left, right = hand_x - OPENING + float(fingers[0]), hand_x + OPENING - float(fingers[1])
    slack = _HELD_GAP + 0.15 * half
    if abs(right - left - 2 * half) > 2 * slack:
        return None
    for i, (x, y, z) in enumerate(cubes.tolist()):
        between = abs(y - hand_y) < half and -0.2 * half < z - hand_z < 2 * PAD[2] + half
        if between and abs(x - left - half) < slack and abs(right - x - half) < slack:
            return i
    return None


class Mover:
    """Brings cubes to their goals one at a time, from the state alone: what was dropped is grasped again."""

    def __init__(self, half: float, reach: float, speed: float, hover: float) -> None:
        """Set the manner of moving.

        Args:
            half: Half the edge of a cube.
            reach: Distance that a full action covers in a step.
            speed: Largest action, in (0, 1].
            hover: Height kept above what is passed over.
        """
        self.half, self.reach, self.speed, self.hover = half, reach, speed, hover

    def act(self, hand: np.ndarray, fingers: np.ndarray, closing: float, cubes: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Choose the next action, float32 (4,).

        Args:
            hand: x, y, z of the tips (3,).
            fingers: How far each finger is closed (2,).
            closing: The fingers' target, 0 to `OPENING`.
            cubes: Centers (k, 3).
            goals: Where they belong (k, 3).
        """
        held = held_cube(hand, fingers, cubes, self.half)
        chosen = _next_cube(cubes, goals, self.half, held)
        if held is not None and (chosen is None or chosen[0] == held):
            return self._carry(hand, closing, cubes, held, goals[held] if chosen is None else chosen[1])
        if chosen is None and fingers.max() < 0.1 * OPENING:
            return self._act(np.array([0.0, 0.0, max(0.0, REACH[1, 2] - 0.02 - hand[2])]), -1.0)  # out of the way
        if chosen is None or fingers.max() > 0.1 * OPENING and self._around(hand, cubes) not in (None, chosen[0]):
            return self._act(np.zeros(3), -1.0)  # let go first
        return self._fetch(hand, cubes, chosen[0])

    def _around(self, hand: np.ndarray, cubes: np.ndarray) -> int | None:
        """Return the cube that the fingers reach around, touched or not."""
        gaps = np.abs(cubes - hand - [0.0, 0.0, PAD[2]])
        inside = np.flatnonzero((gaps < [OPENING, self.half, PAD[2] + self.half]).all(axis=1))
        return int(inside[0]) if inside.size else None

    def _fetch(self, hand: np.ndarray, cubes: np.ndarray, i: int) -> np.ndarray:
        """Go above cube i, down around it, and close."""
        grasp = cubes[i] - [0.0, 0.0, GRASP_DEPTH * self.half]
        grasp[2] = max(grasp[2], REACH[0, 2] + 0.001)
        off = float(np.hypot(*(grasp - hand)[:2]))
        low = hand[2] < cubes[i, 2] + self.half + 0.004
        if off < (_NEAR if low else _AT):
            return self._act(grasp - hand, 1.0 if hand[2] - grasp[2] < _DEPTH else -1.0)
        return self._travel(hand, grasp, off, _top(cubes, hand, grasp, None, self.half) + self.hover, -1.0)

    def _carry(self, hand: np.ndarray, closing: float, cubes: np.ndarray, i: int, goal: np.ndarray) -> np.ndarray:
        """Close firmly, lift cube i, bring it above its goal, down, and open."""
        target = goal + hand - cubes[i]
        off = float(np.hypot(*(goal - cubes[i])[:2]))
        low = cubes[i, 2] - goal[2] < self.half
        if off < _NEAR and cubes[i, 2] - goal[2] < _DEPTH:
            return self._act(np.zeros(3), -1.0)
        if closing < 0.95 * OPENING:
            return self._act(np.zeros(3), 1.0)
        if off < (_NEAR if low else _AT):
            return self._act(target - hand, 1.0)
        tips_below = cubes[i, 2] - hand[2]
        height = _top(cubes, hand, target, i, self.half) + self.half + self.hover - tips_below
        return self._travel(hand, target, off, height, 1.0)

    def _travel(self, hand: np.ndarray, target: np.ndarray, off: float, height: float, grip: float) -> np.ndarray:
        """Rise to a height, then go there sideways while staying at least that high."""
        height = min(height, REACH[1, 2] - 0.004)
        if hand[2] < height - 0.012 and off > _AT:
            return self._act(np.array([0.0, 0.0, height + 0.01 - hand[2]]), grip)
        return self._act(np.array([*(target - hand)[:2], max(height - hand[2], -0.02)]), grip)

    def _act(self, way: np.ndarray, grip: float) -> np.ndarray:
        return np.append(move_towards(np.zeros(3), way, self.reach, self.speed), np.float32(grip))


def _top(cubes: np.ndarray, start: np.ndarray, end: np.ndarray, carried: int | None, half: float) -> float:
    """Return the height of the highest cube that the hand may pass over on its way."""
    low, high = np.minimum(start, end)[:2] - 4 * half, np.maximum(start, end)[:2] + 4 * half
    passed = ((cubes[:, :2] > low) & (cubes[:, :2] < high)).all(axis=1)
    if carried is not None:
        passed[carried] = False
    return float(cubes[passed, 2].max() + half) if passed.any() else 0.0


def _next_cube(cubes: np.ndarray, goals: np.ndarray, half: float, held: int | None) -> tuple[int, np.ndarray] | None:
    """Choose which cube to move now and where to; None when all are in place. A cube in the way is put aside."""
    far = np.linalg.norm(cubes - goals, axis=1)
    wrong = [i for i in np.argsort(goals[:, 2], kind="stable") if far[i] > 0.02 or i == held and far[i] > 0.008]
    if held in wrong:
        wrong = [held, *(i for i in wrong if i != held)]
    in_way: list[int] = []
    for i in wrong:
        blockers = _blockers(cubes, cubes[i], i, half, above=True) if i != held else []
        below = [j for j in wrong if j != i and goals[j, 2] < goals[i, 2] - half and np.hypot(*(goals[j] - goals[i])[:2]) < 2 * half]
        blockers += _blockers(cubes, goals[i], i, half, above=False)
        if not blockers and not below:
            return int(i), goals[i]
        if i == held:
            return int(i), _free_place(cubes, goals, i, half)
        in_way += blockers
    for i in in_way:
        if not _blockers(cubes, cubes[i], i, half, above=True):
            return int(i), _free_place(cubes, goals, i, half)
    return None


def _blockers(cubes: np.ndarray, place: np.ndarray, i: int, half: float, above: bool) -> list[int]:
    """List the cubes other than i that keep it from being put at a place, fingers around it; or only those above the place."""
    gaps = np.abs(cubes - place)[:, :2]
    near = np.hypot(*gaps.T) < 2.2 * half if above else (gaps < [2 * half + 3 * PAD[0], 2.2 * half]).all(axis=1)
    high = cubes[:, 2] > place[2] + half * (1.0 if above else -1.0)
    return [int(j) for j in np.flatnonzero(near & high) if j != i]


def _free_place(cubes: np.ndarray, goals: np.ndarray, i: int, half: float) -> np.ndarray:
    """Find a place on the table far from every other cube and from every goal."""
    places = np.array([[x, y, half] for x in np.linspace(-0.19, 0.19, 5) for y in np.linspace(-0.12, 0.12, 3)])
    taken: Sequence[np.ndarray] = [*np.delete(cubes, i, axis=0), *goals]
    gaps = np.min([np.hypot(*(places - other)[:, :2].T) for other in taken], axis=0)
    return places[int(np.argmax(gaps))]
