"""TwoRoom: move a disc, seen from above, through a door into the other room."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import PLANAR_AXES
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import Recording
from worldmodel.envs.scenery import BOX, CYLINDER, PLANE, SEEN, SPHERE, add_slides, add_top_camera, set_planar_physics
from worldmodel.envs.task import Observation, Policy
from worldmodel.envs.tasks.two_room.language import TwoRoomLanguage
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value

WALL_HALF = 0.05
SHADOW = 0.035
"""How far shadows reach down and to the right. They are drawn as flat geoms: cheaper than a shadow map."""
SHADOW_SHADE = 0.86
CONTACT_DEPTH = 0.04
"""How deep a contact may press the disc into a wall."""
VELOCITY_GAIN = 20.0
"""Force per velocity error on a disc of mass 1: the velocity follows the command within 1/20 s."""


class TwoRoom(MujocoTask):
    """A disc in two rooms that a door joins.

    ## Description
    The arena is [-1, 1] x [-1, 1]. A wall at x = 0 has one door. The disc pushes against walls and slides
    along them. Start and goal are uniform over the free space, at least 0.4 apart.

    ## Action Space
    `dx`, `dy` in [-1, 1]: wanted velocity; 1 moves the disc 0.15 in a step of 0.1 s (factor `disc.speed`).

    ## Observation Space
    `pixels`; `proprio` = x, y, and the velocities divided by the speed of a full action.

    ## Rewards
    The negative Euclidean distance of the disc to its goal position; the goal's velocity does not matter.

    ## Episode End
    Terminated within 0.15 of the goal; truncated after 50 steps.
    """

    action_axes = PLANAR_AXES
    language_class = TwoRoomLanguage
    feature_names = ("disc.x", "disc.y")
    success_threshold = 0.15
    min_goal_distance = 0.4
    multisampling = 4  # positions below a pixel show
    recording = Recording(variation=("disc.color",))
    cameras = ("top", "tilted")
    factors = {
        "disc.color": Factor("color of the disc", "red", tuple(OBJECT_COLORS)),
        "disc.radius": Factor("radius of the disc", 0.14, low=0.10, high=0.17),
        "disc.speed": Factor("speed of a full action, per second", 1.5, low=1.0, high=2.0),
        "floor.color": Factor("color of the floor", "cream", tuple(FLOOR_COLORS)),
        "wall.color": Factor("color of the walls", "slate", tuple(WALL_COLORS)),
        "door.position": Factor("y of the door's center", 0.0, low=-0.6, high=0.6),
        "door.width": Factor("width of the door", 0.5, low=0.42, high=0.7),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "camera.extent": Factor("height of the picture in arena units", 2.2, low=2.1, high=2.6),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the floor, bounds, wall with a door, disc on two slides, camera above."""
        set_planar_physics(spec, 0.01)
        world = spec.worldbody
        # Touched: the wall and four planes that look inward. Compiled at the largest extent that a factor can give them:
        # MuJoCo looks for contacts within the bounds it has compiled.
        for name, y in (("wall_top", 0.1), ("wall_bottom", -0.1)):
            world.add_geom(name=name, type=BOX, size=[WALL_HALF, 0.9, 0.3], pos=[0, y, 0])
            self._add_shadow(world, name, type=BOX, size=[WALL_HALF, 0.9, 0.01], pos=[0, y, 0])
        for name, x, y in (("left", -1, 0), ("right", 1, 0), ("top", 0, 1), ("bottom", 0, -1)):
            world.add_geom(name=name, type=PLANE, size=[1, 1, 1], pos=[x, y, 0], zaxis=[-x, -y, 0], group=3)
        # Seen: the floor lies on its own shade, and that on a ground in the color of the walls. This is the
        # order of drawing, so that the rasteriser skips what is hidden.
        for name, shift, half, z in (
            ("floor", SHADOW / 2, 1.0 - SHADOW / 2, -0.44),
            ("shade", 0.0, 1.0, -0.46),
            ("ground", 0.0, 3.0, -0.48),
        ):
            world.add_geom(name=name, type=BOX, size=[half, half, 0.01], pos=[shift, -shift, z], **SEEN)
        disc = world.add_body(name="disc")
        add_slides(spec, disc, VELOCITY_GAIN)
        # Touched: a sphere, which meets the walls like a disc but with analytic contacts. Seen: a cylinder.
        disc.add_geom(name="hull", type=SPHERE, size=[self.factors["disc.radius"].high, 0, 0], mass=1.0, condim=1, group=3)
        disc.add_geom(name="disc", type=CYLINDER, size=[0.14, 0.1, 0], mass=0.0, **SEEN)
        self._add_shadow(disc, "disc", type=CYLINDER, size=[0.14, 0.01, 0], pos=[0, 0, 0], mass=0.0)
        add_top_camera(spec, 2.2)
        world.add_camera(name="tilted", pos=[0, -2.2, 2.2], xyaxes=[1, 0, 0, 0, 0.75, 0.66], fovy=48)

    @staticmethod
    def _add_shadow(body: Any, name: str, pos: list[float], **geom: Any) -> None:
        """Add a dark copy on the floor, a little below and to the right: cheaper than a shadow map, and flat."""
        pos = [pos[0] + SHADOW, pos[1] - SHADOW, -0.425]
        body.add_geom(name=f"{name}_shadow", pos=pos, **SEEN, **geom)

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colors, sizes, the door, the light and the camera into the model."""
        model = self.model
        floor = np.array(FLOOR_COLORS[str(values["floor.color"])])
        model.geom_rgba[:, :3] = floor * SHADOW_SHADE
        model.geom("floor").rgba[:3] = floor
        model.geom("disc").rgba[:3] = OBJECT_COLORS[str(values["disc.color"])]
        for name in ("ground", "wall_top", "wall_bottom"):
            model.geom(name).rgba[:3] = WALL_COLORS[str(values["wall.color"])]
        for name in ("hull", "disc", "disc_shadow"):
            model.geom(name).size[0] = float(values["disc.radius"])
            model.geom(name).rbound[:] = 1.5 * float(values["disc.radius"])
        model.actuator_gainprm[:, 0] = VELOCITY_GAIN * float(values["disc.speed"])
        door, half_width = float(values["door.position"]), float(values["door.width"]) / 2
        for name, low, high in (
            ("wall_bottom", -1.0, door - half_width),
            ("wall_top", door + half_width, 1.0),
            ("wall_bottom_shadow", -1.0, door - half_width - SHADOW),
            ("wall_top_shadow", door + half_width - SHADOW, 1.0),
        ):
            geom = model.geom(name)
            geom.pos[1], geom.size[1] = (low + high) / 2, (high - low) / 2
            geom.rbound[:] = np.linalg.norm(geom.size)
        model.vis.headlight.ambient[:] = float(values["light.brightness"])
        model.camera("top").fovy[:] = float(values["camera.extent"])

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample uniformly from the points where the disc touches no wall."""
        radius = self.number("disc.radius")
        while True:
            point = rng.uniform(-1.0 + radius, 1.0 - radius, size=2)
            in_door = abs(point[1] - self.number("door.position")) < self.number("door.width") / 2 - radius
            if abs(point[0]) > WALL_HALF + radius or in_door:
                return point

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return position, and velocity in units of a full action."""
        return np.concatenate([position, velocity / self.number("disc.speed")])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the position of the disc."""
        return position.copy()

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report a disc outside the arena, or inside the wall."""
        x, y = position
        limit = 1.0 - self.number("disc.radius") + CONTACT_DEPTH
        if max(abs(x), abs(y)) > limit:
            return f"the disc would be outside the arena at x={x:.3f}, y={y:.3f}"
        to_edge = self.number("door.width") / 2 - abs(y - self.number("door.position"))
        gap = np.hypot(max(abs(x) - WALL_HALF, 0.0), max(to_edge, 0.0))  # from the center to the nearest piece of wall
        if gap < self.number("disc.radius") - CONTACT_DEPTH:
            return f"the disc would be inside the wall at x={x:.3f}, y={y:.3f}"
        return None

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Compute the Euclidean distance of the disc's positions."""
        return float(np.hypot(*(position - goal)))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that goes straight, by way of the door where the rooms differ, at a cruising speed of its own."""
        speed = float(rng.uniform(0.7, 1.0))

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            position, goal = self.position_of(info["state"]), self.position_of(info["goal_state"])
            values = info["variation"]
            slack = values["door.width"] / 2 - values["disc.radius"] + 0.02
            clearance = WALL_HALF + values["disc.radius"] + 0.02
            target = through_door(position, goal, values["door.position"], slack, clearance)
            return move_towards(position, target, values["disc.speed"] * self.step_seconds, speed)

        return policy


def through_door(position: np.ndarray, goal: np.ndarray, door_y: float, door_slack: float, clearance: float) -> np.ndarray:
    """Return the next way point (2,) toward a goal, in two rooms that a wall at x = 0 with one door divides.

    Args:
        position: (2,) now.
        goal: (2,) wanted in the end.
        door_y: Height of the door's center.
        door_slack: Distance from `door_y` within which the body fits through.
        clearance: Distance from the wall's plane at which the body is clear of it.
    """
    side = 1.0 if position[0] >= 0 else -1.0
    aligned, goal_aligned = (abs(point[1] - door_y) < door_slack for point in (position, goal))
    in_door = aligned and abs(position[0]) < clearance
    goal_in_door = goal_aligned and abs(goal[0]) < clearance
    if goal_in_door and aligned:
        return goal
    if not goal_in_door and side * goal[0] > 0:  # the same room: leave the door first, then go straight
        return np.array([side * 1.2 * clearance, position[1]]) if in_door else goal
    return np.array([(-side if aligned else side) * 1.2 * clearance, door_y])
