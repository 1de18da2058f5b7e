"""`MujocoTask`: what every world of the suite answers.

A task is a `gymnasium.Env` over MuJoCo physics whose goals are pictures and states. Its full physics state
can be read and restored bit for bit, and everything it says (captions, answers, success) is computed from it.

A concrete task fills in the class attributes and the small methods under "For a task to define".
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np
from gymnasium import spaces

from worldmodel.envs.action_text import coarse_actions
from worldmodel.envs.base import BaseTask, checked_state
from worldmodel.envs.contract import WHAT_IF_STEPS, Observation, Policy
from worldmodel.envs.language import episode_questions, make_questions
from worldmodel.envs.rendering import Renderer, apply_fast_preset, apply_full_preset
from worldmodel.envs.sensors import noisy_frame, noisy_proprio
from worldmodel.envs.variation import Value
from worldmodel.errors import UserError

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
MAX_GOAL_TRIES = 10_000


class MujocoTask(BaseTask):
    """Base class of all tasks.

    Observation: `pixels` uint8 (H, W, 3) and `proprio` float32 (p,) in [-PROPRIO_LIMIT, PROPRIO_LIMIT].
    Action: float32 (a,) in [-1, 1]. Reward: the negative distance to the goal. Terminated: at success.
    """

    feature_names: ClassVar[tuple[str, ...]]
    cameras: tuple[str, ...] = ("top",)
    default_frame_skip: ClassVar[int] = 10
    multisampling: ClassVar[int] = 0
    """Samples per pixel of the fast preset: 4 makes edges smooth and costs up to half of the speed."""
    restorable: ClassVar[bool] = True
    """Whether `set_state` restores the simulation bit for bit, so that an oracle can plan with it."""
    proprio_size: ClassVar[int]
    min_goal_distance: ClassVar[float]
    max_episode_steps: ClassVar[int] = 50

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
        self._set_drawing(render_mode, image_size, render_quality)
        if frame_skip is not None and frame_skip < 1:
            raise UserError(f"frame_skip={frame_skip}: expected at least 1")
        self.frame_skip = frame_skip or self.default_frame_skip
        self.camera = self._checked_camera(camera)

        spec = mujoco.MjSpec()
        apply_fast_preset(spec, self.multisampling)
        self.build(spec)
        if render_quality == "full":
            apply_full_preset(spec)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._scratch = mujoco.MjData(self.model)  # other states are looked at here, not in `data`
        self._renderer: Renderer | None = None
        self._frames: dict[str, np.ndarray] = {}  # camera -> frame of the current state
        self._state_size = mujoco.mj_stateSize(self.model, STATE)

        frame_shape, proprio_shape = (image_size, image_size, 3), (self.proprio_size,)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, frame_shape, np.uint8),
                "proprio": spaces.Box(-self.PROPRIO_LIMIT, self.PROPRIO_LIMIT, proprio_shape, np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)
        self.variation = {name: factor.default for name, factor in self.factors.items()}
        self.sampled = frozenset()
        self.apply_variation(self.variation)
        self._goal_state = self.get_state()
        self._goal_frame = np.zeros(frame_shape, np.uint8)

    @property
    def step_seconds(self) -> float:
        """Simulated time of one environment step."""
        return float(self.model.opt.timestep * self.frame_skip)

    def _number(self, factor: str) -> float:
        """Return the value of a factor in this episode."""
        return float(self.variation[factor])

    # ---------------------------------------------------------------- For a task to define

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add bodies, actuators and the cameras of `cameras` to an empty scene."""
        raise NotImplementedError

    def control_of(self, data: mujoco.MjData, action: np.ndarray) -> np.ndarray:
        """Return the actuators' control (nu,) for an action (a,), held for one environment step. By default the action."""
        return action

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write the value of every factor into `self.model`; nothing is recompiled."""
        raise NotImplementedError

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample a reachable configuration, float64 (nq,)."""
        raise NotImplementedError

    def sample_goal(self, rng: np.random.Generator, start: np.ndarray) -> np.ndarray:
        """Sample a goal configuration (nq,) that can be reached from the configuration `start` (nq,).

        By default any that is at least `min_goal_distance` away.
        """
        for _ in range(MAX_GOAL_TRIES):
            goal = self.sample_position(rng)
            if self.distance_between(start, goal) >= self.min_goal_distance:
                return goal
        raise UserError(f"found no goal at least {self.min_goal_distance} away from the start {start.tolist()}")

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Say why a configuration (nq,) cannot be a start or a goal, as the end of a sentence; None when it can.

        What contacts do is possible: a body may lie a few millimeters deep in another.
        """
        return None

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return what the body feels, (p,), from qpos (nq,) and qvel (nv,)."""
        raise NotImplementedError

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the variables a picture shows, (f,), about [-1, 1], from qpos (nq,)."""
        raise NotImplementedError

    def attributes_of(self, position: np.ndarray) -> dict[str, str]:
        """Return the true value of every attribute, from qpos (nq,) and `self.variation`."""
        raise NotImplementedError

    def captions_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write at least three phrasings of a caption, from the phrase of every attribute and qpos (nq,)."""
        raise NotImplementedError

    def goals_of(self, phrases: dict[str, str], position: np.ndarray) -> list[str]:
        """Write at least three phrasings of the instruction to reach a configuration qpos (nq,)."""
        raise NotImplementedError

    def change_of(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe what changed between two configurations (nq,), as a sentence, e.g. "the disc moved left"."""
        raise NotImplementedError

    def relation_questions(self, rng: np.random.Generator, position: np.ndarray) -> list[tuple[str, str]]:
        """Ask questions beyond the attributes: counts, relations. By construction, as many answers are yes as no."""
        return []

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Measure the distance of two configurations (nq,) in the units of `success_threshold`."""
        raise NotImplementedError

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a scripted policy that reaches `info["goal_state"]` by looking at `info["state"]`."""
        raise NotImplementedError

    # ---------------------------------------------------------------- Episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seeds `np_random`; with equal options, equal seeds give equal episodes.
            options: Any of `state` and `goal_state` (float64 (n,) from `get_state`; sampled when absent),
                `variation` (factors to sample, or "all") and `variation_values` (factor -> value).

        Raises:
            UserError: for an unknown option or factor, or a value that does not fit.
        """
        super().reset(seed=seed)
        options = options or {}
        self._draw_variation(options)
        self.apply_variation(self.variation)

        state, goal_state = self._given(options, "state"), self._given(options, "goal_state")
        if state is None:
            state = self.make_state(self.sample_position(self.np_random))
            while goal_state is not None and self.is_success(state, goal_state):
                state = self.make_state(self.sample_position(self.np_random))
        self.set_state(state)
        if goal_state is None:
            goal_state = self.make_state(self.sample_goal(self.np_random, self.position_of(state)))
        self._goal_state = goal_state
        self._goal_frame = self.render_state(self._goal_state)
        return self._observation(), self.info()

    def _given(self, options: Mapping[str, Any], name: str) -> np.ndarray | None:
        """Return the state that an option of `reset` holds, checked."""
        if options.get(name) is None:
            return None
        state = self._checked(options[name])
        reason = self.invalid_reason(self.position_of(state))
        if reason is not None:
            raise UserError(f"{name} cannot be reached: {reason}")
        return state

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action for `frame_skip` physics steps.

        Args:
            action: float (a,) in [-1, 1].

        Raises:
            UserError: if the action has another shape, is not finite or out of bounds.
        """
        self.advance(action)
        info = self.info()
        return self._observation(), *self.outcome(info), info

    def advance(self, action: np.ndarray) -> None:
        """Do the physics of `step` alone: renders nothing. Raises the same errors."""
        self._advance(self.data, self._checked_action(action))
        self._frames.clear()

    def outcome(self, info: dict[str, Any]) -> tuple[float, bool, bool]:
        """Return reward, terminated and truncated of the last action, as `step` does; draws nothing.

        Args:
            info: the info of the state that the action led to.
        """
        return -self.goal_distance(info["state"], self._goal_state), info["success"], False

    def _advance(self, data: mujoco.MjData, action: np.ndarray) -> None:
        data.ctrl[:] = self.control_of(data, action)
        mujoco.mj_step(self.model, data, self.frame_skip)
        _update_poses(self.model, data)

    def proprio(self) -> np.ndarray:
        """Return what the body feels now, float32 (p,)."""
        proprio = self.proprio_of(self.data.qpos, self.data.qvel)
        noise = float(self.variation.get("sensor.proprio_noise", 0.0))
        if noise:
            proprio = noisy_proprio(proprio, noise, self.get_state())
        return np.clip(proprio, -self.PROPRIO_LIMIT, self.PROPRIO_LIMIT).astype(np.float32)

    # ---------------------------------------------------------------- State

    def get_state(self) -> np.ndarray:
        """Return the full physics state, float64 (n,). It does not hold the factors of variation."""
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self.data, state, STATE)
        return state

    def set_state(self, state: np.ndarray) -> None:
        """Restore a state from `get_state` bit for bit.

        Raises:
            UserError: if the state has another length or is not finite.
        """
        self._restore(self.data, state)
        self._frames.clear()

    def make_state(self, position: np.ndarray) -> np.ndarray:
        """Make the full state (n,) at rest in the configuration `position` (nq,)."""
        mujoco.mj_resetData(self.model, self._scratch)
        self._scratch.qpos[:] = position
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self._scratch, state, STATE)
        return state

    def position_of(self, state: np.ndarray) -> np.ndarray:
        """Return the configuration qpos (nq,) inside a full state (n,), whose first number is the time."""
        return np.asarray(state)[1 : 1 + self.model.nq]

    def _checked(self, state: np.ndarray) -> np.ndarray:
        return checked_state(state, self._state_size)

    def _restore(self, data: mujoco.MjData, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, data, self._checked(state), STATE)
        _update_poses(self.model, data)

    # ---------------------------------------------------------------- Pictures

    def render(self, camera: str | None = None) -> np.ndarray:
        """Render the current frame, uint8 (H, W, 3), through a camera of `cameras`; the observation's by default."""
        camera = self._checked_camera(camera or self.camera)
        if camera not in self._frames:
            self._frames[camera] = self._draw(self.data, camera)
        return self._frames[camera].copy()

    def render_state(self, state: np.ndarray, camera: str | None = None) -> np.ndarray:
        """Render the frame of any state under the current variation, uint8 (H, W, 3). The current state stays."""
        self._restore(self._scratch, state)
        return self._draw(self._scratch, self._checked_camera(camera or self.camera))

    def _draw(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.image_size, fast=self.render_quality == "fast")
        frame = self._renderer.render(data, camera)
        noise = float(self.variation.get("sensor.pixel_noise", 0.0))
        if noise:
            state = np.empty(self._state_size)
            mujoco.mj_getState(self.model, data, state, STATE)
            frame = noisy_frame(frame, noise, state)
        return frame

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # ---------------------------------------------------------------- Goals and true variables

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        """Measure the distance of two full states (n,) in the units of `success_threshold`; velocities do not count."""
        return float(self.distance_between(self.position_of(state), self.position_of(goal_state)))

    def features(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return the physical variables that a probe should find in the picture, float32 (f,), about [-1, 1]."""
        return self.features_of(self._position(state)).astype(np.float32)

    def _position(self, state: np.ndarray | None) -> np.ndarray:
        return self.data.qpos if state is None else self.position_of(state)

    # ---------------------------------------------------------------- Language

    def captions(self, state: np.ndarray | None = None) -> list[str]:
        """Write several phrasings of what is true of a state; the first is `caption`."""
        position = self._position(state)
        return self.captions_of(self._phrases(position), position)

    def describe_goal(self, goal_state: np.ndarray | None = None) -> list[str]:
        """Write several phrasings of the instruction to reach a goal (the current one by default)."""
        position = self.position_of(self._goal_state if goal_state is None else goal_state)
        return self.goals_of(self._phrases(position), position)

    def describe_change(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe what changed from one full state (n,) to another, as a sentence."""
        return self.change_of(self.position_of(before), self.position_of(after))

    def _phrases(self, position: np.ndarray) -> dict[str, str]:
        truth = self.attributes_of(position)
        return {name: self.attributes[name].phrases[value] for name, value in truth.items()}

    def questions(self, rng: np.random.Generator, state: np.ndarray | None = None) -> list[tuple[str, str]]:
        """Make (question, answer) pairs about a state: attributes, relations, and what an action would do."""
        state = self.get_state() if state is None else state
        position = self.position_of(state)
        pairs = make_questions(rng, self.attributes, self.attributes_of(position))
        return [*pairs, *self.relation_questions(rng, position), self.what_if(rng, state)]

    def episode_questions(self, rng: np.random.Generator, states: np.ndarray) -> list[tuple[str, str]]:
        """Choose one (question, answer) per state of an episode (T+1, n), so that a blind guess scores chance.

        A yes/no question is asked of two states, of which one answers yes and the other no.
        """
        positions = [self.position_of(state) for state in states]
        truths = [self.attributes_of(position) for position in positions]

        def others(i: int) -> list[tuple[str, str]]:
            relations = self.relation_questions(rng, positions[i]) if rng.random() < 0.9 else []
            return relations or [self.what_if(rng, states[i])]  # the rarer, as it simulates

        return episode_questions(rng, self.attributes, truths, self.sampled, others)

    def what_if(self, rng: np.random.Generator, state: np.ndarray) -> tuple[str, str]:
        """Ask what a coarse action, held for two steps, would change, and answer by simulating it."""
        text, action = coarse_actions(self.action_axes)[int(rng.integers(1 + 2 * len(self.action_axes)))]
        self._restore(self._scratch, state)
        before = self._scratch.qpos.copy()
        for _ in range(WHAT_IF_STEPS):
            self._advance(self._scratch, action)
        return f"what happens if you {text}?", self.change_of(before, self._scratch.qpos.copy())


def _update_poses(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Bring the poses of bodies, camera and lights up to date with qpos; the integrator sees no change."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
