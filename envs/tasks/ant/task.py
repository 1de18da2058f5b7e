"""Ant: a four-legged robot, walks to the place of the goal picture."""

from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import Recording
from worldmodel.envs.scenery import material_of
from worldmodel.envs.task import Observation, Policy
from worldmodel.envs.tasks.ant.gait import CADENCE, LEG_SIDES, LEGS, trot
from worldmodel.envs.tasks.ant.language import AntLanguage
from worldmodel.envs.tasks.ant.scene import (
    ARENA,
    HIP_RANGE,
    HIPS,
    KNEE_MIDDLE,
    KNEE_RANGE,
    KNEE_SIGNS,
    KNEES,
    LEG_RADIUS,
    MARKS,
    PREFIX,
    SHIN,
    TORSO_MASS,
    TORSO_RADIUS,
    add_ant,
    add_arena,
    heading_of,
    joints_of,
    legs_of,
    rotation_of,
)
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value

ROOM = 2.45
"""Largest |x| and |y| of a sampled place: the feet clear the walls at any heading."""
STIFFNESS, DAMPING = 250.0, 8.0
"""Torque of the servos per angle and per angular velocity, N m; the stance sags by 1 to 2 degrees under the weight."""
CONTACT_DEPTH = 0.08
"""How deep a contact may press the ant into the floor or a wall, in meters."""
JOINT_SLACK = 1.5
"""Where a joint may be when something presses against its soft limits, in units of its range."""
LIGHT_ZENITH = np.radians(35.0)
CAMERA_DISTANCE = 16.0
_KEYS = ("aq", "de", "gt", "ju", "sw", "fr", "hy", "ki")


def _axes() -> Iterator[ActionAxis]:
    for leg, keys in zip(LEGS, _KEYS[:4], strict=True):
        verb = f"swing the {leg} leg"
        yield ActionAxis(f"{leg.replace(' ', '_')}_hip", (verb, "backward"), (verb, "forward"), (keys[0], keys[1]))
    for leg, keys in zip(LEGS, _KEYS[4:], strict=True):
        verb = f"move the {leg} foot"
        yield ActionAxis(f"{leg.replace(' ', '_')}_knee", (verb, "down"), (verb, "up"), (keys[0], keys[1]))


