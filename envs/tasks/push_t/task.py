"""PushT: push a T-shaped block, seen from above, into the pose of the goal picture."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import PLANAR_AXES
from worldmodel.envs.angles import wrap
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import HANDLE, Recording
from worldmodel.envs.scenery import (
    BOX,
    CYLINDER,
    HINGE,
    PLANE,
    SEEN,
    SLIDE,
    SPHERE,
    add_pattern,
    add_slides,
    add_top_camera,
    material_of,
    set_planar_physics,
)
from worldmodel.envs.task import Observation, Policy
from worldmodel.envs.tasks.push_t.language import PushTLanguage
from worldmodel.envs.tasks.push_t.planning import BOXES, TURNING_RADIUS, Pusher, PushPlan, gaps, to_block
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value

PLACE_TOLERANCE, ANGLE_TOLERANCE = 0.1, np.pi / 9
"""The errors at which the distance to a goal is 1: arena units and rad."""
CONTACT_DEPTH = 0.03
"""How deep a contact may press block, disc and walls into each other."""
VELOCITY_GAIN = 20.0
"""Force per velocity error on a disc of mass 1: the velocity follows the command within 1/20 s."""
BLOCK_MASS = 0.2
HEIGHT = 0.06
"""Half the height of block and walls."""
RIM = 0.014
"""Width of the dark edge of block and disc."""
MARKS = 5
MARK_RADIUS = 0.14
_MARK_GRID = np.array([[x, y] for x in (-0.6, 0.0, 0.6) for y in (-0.6, 0.0, 0.6)])


class PushT(MujocoTask):
    """A disc pushes a T-shaped block to a pose.

    ## Description
    The arena is [-1, 1] x [-1, 1] with walls. The block's pose is the place of its center of mass and its angle,
    0 where the stem points down. It slides with viscous friction on the floor, without a preferred direction, so
    that it follows the force of a push and stops within 0.1 s of it. Start and goal have any angle and leave the disc
    room on all sides; they are at least 3 units of the distance below apart.

    ## Action Space
    `dx`, `dy` in [-1, 1]: wanted velocity of the disc; 1 moves it 0.1 in a step of 0.1 s (factor `pusher.speed`),
    less when it pushes (factor `block.friction`).

    ## Observation Space
    `pixels`; `proprio` = x, y of the disc, and its velocities divided by the speed of a full action.

    ## Rewards
    The negative distance of the block to its goal pose: the larger of the distance of the centers / 0.1 and the angle
    between them / (pi / 9). The goal picture shows the disc somewhere; it may be anywhere.

    ## Episode End
    Terminated within a distance of 1, that is 0.1 and 20 degrees; truncated after 200 steps.

    The task is that of Florence et al., "Implicit Behavioral Cloning" (2021), in the form that Chi et al., "Diffusion
    Policy" (2023), gave it.
    """

    action_axes = PLANAR_AXES
    language_class = PushTLanguage
    feature_names = ("block.x", "block.y", "block.cos", "block.sin", "pusher.x", "pusher.y")
    success_threshold = 1.0
    min_goal_distance = 3.0
    max_episode_steps = 200
    multisampling = 4  # angles below a pixel show
    recording = Recording(HANDLE)
    cameras = ("top", "tilted")
    factors = {
        "block.color": Factor("color of the block", "red", tuple(OBJECT_COLORS)),
        "block.size": Factor("size of the block; its bar is 0.56 long at size 1", 1.0, low=0.85, high=1.15),
        "block.friction": Factor("force that slides the block at speed 1", 4.0, low=2.0, high=8.0),
        "pusher.color": Factor("color of the disc", "slate", tuple(WALL_COLORS)),
        "pusher.radius": Factor("radius of the disc", 0.08, low=0.065, high=0.095),
        "pusher.speed": Factor("speed of a full action, per second", 1.0, low=0.8, high=1.3),
        "floor.color": Factor("color of the floor", "cream", tuple(FLOOR_COLORS)),
        "floor.pattern": Factor("pattern of the floor", "plain", ("plain", "checker", "stripes")),
        "floor.marks": Factor("number of a layout of flat marks on the floor; 0: no marks", 0.0, low=0, high=9999, integer=True),
        "wall.color": Factor("color of the walls", "slate", tuple(WALL_COLORS)),
        "background.color": Factor("color outside the walls", "gray", tuple(FLOOR_COLORS)),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "camera.extent": Factor("height of the picture in arena units", 2.3, low=2.2, high=2.6),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the floor with marks, walls, block on two slides and a hinge, disc on two slides, cameras."""
        set_planar_physics(spec, 0.01)
        rows, columns = np.indices((256, 256)) // 32 % 2
        for name, dark in (("checker", rows ^ columns), ("stripes", rows)):
            add_pattern(spec, name, np.where(dark, 226, 255))
        world = spec.worldbody
        # Touched: four planes that look inward. Seen: walls, and the floor on a ground that shows outside.
        for name, x, y in (("left", -1, 0), ("right", 1, 0), ("top", 0, 1), ("bottom", 0, -1)):
            world.add_geom(name=name, type=PLANE, size=[1, 1, 1], pos=[x, y, 0], zaxis=[-x, -y, 0], condim=1, group=3)
            half = [0.03 + abs(y), 0.03 + abs(x), HEIGHT]
            world.add_geom(name=f"wall_{name}", type=BOX, size=half, pos=[1.03 * x, 1.03 * y, 0], **SEEN)
        world.add_geom(name="floor", type=BOX, size=[1, 1, 0.01], pos=[0, 0, -HEIGHT - 0.02], **SEEN)
        for i in range(MARKS):
            world.add_geom(name=f"mark_{i}", type=CYLINDER, size=[MARK_RADIUS, 0.002, 0], pos=[0, 0, -HEIGHT - 0.005], **SEEN)
        world.add_geom(name="ground", type=BOX, size=[8, 8, 0.01], pos=[0, 0, -HEIGHT - 0.05], **SEEN)
        # The rims are the shape that is touched; plates of the bright color lie on top of them.
        block = world.add_body(name="block", explicitinertial=True, mass=BLOCK_MASS, ipos=[0, 0, 0], inertia=[0.01] * 3)
        # MuJoCo's collision bounds stay as compiled, so everything starts at its largest.
        for i, (x, y, *half) in enumerate(self.factors["block.size"].high * BOXES):
            block.add_geom(name=f"rim_{i}", type=BOX, size=[*half, HEIGHT], pos=[x, y, 0], condim=1)
            block.add_geom(name=f"plate_{i}", type=BOX, size=[0.1, 0.1, 0.004], **SEEN)
        pusher = world.add_body(name="pusher")
        # Touched: a sphere, which meets boxes like a disc but with analytic contacts. Seen: cylinders.
        pusher.add_geom(name="hull", type=SPHERE, size=[self.factors["pusher.radius"].high, 0, 0], mass=1.0, condim=1, group=3)
        pusher.add_geom(name="pusher_rim", type=CYLINDER, size=[0.08, HEIGHT, 0], mass=0.0, **SEEN)
        pusher.add_geom(name="pusher_plate", type=CYLINDER, size=[0.08, 0.004, 0], pos=[0, 0, HEIGHT], mass=0.0, **SEEN)
        add_slides(spec, pusher, VELOCITY_GAIN)
        for name, kind, axis in (("x", SLIDE, [1, 0, 0]), ("y", SLIDE, [0, 1, 0]), ("angle", HINGE, [0, 0, 1])):
            block.add_joint(name=f"block_{name}", type=kind, axis=axis)
        add_top_camera(spec, 2.3)
        world.add_camera(name="tilted", pos=[0, -2.1, 2.2], xyaxes=[1, 0, 0, 0, 0.74, 0.673], fovy=50)

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colors, sizes, friction, the floor, the light and the cameras into the model."""
        model = self.model
        floor = np.array(FLOOR_COLORS[str(values["floor.color"])])
        model.geom("floor").rgba[:3] = floor
        model.geom("ground").rgba[:3] = FLOOR_COLORS[str(values["background.color"])]
        model.geom("floor").matid[:] = material_of(model, str(values["floor.pattern"]))
        for name in ("left", "right", "top", "bottom"):
            model.geom(f"wall_{name}").rgba[:3] = WALL_COLORS[str(values["wall.color"])]
        self._lay_marks(marks_of(int(values["floor.marks"])), 0.84 * floor)
        self._shape_block(float(values["block.size"]), float(values["block.friction"]), OBJECT_COLORS[str(values["block.color"])])
        radius, color = float(values["pusher.radius"]), np.array(WALL_COLORS[str(values["pusher.color"])])
        for name, size, shade in (("hull", radius, color), ("pusher_rim", radius, 0.6 * color), ("pusher_plate", radius - RIM, color)):
            model.geom(name).size[0] = size
            model.geom(name).rbound[:] = 1.5 * radius if name != "hull" else radius
            model.geom(name).rgba[:3] = shade
        model.actuator_gainprm[:, 0] = VELOCITY_GAIN * float(values["pusher.speed"])
        model.vis.headlight.ambient[:] = float(values["light.brightness"])
        model.camera("top").fovy[:] = float(values["camera.extent"])
        mujoco.mj_setConst(model, self._scratch)

    def _lay_marks(self, places: np.ndarray, color: np.ndarray) -> None:
        for i in range(MARKS):
            geom = self.model.geom(f"mark_{i}")
            geom.rgba[:3], geom.rgba[3] = color, float(i < len(places))  # what is transparent is not drawn
            geom.pos[:2] = places[i] if i < len(places) else 0.0

    def _shape_block(self, size: float, friction: float, color: tuple[float, float, float]) -> None:
        model = self.model
        for i, (x, y, half_width, half_height) in enumerate(size * BOXES):
            rim, plate = model.geom(f"rim_{i}"), model.geom(f"plate_{i}")
            rim.pos[:2], rim.size[:2], rim.rgba[:3] = (x, y), (half_width, half_height), 0.6 * np.array(color)
            top = half_height + RIM if i else half_height  # the stem's plate reaches into the bar's
            plate.pos[:], plate.size[:2] = (x, y + top - half_height, HEIGHT), (half_width - RIM, top - RIM)
            plate.rgba[:3] = color
            for geom in (rim, plate):
                geom.rbound[:] = np.linalg.norm(geom.size) + RIM
        arm = (size * TURNING_RADIUS) ** 2
        model.body("block").inertia[:] = BLOCK_MASS * arm
        for name, damping in (("block_x", friction), ("block_y", friction), ("block_angle", friction * arm)):
            model.joint(name).damping[:] = damping

    @property
    def marks(self) -> np.ndarray:
        """Places (n, 2) of the marks on the floor in this episode."""
        return marks_of(int(self.number("floor.marks")))

    def _pusher(self) -> Pusher:
        return Pusher(self.number("block.size"), self.number("pusher.radius"))

    def gap(self, position: np.ndarray) -> float:
        """Compute the distance of the disc's center to the block, 0 inside."""
        return float(gaps(to_block(position[:3], position[None, 3:]), self.number("block.size")).min())

    def _reach(self, position: np.ndarray) -> float:
        """Compute the largest |x| or |y| of the block's corners."""
        return float(self._pusher().reach(position[:3]))

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample any angle, with room for the disc between block and walls; the disc anywhere clear of the block."""
        radius = self.number("pusher.radius")
        while True:
            pose = np.array([*rng.uniform(-0.55, 0.55, size=2), rng.uniform(-np.pi, np.pi)])
            position = np.concatenate([pose, rng.uniform(-0.98 + radius, 0.98 - radius, size=2)])
            if self._reach(position) < 0.97 - 2 * radius and self.gap(position) > radius + 0.02:
                return position

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report a block or disc outside the arena, or the disc inside the block."""
        x, y, _, disc_x, disc_y = position
        radius = self.number("pusher.radius")
        if self._reach(position) > 1.0 + CONTACT_DEPTH:
            return f"the block would be outside the arena at x={x:.3f}, y={y:.3f}"
        if max(abs(disc_x), abs(disc_y)) > 1.0 - radius + CONTACT_DEPTH:
            return f"the disc would be outside the arena at x={disc_x:.3f}, y={disc_y:.3f}"
        if self.gap(position) < radius - CONTACT_DEPTH:
            return f"the disc would be inside the block at x={disc_x:.3f}, y={disc_y:.3f}"
        return None

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the position of the disc, and its velocity in units of a full action."""
        return np.concatenate([position[3:], velocity[3:] / self.number("pusher.speed")])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the place of the block, cos and sin of its angle, and the place of the disc."""
        x, y, angle = position[:3]
        return np.array([x, y, np.cos(angle), np.sin(angle), *position[3:]])

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Return the larger of the block's errors of place and angle, in their tolerances."""
        away, turn = np.hypot(*(position - goal)[:2]), abs(wrap(position[2] - goal[2]))
        return float(max(away / PLACE_TOLERANCE, turn / ANGLE_TOLERANCE))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that pushes where that helps most, then goes around the block to the next place, at a speed of its own."""
        speed = float(rng.uniform(0.75, 1.0))
        lag = (1.0 - np.exp(-VELOCITY_GAIN * self.step_seconds)) / VELOCITY_GAIN
        plan = PushPlan(self._pusher(), (PLACE_TOLERANCE, ANGLE_TOLERANCE), rng)

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            position, goal = self.position_of(info["state"]), self.position_of(info["goal_state"])
            reach = info["variation"]["pusher.speed"] * self.step_seconds
            velocity = info["state"][1 + len(position) :][3 : len(position)]
            coasting = lag * velocity  # how far the disc would go if it were told to stop
            target = plan.target(position[:3], position[3:], goal[:3], speed * reach)
            return move_towards(position[3:] + coasting, target, reach * (1.0 - lag / self.step_seconds), speed)

        return policy


def marks_of(layout: int) -> np.ndarray:
    """Return places (n, 2) of the marks on the floor in a layout; none in layout 0, one to five in the others."""
    if layout == 0:
        return np.empty((0, 2))
    rng = np.random.default_rng(layout)
    places = rng.permutation(_MARK_GRID)[: 1 + layout % MARKS]
    return places + rng.uniform(-0.15, 0.15, places.shape)
