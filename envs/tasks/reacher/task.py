"""Reacher: bring a two-link arm, seen from above, into the pose of the goal picture."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.angles import wrap
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import Recording
from worldmodel.envs.scenery import BOX, CYLINDER, HINGE, SEEN, add_servo, add_top_camera, set_planar_physics
from worldmodel.envs.task import Observation, Policy
from worldmodel.envs.tasks.reacher.language import ReacherLanguage
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value

ELBOW_LIMIT = 2.6
VELOCITY_GAIN = 6.0
"""Torque per velocity error; the stretched arm, the slowest pose, follows a command within 1/20 s."""


class Reacher(MujocoTask):
    """An arm with a shoulder in the middle of the picture, an elbow and a hand.

    ## Description
    The shoulder turns without limit, the elbow from -2.6 to 2.6 rad. Start and goal poses are uniform and at
    least 0.6 rad apart. The goal is a pose of the whole arm, not a place of the hand.

    ## Action Space
    `shoulder`, `elbow` in [-1, 1]: wanted joint velocities; 1 turns a joint 0.2 rad in a step of 0.1 s
    (factor `arm.speed`).

    ## Observation Space
    `pixels`; `proprio` = cos and sin of the shoulder, elbow / 2.6, and both velocities divided by that of a
    full action.

    ## Rewards
    The negative distance of the pose to the goal's: Euclidean over the two angles in rad, the shoulder's
    taken the short way.

    ## Episode End
    Terminated within 0.2 rad of the goal; truncated after 50 steps.
    """

    action_axes = (
        ActionAxis("shoulder", ("turn the shoulder", "clockwise"), ("turn the shoulder", "counterclockwise"), ("d", "a")),
        ActionAxis("elbow", ("turn the elbow", "clockwise"), ("turn the elbow", "counterclockwise"), ("e", "q")),
    )
    language_class = ReacherLanguage
    feature_names = ("shoulder.cos", "shoulder.sin", "elbow.cos", "elbow.sin", "hand.x", "hand.y")
    success_threshold = 0.2
    min_goal_distance = 0.6
    multisampling = 4  # angles below a pixel show
    recording = Recording()
    cameras = ("top", "tilted")
    factors = {
        "arm.color": Factor("color of both links", "blue", tuple(OBJECT_COLORS)),
        "arm.thickness": Factor("half the width of the upper arm", 0.1, low=0.07, high=0.12),
        "arm.upper_length": Factor("length of the upper arm", 0.55, low=0.45, high=0.6),
        "arm.forearm_length": Factor("length of the forearm", 0.45, low=0.35, high=0.5),
        "arm.speed": Factor("speed of a full action, rad per second", 2.0, low=1.4, high=2.6),
        "joint.color": Factor("color of shoulder, elbow and hand", "slate", tuple(WALL_COLORS)),
        "floor.color": Factor("color of the floor", "cream", tuple(FLOOR_COLORS)),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "camera.extent": Factor("height of the picture in arena units", 2.3, low=2.3, high=2.8),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the floor, shoulder, two links drawn as flat bars with round ends, camera above."""
        set_planar_physics(spec, 0.01)
        world = spec.worldbody
        world.add_geom(name="floor", type=BOX, size=[2, 2, 0.05], pos=[0, 0, -0.4], **SEEN)
        upper = world.add_body(name="upper")
        forearm = upper.add_body(name="forearm", pos=[0.5, 0, 0.05])
        for name, body, radius, x, z in (
            ("upper_near", upper, 0.1, 0.0, 0.0),
            ("upper_far", upper, 0.1, 0.5, 0.0),
            ("shoulder", upper, 0.07, 0.0, 0.01),
            ("forearm_near", forearm, 0.1, 0.0, 0.0),
            ("forearm_far", forearm, 0.1, 0.5, 0.0),
            ("elbow", forearm, 0.045, 0.0, 0.01),
            ("hand", forearm, 0.1, 0.5, 0.01),
        ):
            body.add_geom(name=name, type=CYLINDER, size=[radius, 0.02, 0], pos=[x, 0, z], mass=0.02, **SEEN)
        for name, body in (("upper_bar", upper), ("forearm_bar", forearm)):
            body.add_geom(name=name, type=BOX, size=[0.25, 0.1, 0.02], pos=[0.25, 0, 0], mass=0.3, **SEEN)
        self._add_joint(spec, upper, "shoulder", limit=None)
        self._add_joint(spec, forearm, "elbow", limit=ELBOW_LIMIT)
        add_top_camera(spec, 2.3)
        world.add_camera(name="tilted", pos=[0, -2.2, 2.2], xyaxes=[1, 0, 0, 0, 0.75, 0.66], fovy=48)

    @staticmethod
    def _add_joint(spec: mujoco.MjSpec, body: Any, name: str, limit: float | None) -> None:
        joint = body.add_joint(name=name, type=HINGE, axis=[0, 0, 1], armature=0.05)
        if limit is not None:
            joint.limited, joint.range = int(mujoco.mjtLimited.mjLIMITED_TRUE), np.degrees([-limit, limit])
        add_servo(spec, name, [0.0, 0.0, -VELOCITY_GAIN])

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write colors, lengths, the light and the camera into the model; masses stay as they are."""
        model = self.model
        arm, joint = OBJECT_COLORS[str(values["arm.color"])], WALL_COLORS[str(values["joint.color"])]
        thickness = float(values["arm.thickness"])
        for bar, half_width, length in (
            ("upper", thickness, float(values["arm.upper_length"])),
            ("forearm", 0.7 * thickness, float(values["arm.forearm_length"])),
        ):
            model.geom(f"{bar}_bar").size[:2] = length / 2, half_width
            model.geom(f"{bar}_bar").pos[0] = length / 2
            model.geom(f"{bar}_far").pos[0] = length
            model.geom(f"{bar}_near").size[0] = model.geom(f"{bar}_far").size[0] = half_width
            for part in ("bar", "near", "far"):
                model.geom(f"{bar}_{part}").rgba[:3] = arm
        model.body("forearm").pos[0] = float(values["arm.upper_length"])
        model.geom("hand").pos[0] = float(values["arm.forearm_length"])
        for name in ("shoulder", "elbow", "hand"):
            model.geom(name).rgba[:3] = joint
        model.geom("floor").rgba[:3] = FLOOR_COLORS[str(values["floor.color"])]
        model.actuator_gainprm[:, 0] = VELOCITY_GAIN * float(values["arm.speed"])
        model.vis.headlight.ambient[:] = float(values["light.brightness"])
        model.camera("top").fovy[:] = float(values["camera.extent"])

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample uniform angles, the elbow clear of its limits."""
        return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(-1.0, 1.0) * (ELBOW_LIMIT - 0.1)])

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return cos and sin of the shoulder, scaled elbow, velocities in units of a full action."""
        shoulder, elbow = position
        angles = [np.cos(shoulder), np.sin(shoulder), elbow / ELBOW_LIMIT]
        return np.concatenate([angles, velocity / float(self.variation["arm.speed"])])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return cos and sin of both angles, and the place of the hand."""
        shoulder, elbow = position
        angles = [np.cos(shoulder), np.sin(shoulder), np.cos(elbow), np.sin(elbow)]
        return np.concatenate([angles, self.hand_of(position)])

    def hand_of(self, position: np.ndarray) -> np.ndarray:
        """Compute the place of the hand (2,) in arena units, from the two angles (2,)."""
        lengths = np.array([self.variation["arm.upper_length"], self.variation["arm.forearm_length"]], float)
        directions = np.cumsum(position)
        return np.array([lengths @ np.cos(directions), lengths @ np.sin(directions)])

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report an elbow beyond its limits."""
        if abs(position[1]) > ELBOW_LIMIT + 0.1:
            return f"the elbow cannot bend to {position[1]:.3f} rad, its limits are -{ELBOW_LIMIT} and {ELBOW_LIMIT}"
        return None

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Compute the Euclidean distance over the angles in rad."""
        return float(np.linalg.norm(_turn(position, goal)))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that turns both joints straight to the goal, the shoulder the short way, at a speed of its own."""
        speed = float(rng.uniform(0.7, 1.0))

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            turn = _turn(self.position_of(info["state"]), self.position_of(info["goal_state"]))
            return move_towards(np.zeros(2), turn, info["variation"]["arm.speed"] * self.step_seconds, speed)

        return policy


def _turn(position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Compute the angles (2,) from a pose to a goal: the shoulder's in [-pi, pi); the elbow cannot turn round."""
    turn = goal - position
    turn[0] = wrap(turn[0])
    return turn
