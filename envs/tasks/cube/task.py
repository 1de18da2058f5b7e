"""Cube: pick colored cubes with a gripper and place them on a table or on each other."""

import itertools
import math
from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import HANDLE, Recording
from worldmodel.envs.scenery import BOX, material_of
from worldmodel.envs.task import MAX_GOAL_TRIES, Observation, Policy
from worldmodel.envs.tasks.cube.gripper import (
    CLOSING_RATE,
    DISTRACTORS,
    EXTENT,
    GRASP_DEPTH,
    OPENING,
    REACH,
    SAMPLED,
    TABLE,
    Mover,
    add_gripper,
    add_table,
    held_cube,
)
from worldmodel.envs.tasks.cube.language import CUBE_COLORS, OVERLAP, CubeLanguage, Scene
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value
from worldmodel.errors import UserError

CUBES = 3
APART = np.array([0.115, 0.085])
"""Cubes that do not lie on each other are at least this far apart along x or along y: fingers fit between them."""
EDGE = (0.044, 0.052, 0.060)
"""Smallest, usual and largest edge of a cube."""
CONTACT_DEPTH = 0.012
"""How deep a contact may press a cube into something."""
UNUSED_HEIGHT = -2.0
HELD_SHARE, STACKED_SHARE, STACKED_GOAL_SHARE = 0.12, 0.25, 0.35
"""How many starts hold a cube, how many have a stack, and how many goals are to stack."""
LOOK_AT = np.array([0.0, 0.015, 0.058])
_GRIPPER_GEOMS = ("rod", "palm", "left", "right")


