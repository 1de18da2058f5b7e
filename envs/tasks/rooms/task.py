"""Rooms: walk, seen through the eyes of the walker, through furnished rooms to the pose of the goal picture."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.angles import wrap
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import Recording
from worldmodel.envs.scenery import add_top_camera, set_planar_physics
from worldmodel.envs.task import MAX_GOAL_TRIES, Observation, Policy
from worldmodel.envs.tasks.rooms.language import RoomsLanguage
from worldmodel.envs.tasks.rooms.paths import CELL, Ground, ground_of, place_of
from worldmodel.envs.tasks.rooms.plans import HALF, MAX_PIECES, FloorPlan, plan_of
from worldmodel.envs.tasks.rooms.scene import MAX_PICTURES, PATTERNS, RADIUS, ROOM_COLORS, SKY_COLORS, add_body, add_flat, furnish
from worldmodel.envs.tasks.rooms.views import Eye
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value
from worldmodel.errors import UserError

CONTACT_DEPTH = 0.03
"""How deep a contact may press the body into a wall."""
CLEARANCE = 0.03
"""Least distance of a start or goal from everything."""
TURN_SPEED = 2.0
"""Yaw rate of a full action, rad per second."""
PLACE_TOLERANCE, TURN_TOLERANCE = 0.5, 0.35
"""Meters and radians that count as a distance of 1."""
MAX_WALK = 11.0
"""Longest way from start to goal, walked along the axes."""
MIN_VIEW = 0.8
"""Starts and goals look at least so far: the picture of a bare wall would not show where it is."""


class Rooms(MujocoTask):
    """A walker with a camera in a furnished flat of three to six rooms, whose plan is new in every episode.

    ## Description
    The flat is 8 m x 8 m. Every room has walls of its own color and is reached through doors. The body is an upright
    cylinder that slides along walls and furniture. Start and goal are poses, place and heading, at least 2 m apart, with a way
    of at most 11 m between them. `pose_of` returns the true pose, for trajectory errors in meters and radians.

    ## Action Space
    `dx` forward, `dy` to the left, `dyaw` counterclockwise in [-1, 1], in the frame of the body at the beginning of the step:
    wanted velocities. 1 moves it 0.16 m (factor `body.speed`) and turns it 0.2 rad in a step of 0.1 s.

    ## Observation Space
    `pixels`, the view of the walker; `proprio` = its velocities forward, to the left and counterclockwise, divided by those of
    a full action: odometry, not the pose.

    ## Rewards
    The negative distance of the pose to the goal's: the larger one of meters / 0.5 and radians / 0.35.

    ## Episode End
    Terminated at a distance of 1, that is within 0.5 m and 0.35 rad (20 degrees) of the goal; truncated after 150 steps.

    The setting is that of Navigation World Models (Bar et al., 2024, arXiv 2412.03572).
    """

    action_axes = (
        ActionAxis("dx", ("move", "backward"), ("move", "forward"), ("s", "w")),
        ActionAxis("dy", ("step", "right"), ("step", "left"), ("d", "a")),
        ActionAxis("dyaw", ("turn", "right"), ("turn", "left"), ("e", "q")),
    )
    language_class = RoomsLanguage
    feature_names = ("x", "y", "yaw.cos", "yaw.sin")
    success_threshold = 1.0
    min_goal_distance = 4.0
    max_episode_steps = 150
    recording = Recording()
    cameras = ("first_person", "top")
    factors = {
        "layout": Factor("number of the floor plan with its furniture", 0.0, low=0, high=99_999, integer=True, per_episode=True),
        "furniture.pieces": Factor("pieces of furniture, where there is room", 12.0, low=5, high=MAX_PIECES, integer=True),
        "door.width": Factor("width of the doors", 1.1, low=0.95, high=1.3),
        "wall.height": Factor("height of the walls", 1.5, low=1.2, high=1.9),
        "wall.wash": Factor("how much white is in the colors of the walls", 0.0, low=0.0, high=0.4),
        "wall.pictures": Factor("pictures on the walls, which nobody mentions", 3.0, low=0, high=MAX_PICTURES, integer=True),
        "floor.color": Factor("color of the floors", "cream", tuple(FLOOR_COLORS)),
        "floor.pattern": Factor("pattern of the floors", "checker", PATTERNS),
        "sky.color": Factor("what is above the walls", "day", tuple(SKY_COLORS)),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "light.warmth": Factor("color of the light, from blue to yellow", 0.0, low=-1.0, high=1.0),
        "light.direction": Factor("where the sun stands, rad from east", 0.9, low=0.3, high=1.3),
        "camera.height": Factor("height of the eye", 0.65, low=0.55, high=0.8),
        "camera.pitch": Factor("how far the eye looks up, degrees", -6.0, low=-14.0, high=2.0),
        "camera.view": Factor("angle of view, degrees", 84.0, low=76.0, high=92.0),
        "body.speed": Factor("speed of a full action, meters per second", 1.6, low=1.3, high=2.0),
        "body.lag": Factor("time in which the velocity follows the command, seconds", 0.06, low=0.04, high=0.2),
        **SENSOR_FACTORS,
    }

    # ---------------------------------------------------------------- Scene

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add pools of walls, floors and furniture, which `apply_variation` puts in place; the body; two lights."""
        set_planar_physics(spec, 0.01)
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)  # its tree would not know where the pools are
        spec.stat.extent, spec.stat.center = 8.0, [0.0, 0.0, 0.0]
        spec.visual.map.znear, spec.visual.map.zfar = 0.004, 100.0
        add_flat(spec)
        add_body(spec)
        world = spec.worldbody
        add_top_camera(spec, 2 * HALF + 0.2, height=6.0)
        spec.visual.headlight.ambient = [0.5] * 3
        for name in ("sun", "fill"):
            world.add_light(
                name=name, type=int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL), pos=[0, 0, 7], castshadow=name == "sun", specular=[0] * 3
            )

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Put the pools where the floor plan says; write colors, lights, the eye and the body into the model."""
        model, numbers = self.model, {name: float(value) for name, value in values.items() if not isinstance(value, str)}
        self.plan = _plan_of(values)
        furnish(model, self.plan, values)
        lag = numbers["body.lag"]
        model.actuator_gainprm[:, 0], model.actuator_biasprm[:, 2] = 1.0 / lag, -1.0 / lag
        pitch = np.radians(numbers["camera.pitch"])
        eye = model.camera("first_person")
        eye.pos[:] = 0, 0, numbers["camera.height"]
        eye.fovy[:] = numbers["camera.view"]
        mujoco.mju_mat2Quat(eye.quat, np.array([0, -np.sin(pitch), -np.cos(pitch), -1, 0, 0, 0, np.cos(pitch), -np.sin(pitch)]))
        self.eye = Eye(numbers["camera.height"], float(pitch), float(np.radians(numbers["camera.view"])))
        warmth = numbers["light.warmth"] * np.array([0.08, 0.0, -0.16])
        light = numbers["light.brightness"] * np.clip(1.0 + warmth, 0, 1.0)
        model.vis.headlight.ambient[:] = 0.6 * light
        angle = numbers["light.direction"]
        for name, turn, share, down in (("sun", angle, 0.42, 1.0), ("fill", angle + 3.6, 0.3, 0.4)):
            model.light(name).dir[:] = np.array([-np.cos(turn), -np.sin(turn), -down]) / np.hypot(1.0, down)
            model.light(name).diffuse[:] = share * light
        model.geom("sky").rgba[:3] = SKY_COLORS[str(values["sky.color"])]

    def control_of(self, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
        """Compute velocities in the frame of the world, for a command in that of the body as it is now."""
        speed, yaw = self.number("body.speed"), data.qpos[2]
        cos, sin = np.cos(yaw), np.sin(yaw)
        forward, left, turn = action
        return np.array([speed * (cos * forward - sin * left), speed * (sin * forward + cos * left), TURN_SPEED * turn])

    # ---------------------------------------------------------------- Poses

    def _ground(self) -> Ground:
        return ground_of(self.plan, RADIUS + 0.05)

    def pose_of(self, state: np.ndarray) -> tuple[float, float, float]:
        """Return the true pose in a full state (n,): x east and y north of the middle in meters, yaw from east in [-pi, pi) rad."""
        x, y, yaw = (float(value) for value in self.position_of(state))
        return x, y, float(wrap(yaw))

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample uniformly from the places that the body reaches and the headings that do not look at something very near."""
        ground = self._ground()
        while True:
            place = place_of(int(ground.cells[int(rng.integers(len(ground.cells)))])) + rng.uniform(-0.5, 0.5, 2) * CELL
            yaw = rng.uniform(-np.pi, np.pi)
            ahead = place + MIN_VIEW * np.array([np.cos(yaw), np.sin(yaw)])
            inside = max(abs(ahead)) < HALF
            if inside and self.plan.clearances(*ahead).min() > 0 and self.plan.clearances(*place).min() > RADIUS + CLEARANCE:
                return np.array([*place, yaw])

    def sample_goal(self, rng: np.random.Generator, start: np.ndarray) -> np.ndarray:
        """Sample a goal at least 2 m from the start and at most 11 m of way."""
        ground, start = self._ground(), self.position_of(start)
        steps = ground.steps_from(ground.cell_of(*start[:2]))
        for _ in range(MAX_GOAL_TRIES):
            goal = self.sample_position(rng)
            walk = steps[ground.cell_of(*goal[:2])] * CELL
            if np.hypot(*(goal - start)[:2]) >= self.min_goal_distance * PLACE_TOLERANCE and 0 < walk <= MAX_WALK:
                return self.make_state(goal)
        raise UserError(f"found no goal that can be reached from the start {start.tolist()}")

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report a body outside the flat, or inside a wall or a piece of furniture."""
        x, y = position[:2]
        if max(abs(x), abs(y)) > HALF:
            return f"the body would be outside the flat at x={x:.3f}, y={y:.3f}"
        gaps = self.plan.clearances(x, y)
        nearest = int(gaps.argmin())
        if gaps[nearest] < RADIUS - CONTACT_DEPTH:
            return f"the body would be inside {self.solid_name(nearest)} at x={x:.3f}, y={y:.3f}"
        return None

    def name_of(self, piece: int) -> str:
        """Name a piece, e.g. "red sofa"."""
        return f"{list(OBJECT_COLORS)[self.plan.pieces[piece].color]} {self.plan.pieces[piece].kind}"

    def solid_name(self, index: int) -> str:
        """Name one of the plan's solids, e.g. "the red sofa" or "a wall"."""
        piece = index - len(self.plan.walls)
        return "a wall" if piece < 0 else f"the {self.name_of(piece)}"

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return velocities in the frame of the body, in units of a full action."""
        cos, sin = np.cos(position[2]), np.sin(position[2])
        forward, left = cos * velocity[0] + sin * velocity[1], cos * velocity[1] - sin * velocity[0]
        return np.array([forward, left, 0.0]) / self.number("body.speed") + np.array([0.0, 0.0, velocity[2] / TURN_SPEED])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the place in units of half the flat, and cos and sin of the heading."""
        return np.array([position[0] / HALF, position[1] / HALF, np.cos(position[2]), np.sin(position[2])])

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Return the larger one of the distance / 0.5 m and the angle / 0.35 rad."""
        return float(max(np.hypot(*(goal - position)[:2]) / PLACE_TOLERANCE, abs(wrap(goal[2] - position[2])) / TURN_TOLERANCE))

    # ---------------------------------------------------------------- Demonstrator

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that walks a short way, looking where it goes, and turns at its end; at a speed of its own."""
        speed = float(rng.uniform(0.75, 1.0))
        corners: list[np.ndarray] = []
        last: np.ndarray | None = None

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            nonlocal corners, last
            position, goal = self.position_of(info["state"]), self.position_of(info["goal_state"])
            place, values = position[:2], info["variation"]
            moved = np.inf if last is None else np.hypot(*(place - last))
            lost = not corners or moved > 0.4 or not np.array_equal(corners[-1], goal[:2])
            if lost or (moved < 0.01 and np.hypot(*(corners[0] - place)) > 0.3):  # or stuck at a corner
                corners = self._ground().path(place, goal[:2])
            last = place.copy()
            while len(corners) > 1 and np.hypot(*(corners[0] - place)) < 0.15:
                corners.pop(0)
            away = corners[0] - place
            arrived = len(corners) == 1 and np.hypot(*away) < 0.3
            heading = wrap((goal[2] if arrived else np.arctan2(away[1], away[0])) - position[2])
            turn = np.clip(heading / (TURN_SPEED * self.step_seconds), -speed, speed)
            pace = speed if arrived or abs(heading) < 0.6 else 0.25 * speed
            step = move_towards(place, corners[0], float(values["body.speed"]) * self.step_seconds, pace)
            cos, sin = np.cos(position[2]), np.sin(position[2])
            return np.array([cos * step[0] + sin * step[1], cos * step[1] - sin * step[0], turn], np.float32)

        return policy


def _plan_of(values: dict[str, Value]) -> FloorPlan:
    return plan_of(int(values["layout"]), int(values["furniture.pieces"]), float(values["door.width"]), len(ROOM_COLORS))