class Ant(MujocoTask):
    """The four-legged ant of gymnasium's assets in a walled square of 7 x 7 m.

    ## Description
    The ant has a head, so that one sees which way it faces (along its x axis, the direction that gymnasium's own
    task rewards). It starts at a random place and heading, on four feet. The goal is a place; in its picture the
    ant stands there, but how it stands does not matter. Start and goal are at least 2 m apart.

    ## Action Space
    Four hips, then four knees (front left, front right, back left, back right), in [-1, 1]: wanted joint angles,
    held by servos. A hip of 1 swings the leg 30 degrees forward, a knee of 1 lifts the foot by 20 degrees, and 0 is
    the stance. Gymnasium's ant has torque motors and very light legs with heavy rotors; here a torso of 4 kg on legs
    of 0.6 kg is moved by servos of 250 N m / rad (factor `joint.strength`) and at most 32 N m, so that scripted gaits
    walk steadily and wild actions seldom turn the ant over.

    ## Observation Space
    `pixels`; `proprio` (31) = place / 3.5 m, height in m, the torso's forward and up axes, hips and knees in units of
    the action, linear (m/s) and angular velocity / (2, 4), joint velocities / 8.

    ## Rewards
    The negative distance of the torso to the goal's place in meters, seen from above.

    ## Episode End
    Terminated within 0.4 m of the goal; truncated after 150 steps of 0.05 s.

    The ant comes from Schulman et al., 2016, "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation".
    """

    action_axes = tuple(_axes())
    language_class = AntLanguage
    feature_names = (
        *("torso.x", "torso.y", "torso.height", "forward.x", "forward.y", "up.z"),
        *(axis.name for axis in action_axes),
    )
    success_threshold = 0.4
    min_goal_distance = 2.0
    max_episode_steps = 150
    default_frame_skip = 5
    recording = Recording(
        {"demonstrator": 0.2, "play": 0.35, "noisy": 0.25, "smooth": 0.05, "random": 0.15}, max_steps=48, goal_offset=36, budget=75
    )  # only a gait walks: by chance the ant stays where it is
    cameras = ("room", "follow")
    factors = {
        "torso.color": Factor("color of torso and head", "red", tuple(OBJECT_COLORS)),
        "leg.color": Factor("color of the legs", "slate", tuple(WALL_COLORS)),
        "floor.color": Factor("color of the floor", "cream", tuple(FLOOR_COLORS)),
        "floor.pattern": Factor("pattern of the floor", "plain", ("plain", "checker", "stripes")),
        "wall.color": Factor("color of the walls", "teal", tuple(WALL_COLORS)),
        "background.color": Factor("color of the ground beyond the walls", "gray", tuple(FLOOR_COLORS)),
        "marks.number": Factor("number of flat marks painted on the floor", 2.0, low=0, high=MARKS, integer=True),
        "marks.layout": Factor("which places and colors the marks have", 0.0, low=0, high=9999, integer=True),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "light.direction": Factor("where the light comes from, rad counterclockwise from the right", 2.0, low=-3.1, high=3.1),
        "camera.elevation": Factor("angle of the camera's view below the horizontal, rad", 1.0, low=0.85, high=1.25),
        "camera.extent": Factor("height of the picture at the arena's center, meters", 7.6, low=7.4, high=8.6),
        "torso.mass": Factor("mass of the torso in kg", TORSO_MASS, low=2.5, high=6.0),
        "joint.strength": Factor("stiffness of the servos, 1 = 250 N m / rad", 1.0, low=0.7, high=1.4),
        "floor.friction": Factor("friction of the floor", 1.0, low=0.6, high=1.4),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the floor, walls, marks, a sun, the ant with its servos, a camera on the ceiling and one behind the ant."""
        spec.option.timestep = 0.01
        spec.option.integrator = int(mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
        quality = spec.visual.quality
        quality.numslices, quality.numstacks = 12, 6
        sun = {"type": int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL), "castshadow": True, "specular": [0.1] * 3}
        spec.worldbody.add_light(name="sun", pos=[0, 0, 6], **sun)
        spec.worldbody.add_camera(name="room")
        add_arena(spec)
        add_ant(spec)

    def control_of(self, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
        """Return the joint angles for hips and knees."""
        hips = LEG_SIDES * HIP_RANGE * action[:4]
        return np.concatenate([hips, KNEE_SIGNS * (KNEE_MIDDLE - KNEE_RANGE * action[4:])])

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colors, patterns, marks, light, camera, masses, servos and friction into the model."""
        model = self.model
        number = {name: float(value) for name, value in values.items() if not isinstance(value, str)}
        legs, walls = WALL_COLORS[str(values["leg.color"])], WALL_COLORS[str(values["wall.color"])]
        model.geom_rgba[model.geom_bodyid > 0, :3] = legs
        for name in (f"{PREFIX}torso_geom", "head"):
            model.geom(name).rgba[:3] = OBJECT_COLORS[str(values["torso.color"])]
        for name in ("left_eye", "right_eye"):
            model.geom(name).rgba[:3] = 1.0
        for name in ("left", "right", "far", "near"):
            model.geom(f"wall_{name}").rgba[:3] = walls
        model.geom("ground").rgba[:3] = FLOOR_COLORS[str(values["background.color"])]
        model.geom("floor").rgba[:3] = FLOOR_COLORS[str(values["floor.color"])]
        model.geom("floor").matid[:] = material_of(model, str(values["floor.pattern"]))
        self._place_marks(int(number["marks.number"]), int(number["marks.layout"]))
        sun, zenith, azimuth = model.light("sun"), LIGHT_ZENITH, number["light.direction"]
        sun.dir[:] = [-np.sin(zenith) * np.cos(azimuth), -np.sin(zenith) * np.sin(azimuth), -np.cos(zenith)]
        model.vis.headlight.ambient[:] = 0.5 * number["light.brightness"]
        sun.diffuse[:] = 0.5 / np.cos(zenith) * number["light.brightness"]
        camera, elevation = model.camera("room"), number["camera.elevation"]
        camera.pos[:] = [0.0, -CAMERA_DISTANCE * np.cos(elevation), CAMERA_DISTANCE * np.sin(elevation)]
        camera.quat[:] = [np.cos(np.pi / 4 - elevation / 2), np.sin(np.pi / 4 - elevation / 2), 0.0, 0.0]
        camera.fovy[:] = 2 * np.degrees(np.arctan(number["camera.extent"] / 2 / CAMERA_DISTANCE))
        torso = model.body(f"{PREFIX}torso")
        torso.mass[:], torso.inertia[:] = number["torso.mass"], 0.4 * number["torso.mass"] * TORSO_RADIUS**2
        mujoco.mj_setConst(model, self._scratch)
        model.actuator_gainprm[:, 0] = STIFFNESS * number["joint.strength"]
        model.actuator_biasprm[:, 1:3] = [-STIFFNESS * number["joint.strength"], -DAMPING]
        model.geom_friction[:, 0] = number["floor.friction"]

    def _place_marks(self, count: int, layout: int) -> None:
        """Put the first `count` marks at places and in pale colors that the number `layout` decides."""
        draws = np.random.default_rng(layout).random((MARKS, 3))
        colors = list(OBJECT_COLORS.values())
        for i, (x, y, hue) in enumerate(draws):
            mark = self.model.geom(f"mark_{i}")
            mark.pos[:] = [(2 * x - 1) * (ARENA - 0.6), (2 * y - 1) * (ARENA - 0.6), 0.0]
            mark.rgba[:3] = 0.5 + 0.5 * np.array(colors[int(hue * len(colors))])
            mark.rgba[3] = float(i < count)

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample a uniform place and heading; on four feet, with hips up to 20 degrees and knees up to 9 from the stance."""
        x, y, yaw = *rng.uniform(-ROOM, ROOM, 2), rng.uniform(-np.pi, np.pi)
        knee = KNEE_MIDDLE + rng.uniform(-0.15, 0.15)
        position = np.empty(self.model.nq)
        position[:7] = [x, y, SHIN * np.sin(knee) + LEG_RADIUS, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        position[HIPS] = rng.uniform(-0.35, 0.35, 4)
        position[KNEES] = KNEE_SIGNS * knee
        return position

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report an ant outside the walls, in the floor, or with a joint beyond its limits."""
        x, y, z = position[:3]
        if max(abs(x), abs(y)) > ARENA - TORSO_RADIUS + CONTACT_DEPTH:
            return f"the ant would be outside the arena at x={x:.3f}, y={y:.3f}"
        if abs(np.linalg.norm(position[3:7]) - 1.0) > 0.01:
            return f"the torso's orientation {position[3:7].tolist()} is no unit quaternion"
        knees, feet = legs_of(position)
        ends = np.concatenate([knees, feet])
        if np.abs(ends[:, :2]).max() > ARENA - LEG_RADIUS + CONTACT_DEPTH:
            return f"a leg would reach through a wall at x={x:.3f}, y={y:.3f}"
        if min(z - TORSO_RADIUS, ends[:, 2].min() - LEG_RADIUS) < -CONTACT_DEPTH:
            return f"the ant would be in the floor at a height of {z:.3f}"
        if np.abs(joints_of(position)).max() > JOINT_SLACK:
            return "a joint would be beyond its limits"
        return None

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return place, height, axes, joints, then velocities; see the class."""
        axes = rotation_of(position)
        joints, speeds = velocity[HIPS - 1], velocity[KNEES - 1]
        moving = [velocity[:3] / 2, velocity[3:6] / 4, LEG_SIDES * joints / 8, -KNEE_SIGNS * speeds / 8]
        return np.concatenate([position[:2] / ARENA, position[2:3], axes[:, 0], axes[:, 2], joints_of(position), *moving])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return place and height, heading, how upright the ant is, and joints in units of the action."""
        axes = rotation_of(position)
        body = [position[0] / ARENA, position[1] / ARENA, position[2], axes[0, 0], axes[1, 0], axes[2, 2]]
        return np.clip(np.concatenate([body, joints_of(position)]), -1.1, 1.1)

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Compute the Euclidean distance of the places, seen from above."""
        return float(np.hypot(*(position[:2] - goal[:2])))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that trots straight to the goal at a cadence of its own; the ant need not turn to do so."""
        cadence, phase = CADENCE * float(rng.uniform(0.93, 1.07)), float(rng.uniform(0.0, 2 * np.pi))

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            nonlocal phase
            phase += 2 * np.pi * cadence * self.step_seconds
            position = self.position_of(info["state"])
            right, away = (self.position_of(info["goal_state"]) - position)[:2]
            heading = np.arctan2(away, right) - heading_of(position)
            return trot(phase, np.array([np.cos(heading), np.sin(heading)]))

        return policy
