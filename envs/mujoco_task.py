"""`MujocoTask`: a task over MuJoCo physics, in a scene that it builds; the seven tasks of the suite are such.

Its full physics state can be read and restored bit for bit, and everything it says (captions, answers, success) is computed from it.
"""

from typing import ClassVar, Literal

import mujoco
import numpy as np

from worldmodel.envs.rendering import Renderer, apply_fast_preset, apply_full_preset, check_quality
from worldmodel.envs.task import Task
from worldmodel.errors import UserError

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class MujocoTask(Task):
    """Base class of tasks over MuJoCo; `position_of` a state is qpos.

    A task must give `action_axes`, `success_threshold` and `build`, `sample_position` and `distance_between`.
    """

    default_frame_skip: ClassVar[int] = 10
    multisampling: ClassVar[int] = 0
    """Samples per pixel of the fast preset: 4 makes edges smooth and costs up to half of the speed."""

    def __init__(
        self,
        render_mode: str = "rgb_array",
        image_size: int = 64,
        frame_skip: int | None = None,
        camera: str | None = None,
        render_quality: Literal["fast", "full"] = "fast",
    ) -> None:
        """Build the scene.

        Args:
            render_mode: Only "rgb_array".
            image_size: Height and width of a frame in pixels, 16 to 2048.
            frame_skip: Physics steps in one environment step; the task's own number by default.
            camera: The camera of the observation, one of `cameras`; the first one by default.
            render_quality: "fast", or "full" for MuJoCo's stock settings with shadows: 10 to 100 times slower
                on a CPU.

        Raises:
            UserError: for a value outside these.
        """
        if frame_skip is not None and frame_skip < 1:
            raise UserError(f"frame_skip={frame_skip}: expected at least 1")
        self.render_quality = check_quality(render_quality)
        self.frame_skip = frame_skip or self.default_frame_skip
        spec = mujoco.MjSpec()
        apply_fast_preset(spec, self.multisampling)
        self.build(spec)
        if render_quality == "full":
            apply_full_preset(spec)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._scratch = mujoco.MjData(self.model)  # other states are looked at here, not in `data`
        self._renderer: Renderer | None = None
        self._state_size = mujoco.mj_stateSize(self.model, STATE)
        self.step_seconds = float(self.model.opt.timestep * self.frame_skip)
        super().__init__(render_mode, image_size, camera)

    # ---------------------------------------------------------------- For a task to define

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add bodies, actuators and the cameras of `cameras` to an empty scene."""
        raise NotImplementedError

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample a reachable configuration, float64 (nq,)."""
        raise NotImplementedError

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Measure the distance of two configurations (nq,) in the units of `success_threshold`."""
        raise NotImplementedError

    # ---------------------------------------------------------------- For a task to define where the default does not do

    def control_of(self, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
        """Return the actuators' control (nu,) for an action (a,), held for one environment step. By default the action."""
        return action

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return what the body feels, (p,), from qpos (nq,) and qvel (nv,). By default both."""
        return np.concatenate([position, velocity])

    # ---------------------------------------------------------------- Physics

    def act(self, action: np.ndarray) -> None:
        """Simulate `frame_skip` physics steps under an action (a,)."""
        self._advance(self.data, action)

    def look_ahead(self, state: np.ndarray, action: np.ndarray, steps: int) -> np.ndarray:
        """Return the state (n,) that an action (a,), held for some steps, leads to from another one; the current state stays."""
        self._restore(self._scratch, state)
        for _ in range(steps):
            self._advance(self._scratch, action)
        return self._state_of(self._scratch)

    def _advance(self, data: mujoco.MjData, action: np.ndarray) -> None:
        data.ctrl[:] = self.control_of(data, action)
        mujoco.mj_step(self.model, data, self.frame_skip)
        _update_poses(self.model, data)

    def sense(self) -> np.ndarray:
        """Return what the body feels, by sensors without noise, (p,)."""
        return self.proprio_of(self.data.qpos, self.data.qvel)

    # ---------------------------------------------------------------- State

    def get_state(self) -> np.ndarray:
        """Return the full physics state, float64 (n,). It does not hold the factors of variation."""
        return self._state_of(self.data)

    def restore(self, state: np.ndarray) -> None:
        """Bring the simulation into a state (n,), bit for bit."""
        self._restore(self.data, state)

    def make_state(self, position: np.ndarray) -> np.ndarray:
        """Make the full state (n,) at rest in the configuration `position` (nq,)."""
        mujoco.mj_resetData(self.model, self._scratch)
        self._scratch.qpos[:] = position
        return self._state_of(self._scratch)

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """Sample a state (n,) at rest."""
        return self.make_state(self.sample_position(rng))

    def position_of(self, state: np.ndarray) -> np.ndarray:
        """Return the configuration qpos (nq,) inside a full state (n,), whose first number is the time."""
        return np.asarray(state)[1 : 1 + self.model.nq]

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        """Measure the distance of two full states (n,) in the units of `success_threshold`; velocities do not count."""
        return float(self.distance_between(self.position_of(state), self.position_of(goal_state)))

    def _state_of(self, data: mujoco.MjData) -> np.ndarray:
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, data, state, STATE)
        return state

    def _restore(self, data: mujoco.MjData, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, data, state, STATE)
        _update_poses(self.model, data)

    # ---------------------------------------------------------------- Pictures

    def draw(self, camera: str, state: np.ndarray | None = None) -> np.ndarray:
        """Draw a state (n,), the current one by default, through a camera: uint8 (image_size, image_size, 3)."""
        if state is not None:
            self._restore(self._scratch, state)
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.image_size, fast=self.render_quality == "fast")
        return self._renderer.render(self.data if state is None else self._scratch, camera)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _update_poses(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Bring the poses of bodies, camera and lights up to date with qpos; the integrator sees no change."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
