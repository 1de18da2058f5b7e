"""`Task`: what collection, training and planning ask of a world, nearly all of which follows from a few methods.

A task of your own derives from it (docs/howto/task.md), or from `MujocoTask`, which does the same over a scene of MuJoCo's. An
environment that knows nothing of it comes in through `adapter/`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.action_text import ActionAxis, ActionForm, describe_action, parse_action
from worldmodel.envs.coordinate_language import CoordinateLanguage
from worldmodel.envs.language import Language
from worldmodel.envs.recording import BLIND, Recording
from worldmodel.envs.sensors import noisy_frame, noisy_proprio
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value, resolve
from worldmodel.errors import UserError

Observation = dict[str, np.ndarray]
Policy = Callable[[Observation, dict[str, Any]], np.ndarray]

RESET_OPTIONS = ("state", "goal_state", "variation", "variation_values")
MAX_GOAL_TRIES = 10_000
_BOUND_TOLERANCE = 1e-6


class Task(gymnasium.Env[Any, np.ndarray]):
    """A gymnasium environment whose state can be read and set, with goals that are states and frames.

    A task must give `action_axes`, `success_threshold` and the methods under "For a task to define". The rest has defaults.

    Observation: `pixels` uint8 (H, W, 3) and `proprio` float32 (p,) in [-PROPRIO_LIMIT, PROPRIO_LIMIT].
    Action: float32 (a,) in [-1, 1]. Reward: the negative distance to the goal. Terminated: at success.
    `info` always holds `state` float64 (n,), `success` bool, `caption` str, `goal` uint8 (H, W, 3), `goal_state` float64 (n,),
    `features` float32 (f,) and `variation` (factor -> value).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    PROPRIO_LIMIT: ClassVar[float] = 3.0
    language_class: ClassVar[type[Language]] = CoordinateLanguage
    """What says what is true of a state."""
    env_id: str | None = None
    """The id that `make_task` has made it by."""
    action_axes: tuple[ActionAxis, ...]
    success_threshold: float
    """Distance to the goal at which it is reached."""
    min_goal_distance: float = 0.0
    """Distance that a sampled goal has from the start, at least."""
    max_episode_steps: int = 50
    step_seconds: float = 0.1
    """Simulated time of one environment step."""
    restorable: bool = True
    """Whether `set_state` restores the simulation bit for bit, so that an oracle can plan with it."""
    cameras: tuple[str, ...] = ("top",)
    """Names of the cameras; the first one takes the observation."""
    feature_names: tuple[str, ...] = ()
    """Names of `features`; numbered by default."""
    proprio_size: int
    """Numbers of `proprio`."""
    factors: Mapping[str, Factor] = SENSOR_FACTORS
    recording: Recording = Recording(BLIND, min_distance=2.0)
    """How the task is best recorded, and which problems are worth asking about it."""
    variation: dict[str, Value]
    """Factor -> value in this episode."""
    sampled: frozenset[str]
    """The factors that `reset` was asked to sample."""
    finished: bool = False
    """Whether the world has ended its episode and cannot go on."""

    def __init__(self, render_mode: str = "rgb_array", image_size: int = 64, camera: str | None = None) -> None:
        """Prepare the first episode; `get_state` must give a state by now.

        Args:
            render_mode: Only "rgb_array".
            image_size: Height and width of a frame in pixels, 16 to 2048.
            camera: The camera of the observation, one of `cameras`; the first one by default.

        Raises:
            UserError: for a value outside these.
        """
        if render_mode != "rgb_array":
            raise UserError(f"render_mode={render_mode!r}: expected 'rgb_array'")
        if not 16 <= image_size <= 2048:
            raise UserError(f"image_size={image_size}: expected 16 to 2048 pixels")
        self.render_mode, self.image_size, self.camera = render_mode, image_size, self._checked_camera(camera)
        self._frames: dict[str, np.ndarray] = {}  # camera -> frame of the current state
        self.variation, self.sampled = {name: factor.default for name, factor in self.factors.items()}, frozenset()
        self.apply_variation(self.variation)
        self._goal_state, self._goal_frame = self.get_state(), np.zeros((image_size, image_size, 3), np.uint8)
        self.proprio_size = len(self.sense())
        self.feature_names = self.feature_names or tuple(f"feature {i}" for i in range(len(self.features())))
        limit = self.PROPRIO_LIMIT
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, self._goal_frame.shape, np.uint8),
                "proprio": spaces.Box(-limit, limit, (self.proprio_size,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.action_axes),), np.float32)

    # ---------------------------------------------------------------- For a task to define

    def get_state(self) -> np.ndarray:
        """Return the whole state, a new float64 (n,). It does not hold the factors of variation."""
        raise NotImplementedError

    def restore(self, state: np.ndarray) -> None:
        """Bring the simulation into a state (n,) from `get_state`, bit for bit."""
        raise NotImplementedError

    def act(self, action: np.ndarray) -> None:
        """Simulate one environment step under an action, float64 (a,) in [-1, 1]."""
        raise NotImplementedError

    def draw(self, camera: str, state: np.ndarray | None = None) -> np.ndarray:
        """Draw a state (n,), the current one by default, through a camera: uint8 (image_size, image_size, 3).

        The current state stays.
        """
        raise NotImplementedError

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """Sample a state (n,) to start in, or to be a goal."""
        raise NotImplementedError

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        """Measure the distance of two states (n,) in the units of `success_threshold`; velocities do not count."""
        raise NotImplementedError

    # ---------------------------------------------------------------- For a task to define where the default does not do

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Bring the value of every factor into the simulation; by default there are only those of the sensors."""

    def sample_goal(self, rng: np.random.Generator, start: np.ndarray) -> np.ndarray:
        """Sample a goal state (n,) that can be reached from a state (n,).

        By default any that is at least `min_goal_distance` away, and is not reached already.
        """
        for _ in range(MAX_GOAL_TRIES):
            goal = self.sample_state(rng)
            if self.goal_distance(start, goal) >= self.min_goal_distance and not self.is_success(start, goal):
                return goal
        raise UserError(f"found no goal at least {self.min_goal_distance} away from the start {self.position_of(start).tolist()}")

    def position_of(self, state: np.ndarray) -> np.ndarray:
        """Return what of a state (n,) is a place: all but the velocities."""
        return np.asarray(state)

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Say why a configuration (`position_of`) cannot be a start or a goal, as the end of a sentence; None when it can.

        What contacts do is possible: a body may lie a few millimeters deep in another.
        """
        return None

    def sense(self) -> np.ndarray:
        """Return what the body feels, by sensors without noise, (p,); by default the state."""
        return self.get_state()

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the variables that a picture shows, (f,), about [-1, 1], from a configuration; by default the configuration."""
        return position

    def coordinates(self, state: np.ndarray) -> dict[str, float]:
        """Name the numbers of a state that `CoordinateLanguage` speaks of; by default its features."""
        return dict(zip(self.feature_names, self.features(state).tolist(), strict=True))

    def speed(self, state: np.ndarray) -> float | None:
        """Return the root mean square of the velocities in a state; None where none are known."""
        return None

    def look_ahead(self, state: np.ndarray, action: np.ndarray, steps: int) -> np.ndarray:
        """Return the state (n,) that an action (a,), held for some steps, leads to from another one; the current state stays."""
        current = self.get_state()
        self.restore(state)
        for _ in range(steps):
            self.act(action)
        after = self.get_state()
        self.restore(current)
        return after

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a scripted policy that reaches `info["goal_state"]` by looking at `info["state"]`.

        Raises:
            UserError: the task has none.
        """
        raise UserError(
            f"{self.name} has no demonstrator, so the policies demonstrator, noisy and play cannot act in it: give "
            "--policies that can, such as random, smooth or sb3:<file>"
        )

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
        state, goal_state = self._begin(seed, options or {})
        if state is None:
            state = self.sample_state(self.np_random)
            while goal_state is not None and self.is_success(state, goal_state):
                state = self.sample_state(self.np_random)
        self.set_state(state)
        self._goal_state = self.sample_goal(self.np_random, state) if goal_state is None else goal_state
        self._goal_frame = self.render_state(self._goal_state)
        return self._observation(), self.info()

    def _begin(self, seed: int | None, options: Mapping[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Seed, and apply the factors that the options of `reset` decide; return the start and the goal that they give.

        Raises:
            UserError: for an unknown option or factor, or a value that does not fit.
        """
        super().reset(seed=seed)
        unknown = sorted(set(options) - set(RESET_OPTIONS))
        if unknown:
            raise UserError(f"unknown reset option {unknown[0]!r}: known are {', '.join(RESET_OPTIONS)}")
        variation, values = options.get("variation", ()), options.get("variation_values", {})
        self.variation = resolve(self.factors, variation, values, self.np_random)
        self.sampled = frozenset(self.factors if "all" in variation else variation)
        self.apply_variation(self.variation)
        self._frames.clear()
        return self._given(options, "state"), self._given(options, "goal_state")

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
        """Apply an action, float (a,) in [-1, 1].

        Raises:
            UserError: if the action has another shape, is not finite or out of bounds.
        """
        self.advance(action)
        info = self.info()
        return self._observation(), *self.outcome(info), info

    def advance(self, action: np.ndarray) -> None:
        """Do the physics of `step` alone: draws nothing. Raises the same errors."""
        self.act(self._checked_action(action))
        self._frames.clear()

    def outcome(self, info: dict[str, Any]) -> tuple[float, bool, bool]:
        """Return reward, terminated and truncated of the last action, as `step` does; draws nothing.

        Args:
            info: the info of the state that the action led to.
        """
        return -self.goal_distance(info["state"], self._goal_state), info["success"], False

    def info(self) -> dict[str, Any]:
        """Return the `info` of `step` for the current state; draws nothing."""
        state = self.get_state()
        return {
            "state": state,
            "success": self.is_success(state, self._goal_state),
            "caption": self.language.caption(state),
            "goal": self._goal_frame.copy(),
            "goal_state": self._goal_state.copy(),
            "features": self.features(state),
            "variation": dict(self.variation),
        }

    def proprio(self) -> np.ndarray:
        """Return what the body feels now, float32 (p,)."""
        proprio = self.sense()
        noise = self.number("sensor.proprio_noise")
        if noise:
            proprio = noisy_proprio(proprio, noise, self.get_state())
        return np.clip(proprio, -self.PROPRIO_LIMIT, self.PROPRIO_LIMIT).astype(np.float32)

    @property
    def name(self) -> str:
        """The id that the task was made by, or else the name of its class."""
        return self.env_id or type(self).__name__

    def number(self, factor: str) -> float:
        """Return the value of a factor in this episode; 0 for one that the task does not have."""
        return float(self.variation.get(factor, 0.0))

    def _observation(self) -> Observation:
        return {"pixels": self.render(), "proprio": self.proprio()}

    # ---------------------------------------------------------------- States, goals and pictures

    @property
    def goal_state(self) -> np.ndarray:
        """The goal of this episode, float64 (n,)."""
        return self._goal_state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Restore a state from `get_state`.

        Raises:
            UserError: if the state has another length or is not finite, or this world cannot be set to a state.
        """
        self.restore(self._checked(state))
        self._frames.clear()

    def features(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return the variables that a probe should find in the picture of a state (the current one by default), float32 (f,)."""
        return np.asarray(self.features_of(self.position_of(self.get_state() if state is None else state)), np.float32)

    def is_success(self, state: np.ndarray, goal_state: np.ndarray) -> bool:
        """Test whether `state` is within `success_threshold` of `goal_state`."""
        return self.goal_distance(state, goal_state) <= self.success_threshold

    def render(self, camera: str | None = None) -> np.ndarray:
        """Render the current frame, uint8 (H, W, 3), through a camera of `cameras`; the observation's by default."""
        camera = self._checked_camera(camera or self.camera)
        if camera not in self._frames:
            self._frames[camera] = self._seen(self.draw(camera), None)
        return self._frames[camera].copy()

    def render_state(self, state: np.ndarray, camera: str | None = None) -> np.ndarray:
        """Render the frame of any state under the current variation, uint8 (H, W, 3). The current state stays."""
        state = self._checked(state)
        return self._seen(self.draw(self._checked_camera(camera or self.camera), state), state)

    def _seen(self, frame: np.ndarray, state: np.ndarray | None) -> np.ndarray:
        """Add the noise of the sensor, which a state (the current one by default) decides."""
        noise = self.number("sensor.pixel_noise")
        return noisy_frame(frame, noise, self.get_state() if state is None else state) if noise else frame

    # ---------------------------------------------------------------- Words

    @property
    def language(self) -> Language:
        """What says what is true of states."""
        return self.language_class(self)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the components of an action."""
        return tuple(axis.name for axis in self.action_axes)

    def describe_action(self, action: np.ndarray, form: ActionForm = "exact") -> str:
        """Write the action (a,) as text.

        Args:
            action: Components in [-1, 1].
            form: "exact" (`action: dx=+0.300, dy=-0.120`), "words" (`move a little right`) or "keys"
                (`keys: w d`).
        """
        return describe_action(action, self.action_axes, form)

    def parse_action(self, text: str) -> np.ndarray:
        """Read an action, float32 (a,), from any of the forms of `describe_action`.

        The exact form is read back to its printed precision, words and keys to their nominal size.

        Raises:
            UserError: if the text is malformed or out of bounds.
        """
        return parse_action(text, self.action_axes)

    # ---------------------------------------------------------------- Checks

    def _checked(self, state: np.ndarray) -> np.ndarray:
        """Copy a state, float64 (n,), after checking it.

        Raises:
            UserError: if it has another shape or is not finite.
        """
        state, size = np.array(state, dtype=np.float64), len(self.get_state())
        if state.shape != (size,):
            raise UserError(f"state of shape {state.shape}: this task expects ({size},)")
        if not np.isfinite(state).all():
            raise UserError(f"state holds {state[~np.isfinite(state)][0]}: every component must be finite")
        return state

    def _checked_action(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            raise UserError(f"action of shape {action.shape}: expected {self.action_space.shape}")
        if not np.abs(action).max() <= 1.0 + _BOUND_TOLERANCE:  # also false for NaN
            raise UserError(f"action {action.tolist()} is out of bounds: every component must lie in [-1, 1]")
        return np.clip(action, -1.0, 1.0)

    def _checked_camera(self, camera: str | None) -> str:
        if camera is None:
            return self.cameras[0]
        if camera not in self.cameras:
            raise UserError(f"unknown camera {camera!r}: this task has {', '.join(self.cameras)}")
        return camera