class Cube(MujocoTask):
    """A gripper on a gantry that picks and places colored cubes, which it holds by friction alone.

    ## Description
    A table of 0.53 m x 0.39 m with walls at its edges carries one to three cubes (factor `cube.count`) of different
    colors. In the goal one of them was moved to another place on the table, or put on top of another cube. In about one
    start of eight a cube is in the gripper. Unused cubes are hidden and touch nothing; their part of the state means nothing.

    ## Action Space
    `dx`, `dy`, `dz` in [-1, 1]: wanted velocity of the hand; 1 moves it 0.045 m in a step of 0.1 s (factor
    `gripper.speed`). `grip` in [-1, 1]: how fast the fingers open (-1) or close (1); at 0 they keep their hold.

    ## Observation Space
    `pixels`; `proprio` = position of the hand and closing of the two fingers, both scaled to [-1, 1], and their
    velocities divided by those of a full action.

    ## Rewards
    The negative distance in meters of the cube that is farthest from its goal place. The gripper and the way the
    cubes are turned do not count.

    ## Episode End
    Terminated when every cube is within 0.04 m of its goal; truncated after 100 steps.

    The setting is that of the cube tasks of OGBench (Park et al., 2024, arXiv:2410.20092).
    """

    action_axes = (
        ActionAxis("dx", ("move", "left"), ("move", "right"), ("a", "d")),
        ActionAxis("dy", ("move", "closer"), ("move", "away"), ("s", "w")),
        ActionAxis("dz", ("move", "down"), ("move", "up"), ("f", "r")),
        ActionAxis("grip", ("open", "wider"), ("close", "tighter"), ("q", "e")),
    )
    language_class = CubeLanguage
    feature_names = (
        *("hand.x", "hand.y", "hand.z", "hand.closing"),
        *(f"cube{i}.{axis}" for i in range(CUBES) for axis in "xyz"),
    )
    success_threshold = 0.04
    min_goal_distance = 0.09
    max_episode_steps = 100
    default_frame_skip = 10
    recording = Recording(HANDLE)
    cameras = ("front", "top", "wrist")
    factors = {
        "cube.count": Factor("number of cubes", 3, low=1, high=CUBES, integer=True),
        "cube.colors": Factor(
            "colors of the cubes", "red-green-blue", tuple("-".join(c) for c in itertools.permutations(CUBE_COLORS, CUBES))
        ),
        "cube.size": Factor("edge of a cube in meters", EDGE[1], low=EDGE[0], high=EDGE[2]),
        "cube.mass": Factor("mass of a cube in kilograms", 0.1, low=0.05, high=0.25),
        "cube.friction": Factor("friction between cubes and table", 0.6, low=0.3, high=1.2),
        "gripper.color": Factor("color of the gripper", "slate", tuple(WALL_COLORS)),
        "gripper.speed": Factor("speed of a full action in meters per second", 0.45, low=0.35, high=0.5),
        "table.color": Factor("color of the table", "cream", tuple(FLOOR_COLORS)),
        "table.texture": Factor("pattern of the table", "plain", ("plain", "checker", "gradient")),
        "background.color": Factor("color behind the table", "sky", tuple(FLOOR_COLORS)),
        "light.brightness": Factor("brightness of the lamp", 0.45, low=0.25, high=0.6),
        "light.azimuth": Factor("where the lamp hangs, in degrees from the right", -60.0, low=-160.0, high=-20.0),
        "camera.azimuth": Factor("turn of the front camera about the table in degrees", 0.0, low=-15.0, high=15.0),
        "camera.distance": Factor("distance of the front camera from the table in meters", 0.8, low=0.76, high=0.9),
        "distractor.count": Factor("number of objects behind the table's wall", 0, low=0, high=len(DISTRACTORS), integer=True),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the table with walls, gripper, cubes on free joints, lamp and three cameras."""
        option = spec.option
        option.timestep, option.iterations, option.impratio = 0.01, 20, 5.0
        option.integrator = int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
        option.cone = int(mujoco.mjtCone.mjCONE_ELLIPTIC)
        add_table(spec)
        add_gripper(spec)
        for i in range(CUBES):
            cube = spec.worldbody.add_body(name=f"cube{i}")
            cube.add_freejoint(name=f"cube{i}")
            cube.add_geom(name=f"cube{i}", type=BOX, size=[EDGE[2] / 2] * 3, mass=0.1, contype=1, conaffinity=3)

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colors, cubes, lamp and camera into the model."""
        model = self.model
        half, mass = float(values["cube.size"]) / 2, float(values["cube.mass"])
        for i, color in enumerate(str(values["cube.colors"]).split("-")):
            geom, body, used = model.geom(f"cube{i}"), model.body(f"cube{i}"), i < float(values["cube.count"])
            geom.rgba[:] = [*OBJECT_COLORS[color], float(used)]
            geom.size[:], geom.rbound[:], model.geom_aabb[geom.id, 3:] = half, half * np.sqrt(3.0), half
            geom.friction[0] = float(values["cube.friction"])
            geom.contype[:], geom.conaffinity[:] = (1, 3) if used else (0, 0)
            model.body_gravcomp[body.id] = 0.0 if used else 1.0
            body.mass[:], body.inertia[:] = mass, mass * (2 * half) ** 2 / 6
        table, metal = np.array(FLOOR_COLORS[str(values["table.color"])]), np.array(WALL_COLORS[str(values["gripper.color"])])
        model.geom("table").rgba[:3] = table
        model.geom("shadow").rgba[:3] = 0.7 * table
        for name in ("left_rim", "right_rim", "back_rim", "front_rim"):
            model.geom(name).rgba[:3] = 0.8 * table
        model.geom("table").matid[:] = material_of(model, str(values["table.texture"]))
        model.geom("background").rgba[:3] = 0.85 * np.array(FLOOR_COLORS[str(values["background.color"])])
        for name in _GRIPPER_GEOMS:
            model.geom(name).rgba[:3] = metal + (0.15 if name in ("left", "right") else 0.0)
        for i in range(len(DISTRACTORS)):
            model.geom(f"distractor{i}").rgba[3] = float(i < float(values["distractor.count"]))
        azimuth = np.radians(float(values["light.azimuth"]))
        model.light("lamp").dir[:] = _unit(-np.array([np.cos(azimuth), np.sin(azimuth), 1.2]))
        model.light("lamp").diffuse[:] = float(values["light.brightness"])
        self._place_camera(np.radians(float(values["camera.azimuth"])), float(values["camera.distance"]))
        mujoco.mj_setConst(model, self._scratch)
        model.stat.extent = EXTENT  # which the line above has changed

    def _place_camera(self, azimuth: float, distance: float) -> None:
        """Turn the front camera about the table; it looks at the middle of what happens."""
        backward = _unit(np.array([np.sin(azimuth), -np.cos(azimuth), 0.8]))
        right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        camera = self.model.camera("front")
        camera.pos[:] = LOOK_AT + distance * backward
        mujoco.mju_mat2Quat(camera.quat, np.stack([right, np.cross(backward, right), backward], axis=1).ravel())

    # ---------------------------------------------------------------- Parts of the state

    @property
    def _half(self) -> float:
        return self.number("cube.size") / 2

    @property
    def _count(self) -> int:
        return int(self.number("cube.count"))

    @property
    def _colors(self) -> list[str]:
        """Colors of the cubes in use."""
        return str(self.variation["cube.colors"]).split("-")[: self._count]

    def _cubes(self, position: np.ndarray) -> np.ndarray:
        """Return the centers (k, 3) of the cubes in use."""
        return position[5:].reshape(CUBES, 7)[: self._count, :3]

    def _held(self, position: np.ndarray) -> int | None:
        return held_cube(position[:3], position[3:5], self._cubes(position), self._half)

    def _below(self, position: np.ndarray) -> dict[int, int]:
        """Map each cube to the cube that it lies on."""
        cubes, edge, below = self._cubes(position).tolist(), 2 * self._half, {}
        for (i, (x, y, z)), (j, other) in itertools.permutations(enumerate(cubes), 2):
            if abs(z - other[2] - edge) < CONTACT_DEPTH and math.hypot(x - other[0], y - other[1]) < OVERLAP * edge:
                below[i] = j
        held = self._held(position) if below else None
        return {i: j for i, j in below.items() if i != held}

    def scene_of(self, position: np.ndarray) -> Scene:
        """Return a configuration (nq,), as far as it is spoken of."""
        return Scene(
            hand=position[:3],
            closing=float(position[3:5].mean()),
            cubes=self._cubes(position),
            colors=self._colors,
            edge=2 * self._half,
            held=self._held(position),
            below=self._below(position),
        )

    def make_state(self, position: np.ndarray) -> np.ndarray:
        """Make the full state (n,) at rest; fingers around a cube squeeze it, others keep their place."""
        mujoco.mj_resetData(self.model, self._scratch)
        self._scratch.qpos[:] = position
        held = self._held(np.asarray(position)) is not None
        self._scratch.act[:] = OPENING if held else np.clip(position[3:5], 0.0, OPENING)
        return self._state_of(self._scratch)

    def control_of(self, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
        """Return the velocities of the hand and of the targets of both fingers."""
        return np.array([*(self.number("gripper.speed") * action[:3]), CLOSING_RATE * action[3], CLOSING_RATE * action[3]])

    # ---------------------------------------------------------------- Starts and goals

    def _rest(self, hand: np.ndarray, cubes: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Make a configuration with an open hand (3,), the cubes (k, 3) in use and their turns (k,) about the vertical."""
        free = np.zeros((CUBES, 7))
        free[:, :4] = [0.0, 0.0, UNUSED_HEIGHT, 1.0]
        free[: len(cubes), :3] = cubes
        free[: len(cubes), 3], free[: len(cubes), 6] = np.cos(turns / 2), np.sin(turns / 2)
        return np.concatenate([hand, [0.0, 0.0], free.ravel()])

    def _free_place(self, rng: np.random.Generator, others: np.ndarray) -> np.ndarray:
        """Sample a place (3,) on the table that is apart from other cubes (m, 3)."""
        while True:
            place = rng.uniform(-SAMPLED, SAMPLED)
            if (np.abs(others[:, :2] - place) > APART).any(axis=1).all():
                return np.array([*place, self._half])

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample cubes apart on the table, sometimes one on another or one in the gripper; the hand is somewhere above them."""
        half, cubes = self._half, np.empty((0, 3))
        for _ in range(self._count):
            cubes = np.vstack([cubes, self._free_place(rng, cubes)])
        hand = rng.uniform([*(-SAMPLED), 0.15], [*SAMPLED, 0.19])
        turns = rng.uniform(-0.2, 0.2, self._count)
        last, kind = int(rng.integers(self._count)), rng.random()
        if kind < HELD_SHARE:
            cubes[last], turns[last] = hand + [0.0, 0.0, GRASP_DEPTH * half], 0.0
        elif self._count > 1 and kind < HELD_SHARE + STACKED_SHARE:
            cubes[last] = cubes[last - 1] + [0.0, 0.0, 2 * half]
        position = self._rest(hand, cubes, turns)
        position[3:5] = OPENING - half if kind < HELD_SHARE else 0.0
        return position

    def sample_goal(self, rng: np.random.Generator, start: np.ndarray) -> np.ndarray:
        """Move one cube of the start elsewhere, on the table or on another cube; the hand ends empty and out of the way."""
        start = self.position_of(start)
        cubes, below, held = self._cubes(start), self._below(start), self._held(start)
        free = [i for i in range(len(cubes)) if i not in below.values()] if held is None else [held]
        quats = start[5:].reshape(CUBES, 7)[: len(cubes), 3:]
        turns = 2 * np.arctan2(quats[:, 3], quats[:, 0])
        hand = np.array([rng.uniform(-SAMPLED[0], SAMPLED[0]), REACH[1, 1], REACH[1, 2]])
        for _ in range(MAX_GOAL_TRIES):
            moved = free[int(rng.integers(len(free)))]
            others, goals = np.delete(cubes, moved, axis=0), cubes.copy()
            tops = [other for i, other in enumerate(cubes) if i != moved and other[2] < 2 * self._half and i not in below.values()]
            if tops and rng.random() < STACKED_GOAL_SHARE:
                goals[moved] = tops[int(rng.integers(len(tops)))] + [0.0, 0.0, 2 * self._half]
            else:
                goals[moved] = self._free_place(rng, others)
            goal = self._rest(hand, goals, turns)
            if self.distance_between(start, goal) >= self.min_goal_distance and self.invalid_reason(goal) is None:
                return self.make_state(goal)
        raise UserError(f"found no goal at least {self.min_goal_distance} away from the start {start.tolist()}")

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report a cube next to the table, below it or inside another cube, and a gripper out of its reach."""
        cubes, half = self._cubes(position), self._half
        for color, (x, y, z) in zip(self._colors, cubes, strict=True):
            if abs(x) > TABLE[0] - half + CONTACT_DEPTH or abs(y) > TABLE[1] - half + CONTACT_DEPTH:
                return f"the {color} cube would be beside the table at x={x:.3f}, y={y:.3f}"
            if z < half - CONTACT_DEPTH:
                return f"the {color} cube would be inside or under the table at z={z:.3f}"
        for i, j in itertools.combinations(range(len(cubes)), 2):
            if np.linalg.norm(cubes[i] - cubes[j]) < 2 * half - CONTACT_DEPTH:
                return f"the {self._colors[i]} cube would be inside the {self._colors[j]} cube"
        if (position[:3] < REACH[0] - CONTACT_DEPTH).any() or (position[:3] > REACH[1] + CONTACT_DEPTH).any():
            return f"the gripper would be out of its reach at {np.round(position[:3], 3).tolist()}"
        return None

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Compute the Euclidean distance of the cube that is farthest from its goal, in meters."""
        return float(np.linalg.norm(self._cubes(position) - self._cubes(goal), axis=1).max())

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return hand and fingers, and their velocities in units of a full action."""
        speeds = np.array([self.number("gripper.speed")] * 3 + [CLOSING_RATE] * 2)
        return np.concatenate([_scaled(position[:3]), 2 * position[3:5] / OPENING - 1, velocity[:5] / speeds])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return hand, closing and the centers of the cubes; an unused cube is at (0, 0, -1)."""
        cubes = np.tile([0.0, 0.0, -1.0], (CUBES, 1))
        cubes[: self._count] = _scaled(self._cubes(position))
        closing = 2 * position[3:5].mean() / OPENING - 1
        return np.clip([*_scaled(position[:3]), closing, *cubes.ravel()], -1.1, 1.1)

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that picks and places one cube after the other, at a speed and a height of its own."""
        speed, hover = float(rng.uniform(0.75, 1.0)), float(rng.uniform(0.012, 0.025))
        closing_at = 1 + self.model.nq + self.model.nv

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            state, values = info["state"], info["variation"]
            mover = Mover(values["cube.size"] / 2, values["gripper.speed"] * self.step_seconds, speed, hover)
            position, goals = self.position_of(state), self._cubes(self.position_of(info["goal_state"]))
            return mover.act(position[:3], position[3:5], float(state[closing_at]), self._cubes(position), goals)

        return policy


def _scaled(points: np.ndarray) -> np.ndarray:
    """Scale points (..., 3) over the table so that all that can be reached is in [-1, 1]."""
    return (points - [0.0, 0.0, 0.11]) / [0.27, 0.2, 0.12]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
