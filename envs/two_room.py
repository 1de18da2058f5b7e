"""TwoRoom: move a disc, seen from above, through a door into the other room."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.demonstrators import move_towards, through_door
from worldmodel.envs.language import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS, Attribute
from worldmodel.envs.task import MujocoTask, Observation, Policy
from worldmodel.envs.variation import Factor, Value

WALL_HALF = 0.05
WALL_HEIGHT = 0.3
STEP_SECONDS = 0.1
VELOCITY_GAIN = 20.0
"""Force per velocity error on a disc of mass 1: the velocity follows the command within 1/20 s."""


class TwoRoom(MujocoTask):
    """A disc in two rooms that a door joins.

    ## Description
    The arena is [-1, 1] x [-1, 1]. A wall at x = 0 has one door. The disc pushes against walls and slides along them. Start and
    goal are uniform over the free space, at least 0.4 apart.

    ## Action Space
    `dx`, `dy` in [-1, 1]: wanted velocity; 1 moves the disc 0.15 in a step of 0.1 s (factor `disc.speed`).

    ## Observation Space
    `pixels`; `proprio` = x, y, and the velocities divided by the speed of a full action.

    ## Rewards
    The negative Euclidean distance of the disc to its goal position; the goal's velocity does not matter.

    ## Episode End
    Terminated within 0.15 of the goal; truncated after 50 steps.
    """

    action_names = ("dx", "dy")
    feature_names = ("disc.x", "disc.y")
    proprio_size = 4
    success_threshold = 0.15
    attributes = {
        "color": Attribute({c: c for c in OBJECT_COLORS}, "what color is the disc?", "is the disc {}?"),
        "room": Attribute(
            {"left": "in the left room", "right": "in the right room", "door": "in the doorway"},
            "where is the disc: left, right or door?",
            "is the disc {}?",
        ),
        "height": Attribute(
            {"top": "near the top", "middle": "near the middle", "bottom": "near the bottom"},
            "how high is the disc: top, middle or bottom?",
            "is the disc {}?",
        ),
    }
    factors = {
        "disc.color": Factor("colour of the disc", "red", tuple(OBJECT_COLORS)),
        "disc.radius": Factor("radius of the disc", 0.14, low=0.10, high=0.17),
        "disc.speed": Factor("speed of a full action, per second", 1.5, low=1.0, high=2.0),
        "floor.color": Factor("colour of the floor", "cream", tuple(FLOOR_COLORS)),
        "wall.color": Factor("colour of the walls", "slate", tuple(WALL_COLORS)),
        "door.position": Factor("y of the door's centre", 0.0, low=-0.6, high=0.6),
        "door.width": Factor("width of the door", 0.5, low=0.42, high=0.7),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.6, high=1.0),
        "camera.extent": Factor("height of the picture in arena units", 2.2, low=2.1, high=2.6),
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Floor, frame, wall with a door, disc on two slides, camera above."""
        spec.option.timestep = 0.01
        spec.option.gravity = [0.0, 0.0, 0.0]
        spec.option.integrator = int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
        box, cylinder = int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_CYLINDER)
        world = spec.worldbody
        world.add_geom(name="floor", type=box, size=[2, 2, 0.05], pos=[0, 0, -0.4], contype=0, conaffinity=0)
        for name, x, y, half_x, half_y in (
            ("frame_left", -1.5, 0.0, 0.5, 2.0),
            ("frame_right", 1.5, 0.0, 0.5, 2.0),
            ("frame_top", 0.0, 1.5, 2.0, 0.5),
            ("frame_bottom", 0.0, -1.5, 2.0, 0.5),
            ("wall_top", 0.0, 0.5, WALL_HALF, 0.5),
            ("wall_bottom", 0.0, -0.5, WALL_HALF, 0.5),
        ):
            world.add_geom(name=name, type=box, size=[half_x, half_y, WALL_HEIGHT], pos=[x, y, 0])
        disc = world.add_body(name="disc")
        for name, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
            disc.add_joint(name=name, type=int(mujoco.mjtJoint.mjJNT_SLIDE), axis=axis)
            motor = spec.add_actuator(name=name, target=name, trntype=int(mujoco.mjtTrn.mjTRN_JOINT))
            motor.biastype = int(mujoco.mjtBias.mjBIAS_AFFINE)
            motor.biasprm[2] = -VELOCITY_GAIN
        # A sphere meets the walls exactly like a disc in the plane, with analytic contacts; the cylinder is what is seen.
        sphere = int(mujoco.mjtGeom.mjGEOM_SPHERE)
        disc.add_geom(name="hull", type=sphere, size=[0.14, 0, 0], mass=1.0, condim=1, group=3)
        disc.add_geom(name="disc", type=cylinder, size=[0.14, 0.1, 0], mass=0.0, contype=0, conaffinity=0)
        projection = int(mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC)
        world.add_camera(name="top", pos=[0, 0, 2], proj=projection, fovy=2.2)

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colours, sizes, the door, the light and the camera into the model."""
        model, number = self.model, {k: v for k, v in values.items() if isinstance(v, float)}
        walls = ("frame_left", "frame_right", "frame_top", "frame_bottom", "wall_top", "wall_bottom")
        model.geom("disc").rgba[:3] = OBJECT_COLORS[str(values["disc.color"])]
        model.geom("floor").rgba[:3] = FLOOR_COLORS[str(values["floor.color"])]
        for name in walls:
            model.geom(name).rgba[:3] = WALL_COLORS[str(values["wall.color"])]
        for name in ("hull", "disc"):
            model.geom(name).size[0] = number["disc.radius"]
            model.geom(name).rbound[:] = number["disc.radius"] * 1.5
        model.actuator_gainprm[:, 0] = VELOCITY_GAIN * number["disc.speed"]
        low = number["door.position"] - number["door.width"] / 2
        high = number["door.position"] + number["door.width"] / 2
        self._place_wall("wall_bottom", -1.0, low)
        self._place_wall("wall_top", high, 1.0)
        model.vis.headlight.ambient[:] = number["light.brightness"]
        model.cam_fovy[:] = number["camera.extent"]

    def _place_wall(self, name: str, low: float, high: float) -> None:
        geom = self.model.geom(name)
        geom.pos[1], geom.size[1] = (low + high) / 2, (high - low) / 2
        geom.rbound[:] = np.linalg.norm(geom.size)

    def _number(self, name: str) -> float:
        return float(self.variation[name])

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Uniform over the points where the disc touches no wall."""
        radius = self._number("disc.radius")
        while True:
            point = rng.uniform(-1.0 + radius, 1.0 - radius, size=2)
            in_door = abs(point[1] - self._number("door.position")) < self._number("door.width") / 2 - radius
            if abs(point[0]) > WALL_HALF + radius or in_door:
                return point

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """x, y and the velocities in units of a full action."""
        return np.concatenate([position, velocity / self._number("disc.speed")])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """x and y of the disc."""
        return position.copy()

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Colour; the room of the disc's centre, "door" within its radius of the wall's plane; which third of the height."""
        x, y = position
        room = "door" if abs(x) < self._number("disc.radius") else "left" if x < 0 else "right"
        height = "top" if y > 1 / 3 else "bottom" if y < -1 / 3 else "middle"
        return {"color": str(self.variation["disc.color"]), "room": room, "height": height}

    def caption_of(self, phrases: dict[str, str]) -> str:
        """E.g. "a red disc in the left room, near the top"."""
        article = "an" if phrases["color"][0] in "aeiou" else "a"
        return f"{article} {phrases['color']} disc {phrases['room']}, {phrases['height']}"

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Euclidean."""
        return float(np.hypot(*(position - goal)))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Goes straight, by way of the door where the rooms differ, at a cruising speed of its own."""
        speed = float(rng.uniform(0.7, 1.0))

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            position, goal = self.position_of(info["state"]), self.position_of(info["goal_state"])
            values = info["variation"]
            clearance = WALL_HALF + values["disc.radius"] + 0.02
            target = through_door(position, goal, values["door.position"], clearance)
            return move_towards(position, target, values["disc.speed"] * STEP_SECONDS, speed)

        return policy
