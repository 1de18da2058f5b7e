"""`BaseTask`: what the tasks of this suite and the environments of other packages have in common."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np

from worldmodel.envs.action_text import ActionAxis, ActionForm, describe_action, parse_action
from worldmodel.envs.contract import RESET_OPTIONS, Observation
from worldmodel.envs.language import Attribute, read_attributes
from worldmodel.envs.recording import Recording
from worldmodel.envs.variation import Factor, Value, resolve
from worldmodel.errors import UserError

_BOUND_TOLERANCE = 1e-6


class BaseTask(gymnasium.Env[Any, np.ndarray]):
    """Checks of what a task is given, `info`, actions as text, and captions read back.

    `info` always holds `state` float64 (n,), `success` bool, `caption` str, `goal` uint8 (H, W, 3),
    `goal_state` float64 (n,), `features` float32 (f,) and `variation` (factor -> value).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    PROPRIO_LIMIT: ClassVar[float] = 3.0
    action_axes: tuple[ActionAxis, ...]
    cameras: tuple[str, ...]
    """Names of the cameras; the first one takes the observation."""
    success_threshold: float
    attributes: Mapping[str, Attribute]
    factors: Mapping[str, Factor]
    recording: Recording = Recording()
    """How the task is best recorded, and which problems are worth asking about it."""
    variation: dict[str, Value]
    """Factor -> value in this episode."""
    sampled: frozenset[str]
    """The factors that `reset` was asked to sample."""
    _goal_state: np.ndarray
    _goal_frame: np.ndarray

    def _set_drawing(self, render_mode: str, image_size: int, render_quality: str) -> None:
        """Keep how frames are drawn.

        Raises:
            UserError: for a value that does not exist.
        """
        if render_mode != "rgb_array":
            raise UserError(f"render_mode={render_mode!r}: expected 'rgb_array'")
        if not 16 <= image_size <= 2048:
            raise UserError(f"image_size={image_size}: expected 16 to 2048 pixels")
        if render_quality not in ("fast", "full"):
            raise UserError(f"render_quality={render_quality!r}: expected 'fast' or 'full'")
        self.render_mode, self.image_size, self.render_quality = render_mode, image_size, render_quality

    def _draw_variation(self, options: Mapping[str, Any]) -> None:
        """Decide the factors of an episode by the options of `reset`.

        Raises:
            UserError: for an unknown option or factor, or a value that does not fit.
        """
        unknown = sorted(set(options) - set(RESET_OPTIONS))
        if unknown:
            raise UserError(f"unknown reset option {unknown[0]!r}: known are {', '.join(RESET_OPTIONS)}")
        variation, values = options.get("variation", ()), options.get("variation_values", {})
        self.variation = resolve(self.factors, variation, values, self.np_random)
        self.sampled = frozenset(self.factors if "all" in variation else variation)

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

    def _observation(self) -> Observation:
        return {"pixels": self.render(), "proprio": self.proprio()}

    def info(self) -> dict[str, Any]:
        """Return the `info` of `step` for the current state; draws nothing."""
        state = self.get_state()
        return {
            "state": state,
            "success": self.is_success(state, self._goal_state),
            "caption": self.caption(state),
            "goal": self._goal_frame.copy(),
            "goal_state": self._goal_state.copy(),
            "features": self.features(state),
            "variation": dict(self.variation),
        }

    def is_success(self, state: np.ndarray, goal_state: np.ndarray) -> bool:
        """Test whether `state` is within `success_threshold` of `goal_state`."""
        return self.goal_distance(state, goal_state) <= self.success_threshold

    # ---------------------------------------------------------------- For a kind of task to define

    def render(self, camera: str | None = None) -> np.ndarray:
        """Render the current frame, uint8 (H, W, 3), through a camera of `cameras`; the observation's by default."""
        raise NotImplementedError

    def proprio(self) -> np.ndarray:
        """Return what the body feels now, float32 (p,)."""
        raise NotImplementedError

    def get_state(self) -> np.ndarray:
        """Return the state, float64 (n,)."""
        raise NotImplementedError

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        """Measure the distance of two states (n,) in the units of `success_threshold`; velocities do not count."""
        raise NotImplementedError

    def features(self, state: np.ndarray | None = None) -> np.ndarray:
        """Return the physical variables that a probe should find in the picture, float32 (f,), about [-1, 1]."""
        raise NotImplementedError

    def captions(self, state: np.ndarray | None = None) -> list[str]:
        """Write several phrasings of what is true of a state; the first is `caption`."""
        raise NotImplementedError

    # ---------------------------------------------------------------- Text

    @property
    def attribute_values(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> every value it can take."""
        return {name: tuple(attribute.phrases) for name, attribute in self.attributes.items()}

    def caption(self, state: np.ndarray | None = None) -> str:
        """Write a sentence that is true of a state (of the current one by default)."""
        return self.captions(state)[0]

    def caption_attributes(self, text: str) -> dict[str, str]:
        """Read attribute -> value from `text`; what it does not mention is absent."""
        return read_attributes(text, self.attributes)

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


def checked_state(state: np.ndarray, size: int) -> np.ndarray:
    """Copy a state, float64 (size,), after checking it.

    Raises:
        UserError: if it has another shape or is not finite.
    """
    state = np.array(state, dtype=np.float64)
    if state.shape != (size,):
        raise UserError(f"state of shape {state.shape}: this task expects ({size},)")
    if not np.isfinite(state).all():
        raise UserError(f"state holds {state[~np.isfinite(state)][0]}: every component must be finite")
    return state
