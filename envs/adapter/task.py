"""`ExternalTask`: any gymnasium environment as a `Task`."""

import logging
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from worldmodel.envs.action_text import ActionAxis
from worldmodel.envs.adapter.lookup import make_env, time_limit
from worldmodel.envs.adapter.worlds import attribute, open_world
from worldmodel.envs.rendering import check_quality
from worldmodel.envs.task import Observation, Task
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

SEED_FACTOR = "episode.seed"
GOAL_STEPS = 25
"""A goal is where this many slowly changing random actions lead from the start."""
THRESHOLD_SHARE = 0.25
"""Success is being nearer than this share of the way that such actions make on average."""
DEFAULT_EPISODE_STEPS = 1000
"""Time limit of an environment that names none."""
CHECK_STEPS = 10
_KEYS = (("a", "d"), ("s", "w"), ("q", "e"), ("j", "l"), ("k", "i"), ("u", "o"), ("f", "h"), ("g", "t"))


class ExternalTask(Task):
    """An environment of another package, with the actions, observations, states, goals and words of our own tasks.

    ## Action Space
    `Box(-1, 1, (a,))`: a bounded Box scaled to [-1, 1] (of whole numbers each has an equal part of it), or one score for each
    choice of a Discrete space; the largest is taken.

    ## Observation Space
    `pixels` uint8 (H, W, 3) and `proprio` float32 (p,): what the environment observes as one vector, each number x
    as sign(x) log(1 + |x|), cut at 3; pictures in it as glimpses of 8 x 8 gray pixels.

    ## Rewards and Episode End
    Reward and `terminated` are the environment's. After its end, MuJoCo's physics goes on when it is stepped
    further; other environments are `finished` and stand still, with reward 0: they are not recorded on. `truncated` is the
    environment's own, never so with MuJoCo's. There is no time limit, see `max_episode_steps`.

    ## States and Goals
    The state is the whole physics of MuJoCo (mjSTATE_INTEGRATION); of other environments what they observe. An
    environment has no goals of our kind, so a goal is the state that 25 slowly changing random actions reach from
    the start. The distance is the root mean square of the difference of two configurations (turns by the shorter
    way; radians and meters count alike). `success_threshold` is a quarter of the distance that goals have on
    average, measured over four fixed seeds.

    An episode's start, layout and own goal follow from the factor `episode.seed`, a new one at every reset.
    `restorable` is measured: see `_measure`.
    """

    factors = {
        SEED_FACTOR: Factor(
            "number that the environment is reset with: its start, its layout and its own goal",
            0.0,
            low=0,
            high=99_999,
            integer=True,
            per_episode=True,
        ),
        **SENSOR_FACTORS,
    }

    def __init__(
        self,
        env_id: str,
        render_mode: str = "rgb_array",
        image_size: int = 64,
        frame_skip: int | None = None,
        camera: str | None = None,
        render_quality: Literal["fast", "full"] = "fast",
        **kwargs: Any,
    ) -> None:
        """Build the environment twice: one is played, the other tries things out (goals, "what if").

        Args:
            env_id: Id of the environment, see `envs/adapter/lookup.py`.
            render_mode: Only "rgb_array".
            image_size: Height and width of a frame in pixels, 16 to 2048.
            frame_skip: Physics steps in one environment step; the environment's own number by default.
            camera: The camera of the observation, one of `cameras`; the environment's own by default.
            render_quality: "fast", or "full" for the model's own settings with shadows; MuJoCo's only.
            **kwargs: For the environment's constructor.

        Raises:
            UserError: for a value outside these, or an environment that does not fit.
        """
        self.render_quality = check_quality(render_quality)
        if frame_skip is not None:
            kwargs["frame_skip"] = frame_skip
        self.env_id = env_id
        env = make_env(env_id, **kwargs)
        self._world = open_world(env, image_size, render_quality == "fast")
        self._low, self._high = _action_bounds(env_id, self._world.action_space)
        self._discrete = isinstance(self._world.action_space, spaces.Discrete)
        self._trial = open_world(make_env(env_id, **kwargs), image_size, render_quality == "fast")
        self._trial_seed: int | None = None
        self.cameras = self._world.cameras
        self.action_axes = self._axes(int(np.prod(self._low.shape)))
        self.feature_names = tuple(f"configuration {i}" for i in range(len(self._world.position_of(self._world.state()))))
        self.max_episode_steps = time_limit(env_id) or DEFAULT_EPISODE_STEPS
        self.step_seconds = _step_seconds(env)
        super().__init__(render_mode, image_size, camera)
        self.restorable = self._world.can_restore and self._measure()
        distances = [self.goal_distance(start, goal) for start, goal in map(self._trip, range(4))]
        self.success_threshold = float(f"{max(THRESHOLD_SHARE * float(np.mean(distances)), 1e-3):.2g}")
        self.min_goal_distance = self.success_threshold
        self._world.reset(0)
        self._goal_state = self.get_state()

    # ---------------------------------------------------------------- Actions

    def _axes(self, size: int) -> tuple[ActionAxis, ...]:
        """Choose names, words and keys for each component of the action."""
        names = [f"choice {i}" for i in range(size)] if self._discrete else self._world.action_names(size)
        axes = []
        for i, name in enumerate(names):
            negative, positive = (
                (("avoid", name), ("take", name)) if self._discrete else (("pull", f"on {name}"), ("push", f"on {name}"))
            )
            keys = _KEYS[i] if i < len(_KEYS) else (f"{i}-", f"{i}+")
            axes.append(ActionAxis(name.replace(" ", "_"), negative, positive, keys))
        return tuple(axes)

    def _own_action(self, action: np.ndarray) -> Any:
        """Convert an action (a,) in [-1, 1] to the form that the environment takes."""
        if self._discrete:
            return int(np.argmax(action)) + int(self._world.action_space.start)  # type: ignore[attr-defined]
        share, dtype = (action.reshape(self._low.shape) + 1) / 2, np.dtype(self._world.action_space.dtype)
        if dtype.kind == "f":
            return np.clip(self._low + share * (self._high - self._low), self._low, self._high).astype(dtype)
        return np.clip(self._low + np.floor(share * (self._high - self._low + 1)), self._low, self._high).astype(dtype)

    # ---------------------------------------------------------------- What is measured at the start

    def _measure(self) -> bool:
        """Test whether a restored state goes on exactly as the original did.

        One world plays; another one, reset with the same number and then led elsewhere, is set to the state in the
        middle and repeats the rest. States, observations and ends must be equal to the bit; rewards too, from the
        second step on: the first one may look back to before the restored state.
        """
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (2 * CHECK_STEPS, len(self.action_axes)))
        self._world.reset(0)
        for action in actions[:CHECK_STEPS]:
            self._world.step(self._own_action(action))
        middle = self._world.state()
        self._trial.reset(0)
        for action in actions[-3:]:  # another number of steps: a memory of these would show
            self._trial.step(self._own_action(action))
        self._trial.restore(middle)
        for i, action in enumerate(actions[CHECK_STEPS:]):
            rewards = [world.step(self._own_action(action)) for world in (self._world, self._trial)]
            different = [
                what
                for what, same in {
                    "states": np.array_equal(self._world.state(), self._trial.state()),
                    "observations": np.array_equal(self._world.observation, self._trial.observation),
                    "ends": self._world.terminated == self._trial.terminated,
                    "rewards": i == 0 or rewards[0] == rewards[1],
                }.items()
                if not same
            ]
            if different:
                logger.info("%s does not restore its state exactly: %s differ", self.env_id, " and ".join(different))
                return False
        return True

    def _trip(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Make the start and the goal of a seed: before and after GOAL_STEPS slowly changing random actions."""
        rng = np.random.default_rng(seed)
        self._trial_seed = seed
        self._trial.reset(seed)
        start, value = self._trial.state(), rng.normal(size=len(self.action_axes))
        for _ in range(GOAL_STEPS):
            self._trial.step(self._own_action(np.clip(0.6 * value, -1, 1)))
            value = 0.9 * value + np.sqrt(1 - 0.9**2) * rng.normal(size=value.shape)
        return start, self._trial.state()

    # ---------------------------------------------------------------- Episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; see `Task.reset`.

        Raises:
            UserError: for an unknown option or factor, a value that does not fit, or a state for an environment
                that cannot be set to one.
        """
        state, goal_state = self._begin(seed, options or {})
        if state is not None:
            self.set_state(state)
        self._goal_state = self._trip(int(self.number(SEED_FACTOR)))[1] if goal_state is None else goal_state
        if self._world.can_restore:
            self._goal_frame = self.render_state(self._goal_state)
        else:  # where the trip has led
            self._goal_frame = self._seen(self._trial.draw(self.camera), self._goal_state)
        return self._observation(), self.info()

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Reset the environment with the number of the episode."""
        self._world.reset(int(values[SEED_FACTOR]))
        self.finished = False

    def act(self, action: np.ndarray) -> None:
        """Do one step of the environment."""
        self._reward = self._world.step(self._own_action(action))
        self.finished = self._world.ended

    def outcome(self, info: dict[str, Any]) -> tuple[float, bool, bool]:
        """Return the environment's reward, terminated and truncated of the last action, as `step` does; `info` plays no part."""
        return self._reward, self._world.terminated, self._world.ended and self._world.truncated

    def sense(self) -> np.ndarray:
        """Return what the environment observes, each number as sign(x) log(1 + |x|), (p,)."""
        observed = self._world.observation
        return np.sign(observed) * np.log1p(np.abs(observed))

    def close(self) -> None:
        """Free both environments."""
        self._world.close()
        self._trial.close()

    # ---------------------------------------------------------------- States and pictures

    def get_state(self) -> np.ndarray:
        """Return the state, float64 (n,)."""
        return self._world.state()

    def restore(self, state: np.ndarray) -> None:
        """Go to a state from `get_state`: to the bit where `restorable`, without the environment's own memory elsewhere.

        Raises:
            UserError: if this is no MuJoCo environment.
        """
        self._world.restore(state)

    def position_of(self, state: np.ndarray) -> np.ndarray:
        """Return the configuration inside a state: qpos (nq,), or all of it when this is no MuJoCo environment."""
        return self._world.position_of(state)

    def draw(self, camera: str, state: np.ndarray | None = None) -> np.ndarray:
        """Draw a state of this episode's layout, the current one by default, through a camera: uint8 (image_size, image_size, 3)."""
        return self._world.draw(camera, state)

    def look_ahead(self, state: np.ndarray, action: np.ndarray, steps: int) -> np.ndarray:
        """Return the state (n,) that an action (a,), held for some steps, leads to from another one, by trying it out."""
        number = int(self.number(SEED_FACTOR))
        if self._trial_seed != number:
            self._trial.reset(number)
            self._trial_seed = number
        self._trial.restore(self._checked(state))
        for _ in range(steps):
            self._trial.step(self._own_action(action))
        return self._trial.state()

    # ---------------------------------------------------------------- Goals and true variables

    def goal_distance(self, state: np.ndarray, goal_state: np.ndarray) -> float:
        """Compute the root mean square of the difference of two configurations; velocities do not count."""
        difference = self._world.difference(self.position_of(state), self.position_of(goal_state))
        return float(np.sqrt(np.mean(np.square(difference))))

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the configuration, each number scaled to about [-1, 1], (f,)."""
        return self._world.features_of(position)

    def coordinates(self, state: np.ndarray) -> dict[str, float]:
        """Name the numbers of a state that people can speak of."""
        position = self.position_of(state)
        return {name: float(position[place]) for name, place in self._world.coordinates}

    def speed(self, state: np.ndarray) -> float | None:
        """Return the root mean square of the velocities in a state; None where none are known."""
        speeds = self._world.speed_of(state)
        return None if speeds is None else float(np.sqrt(np.mean(np.square(speeds)))) if speeds.size else 0.0


def _action_bounds(env_id: str, space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest action; for a choice among n, of n scores.

    Raises:
        UserError: if actions are neither a choice nor bounded numbers.
    """
    if isinstance(space, spaces.Discrete):
        return -np.ones(int(space.n)), np.ones(int(space.n))
    if isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all() and space.low.size:
        return np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    raise UserError(f"{env_id} takes actions {space}: only a Box with finite bounds or a Discrete choice can be adapted")


def _step_seconds(env: gymnasium.Env[Any, Any]) -> float:
    """Return the simulated time of one environment step; 0.1 s for an environment that has no time."""
    seconds = attribute(env.unwrapped, "dt")
    return float(seconds) if isinstance(seconds, float | int | np.floating) and 0 < seconds < np.inf else 0.1
