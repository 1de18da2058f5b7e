"""The ant of gymnasium's assets and its arena: the bodies that are put together for `Ant`, and where its legs are."""

import importlib.resources

import mujoco
import numpy as np

from worldmodel.envs.scenery import BOX, CYLINDER, PLANE, SEEN, SPHERE, add_pattern, add_servo
from worldmodel.envs.tasks.ant.gait import LEG_ANGLES, LEG_SIDES

PREFIX = "ant_"
"""Of the names that come from the asset."""
ARENA = 3.5
"""Half the side of the arena in meters."""
MARKS = 4
TORSO_RADIUS, LEG_RADIUS = 0.25, 0.08
HIP_REACH, THIGH, SHIN = 0.2 * 2**0.5, 0.2 * 2**0.5, 0.4 * 2**0.5
"""From the torso's center to the hip, from there to the knee, from there to the center of the foot, in meters."""
HIP_RANGE = np.radians(30.0)
KNEE_MIDDLE, KNEE_RANGE = np.radians(50.0), np.radians(20.0)
"""How far a shin hangs below the horizontal: in the stance, and the range about it."""
NUMBERS = np.array([1, 4, 2, 3])
"""Number that the asset gives to each of `LEGS`: its own names of legs differ, but it too rewards walking along x."""
HIPS = 7 + 2 * (NUMBERS - 1)
KNEES = HIPS + 1
"""Where hips and knees stand in qpos."""
KNEE_SIGNS = np.array([1.0, 1.0, -1.0, -1.0])
"""Sense in which the asset's ankle joints lower the foot."""
TORSO_MASS = 4.0
TORQUE = 32.0
"""Largest torque of a servo, N m: enough for a trot, too little to leap and land on the back."""
_LEG_DENSITY, _ARMATURE = 20.0, 0.02
_TILE_REPEATS, _TILE_SHADE = 4, 221


def add_arena(spec: mujoco.MjSpec) -> None:
    """Add the floor with its patterns, bounds, walls, the ground around them, and marks on the floor."""
    world = spec.worldbody
    for name, cells in (("checker", np.indices((2, 2)).sum(0) % 2), ("stripes", np.indices((2, 2))[0])):
        dark = np.kron(cells, np.ones((32, 32))) > 0
        add_pattern(spec, name, np.where(dark, _TILE_SHADE, 255), texrepeat=[_TILE_REPEATS, _TILE_REPEATS])
    # Touched: the floor and four planes that look inward. Seen: the floor, walls of 0.3 m and the ground.
    world.add_geom(name="floor", type=PLANE, size=[ARENA, ARENA, 1], contype=0, conaffinity=1)
    world.add_geom(name="ground", type=PLANE, size=[40, 40, 1], pos=[0, 0, -0.05], **SEEN)
    for name, x, y in (("left", -1, 0), ("right", 1, 0), ("far", 0, 1), ("near", 0, -1)):
        bound = {"pos": [ARENA * x, ARENA * y, 0], "zaxis": [-x, -y, 0], "contype": 0, "conaffinity": 1}
        world.add_geom(name=f"bound_{name}", type=PLANE, size=[1, 1, 1], group=3, **bound)
        size = [0.1 if x else ARENA + 0.2, 0.1 if y else ARENA + 0.2, 0.15]
        world.add_geom(name=f"wall_{name}", type=BOX, size=size, pos=[(ARENA + 0.1) * x, (ARENA + 0.1) * y, 0.15], **SEEN)
    for i in range(MARKS):
        size = [0.45, 0.002, 0] if i % 2 else [0.4, 0.4, 0.002]
        world.add_geom(name=f"mark_{i}", type=CYLINDER if i % 2 else BOX, size=size, **SEEN)


def add_ant(spec: mujoco.MjSpec) -> None:
    """Add the asset's body and legs with a head, servos (hips, then knees, in the order of `LEGS`) and a camera that follows."""
    asset = importlib.resources.files("gymnasium") / "envs/mujoco/assets/ant.xml"
    ant = mujoco.MjSpec.from_file(str(asset))
    for thing in [*ant.lights, *ant.actuators, *ant.cameras, *ant.materials, *ant.textures, ant.geom("floor")]:
        ant.delete(thing)
    ant.option.timestep, ant.option.integrator = spec.option.timestep, spec.option.integrator
    for geom in ant.geoms:
        geom.density = _LEG_DENSITY
    for joint in ant.joints[1:]:
        joint.armature = _ARMATURE
    torso = ant.body("torso")
    torso.geoms[0].mass = TORSO_MASS
    # Without a prefix MuJoCo 4 warns that the names of the two might clash.
    torso = spec.worldbody.add_frame().attach_body(torso, PREFIX, "")
    look = {**SEEN, "mass": 0.0}
    torso.add_geom(name="head", type=SPHERE, size=[0.19, 0, 0], pos=[0.35, 0, 0.03], **look)
    for name, y in (("left_eye", 0.08), ("right_eye", -0.08)):
        torso.add_geom(name=name, type=SPHERE, size=[0.075, 0, 0], pos=[0.47, y, 0.12], **look)
    track = int(mujoco.mjtCamLight.mjCAMLIGHT_TRACK)
    torso.add_camera(name="follow", mode=track, pos=[0, -2.6, 2.2], xyaxes=[1, 0, 0, 0, 0.65, 0.76], fovy=45)
    for joint in ("hip", "ankle"):
        for number in NUMBERS:
            servo = add_servo(spec, f"{PREFIX}{joint}_{number}", [0.0, 0.0, 0.0])  # a factor sets how strong
            servo.forcelimited, servo.forcerange = int(mujoco.mjtLimited.mjLIMITED_TRUE), [-TORQUE, TORQUE]


def heading_of(position: np.ndarray) -> float:
    """Return the direction in which the ant faces, rad counterclockwise from the right of the picture, from qpos (15,)."""
    ahead = rotation_of(position)[:, 0]
    return float(np.arctan2(ahead[1], ahead[0]))


def legs_of(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centers of the knees (4, 3) and of the feet (4, 3), in the order of `LEGS`, from qpos (15,)."""
    angles = LEG_ANGLES + position[HIPS]
    knees = HIP_REACH * _level(LEG_ANGLES) + THIGH * _level(angles)
    drop = KNEE_SIGNS * position[KNEES]
    feet = knees + SHIN * np.cos(drop)[:, None] * _level(angles)
    feet[:, 2] -= SHIN * np.sin(drop)
    rotation = rotation_of(position).T
    return position[:3] + knees @ rotation, position[:3] + feet @ rotation


def _level(angles: np.ndarray) -> np.ndarray:
    """Return horizontal unit vectors (n, 3) at angles (n,)."""
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=1)


def joints_of(position: np.ndarray) -> np.ndarray:
    """Return hips and knees (8,) in units of the action."""
    knees = (KNEE_MIDDLE - KNEE_SIGNS * position[KNEES]) / KNEE_RANGE
    return np.concatenate([LEG_SIDES * position[HIPS] / HIP_RANGE, knees])


def rotation_of(position: np.ndarray) -> np.ndarray:
    """Return the torso's axes as columns (3, 3)."""
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, position[3:7] / max(float(np.linalg.norm(position[3:7])), 1e-9))
    return matrix.reshape(3, 3)
