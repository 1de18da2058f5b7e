"""Worlds of other packages, looked at from outside: what they observe, and MuJoCo's model and data when they have them.

A `World` can be stepped and drawn. A `MujocoWorld` can also save, restore and draw any state, with our own
renderer: through the environment's default camera, without shadows and multisampling, at the size that is wanted.
"""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from PIL import Image

from worldmodel.envs.adapter.pictures import as_picture, glimpses
from worldmodel.envs.angles import wrap
from worldmodel.envs.rendering import Renderer
from worldmodel.errors import UserError

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
DEFAULT_CAMERA = "default"
"""Name of a camera that is not in the model: the free camera as the environment sets it up, or its only picture."""
_PREFERRED_CAMERAS = ("track", "front_pixels", "topview")  # of gymnasium, ogbench, metaworld
_INNER = ("_env", "_physics", "point_env", "ant_env", "robot_env")  # where environments keep the one that they wrap
_CLOCKS: dict[str, dict[str, Any]] = {
    "metaworld": {"curr_path_length": 0},
    "dm_control": {"_step_count": 0, "_reset_next_step": False},
}
"""Package -> what ends an episode of its environments by time, which MuJoCo's physics need not."""
_SCALAR_JOINTS = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))


class World:
    """A gymnasium environment that cannot be looked into: its state is what it observes.

    When it ends its episode, or cuts it, it stands still: further steps return the last observation and reward 0.
    """

    can_restore = False

    def __init__(self, env: gymnasium.Env[Any, Any], size: int, fast: bool) -> None:
        """Take the environment, the side of its pictures in pixels, and whether they are drawn fast."""
        self.env, self.size, self.fast = env, size, fast
        with quiet():
            self.action_space, self.observation_space = env.action_space, env.observation_space
        self.terminated = self.truncated = False
        self.reset(0)

    @property
    def ended(self) -> bool:
        """Whether the environment cannot go on."""
        return (self.terminated or self.truncated) and not self.can_restore

    def reset(self, seed: int) -> None:
        """Begin an episode; whatever the environment draws from, its own generator or numpy's, is seeded."""
        before = np.random.get_state()
        np.random.seed(seed)
        with quiet():
            observation, _ = self.env.reset(seed=seed)
        np.random.set_state(before)
        self.observation, self.terminated, self.truncated = self._flat(observation), False, False

    def step(self, action: Any) -> float:
        """Do an action of the environment's own space; returns the reward."""
        if self.ended:
            return 0.0
        with quiet():
            observation, reward, terminated, truncated, _ = self.env.step(action)
        self.observation, self.terminated, self.truncated = self._flat(observation), bool(terminated), bool(truncated)
        return float(reward)

    def _layers(self) -> list[Any]:
        """List the environment and what it wraps, outermost first."""
        layers: list[Any] = [self.env.unwrapped]
        for layer in layers:
            for inner in (attribute(layer, name) for name in _INNER):
                if hasattr(inner, "__dict__") and not isinstance(inner, type) and all(inner is not other for other in layers):
                    layers.append(inner)
        return layers

    def _flat(self, observation: Any) -> np.ndarray:
        numbers, pictures = _parts(self.observation_space, observation)
        self._spoken = sum(map(len, numbers or pictures))  # of pictures only when there is nothing else
        return np.nan_to_num(np.concatenate([*numbers, *pictures] or [np.zeros(1)]))

    def state(self) -> np.ndarray:
        """Return what there is to know of the world, float64 (n,)."""
        return self.observation.copy()

    def restore(self, state: np.ndarray) -> None:
        """Go back to a state.

        Raises:
            UserError: always, in a world that is not MuJoCo's.
        """
        raise UserError(f"{self.name} cannot be set to a state, so planning in it is not possible; collecting and training are")

    def draw(self, camera: str, state: np.ndarray | None = None) -> np.ndarray:
        """Draw the picture of the current state, or of another one where the world can restore it; uint8 (size, size, 3)."""
        if state is not None:
            self.restore(state)
        try:
            frame = self.env.render()
        except (gymnasium.error.DependencyNotInstalled, NotImplementedError) as error:
            raise UserError(f"{self.name} cannot be drawn: {str(error) or 'its render() is not implemented'}") from error
        picture = Image.fromarray(as_picture(frame, self.name))
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BOX))

    @property
    def name(self) -> str:
        """The id of the environment."""
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, the default first."""
        return (DEFAULT_CAMERA,)

    def position_of(self, state: np.ndarray) -> np.ndarray:
        """Return the configuration inside a state."""
        return np.asarray(state)

    def speed_of(self, state: np.ndarray) -> np.ndarray | None:
        """Return the velocities inside a state, when it has them."""
        return None

    @property
    def coordinates(self) -> list[tuple[str, int]]:
        """(name, index into the configuration) of the numbers that people can speak of."""
        return [(f"observation {i}", i) for i in range(self._spoken)]

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Compute what leads from one configuration to another, a vector."""
        return np.asarray(b) - np.asarray(a)

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the configuration, each number squeezed into [-1, 1]."""
        return np.tanh(position)

    def action_names(self, size: int) -> list[str]:
        """Name each component of the action."""
        return [f"action {i}" for i in range(size)]

    def close(self) -> None:
        """Free what the environment holds."""
        self.env.close()


class MujocoWorld(World):
    """An environment over MuJoCo: its state is the whole physics, and the physics goes on after its episode's end."""

    can_restore = True

    def __init__(self, env: gymnasium.Env[Any, Any], size: int, fast: bool) -> None:
        self._renderer: Renderer | None = None
        self._drawn: mujoco.MjModel | None = None  # the model that the renderer is of
        self._scratch: mujoco.MjData | None = None
        super().__init__(env, size, fast)

    def step(self, action: Any) -> float:
        for layer in self._layers():
            packages = {each.__module__.partition(".")[0] for each in type(layer).__mro__}
            clocks = {name: value for package in packages for name, value in _CLOCKS.get(package, {}).items()}
            for name in clocks.keys() & vars(layer).keys():
                setattr(layer, name, clocks[name])
        return super().step(action)

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self.model, self.data = find_physics(self._layers())  # some compile their model anew at a reset
        quality = self.model.vis.quality
        if self.fast and quality.shadowsize:
            quality.shadowsize, quality.offsamples = 0, 0
            quality.numslices, quality.numstacks, quality.numquads = min(quality.numslices, 16), min(quality.numstacks, 8), 1
            for layer in self._layers():  # ogbench's visual tasks observe their own pictures; let these be fast too
                if isinstance(getattr(layer, "_renderer", None), mujoco.Renderer):
                    layer._renderer.close()
                    layer._renderer = None
        markers = attribute(self.env.unwrapped, "_render_callback")
        if callable(markers):  # gymnasium-robotics puts the marker of its goal into place when it draws
            state = self.state()
            markers()
            self.restore(state)

    def state(self) -> np.ndarray:
        state = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, state, STATE)
        return state

    def restore(self, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_forward(self.model, self.data)  # what is derived from the state
        mujoco.mj_setState(self.model, self.data, state, STATE)  # what the line before has touched
        self.terminated = False
        self._observe()

    def _observe(self) -> None:
        """Update the observation of a restored state, if the environment can be asked; otherwise the last one stays."""
        for layer in self._layers()[:2]:
            for name in ("_get_obs", "compute_observation"):
                ask = attribute(layer, name)
                if callable(ask) and not inspect.signature(ask).parameters:
                    observation = ask()
                    if self.observation_space.contains(observation):
                        self.observation = self._flat(observation)
                        return
            observe, physics = attribute(attribute(layer, "task"), "get_observation"), attribute(layer, "physics")
            if callable(observe) and physics is not None:  # dm_control
                self.observation = self._flat(observe(physics))
                return

    def draw(self, camera: str, state: np.ndarray | None = None) -> np.ndarray:
        if self._drawn is not self.model:
            self._open_renderer()
        assert self._renderer is not None and self._scratch is not None
        mujoco.mj_setState(self.model, self._scratch, self.state() if state is None else state, STATE)
        mujoco.mj_kinematics(self.model, self._scratch)
        mujoco.mj_comPos(self.model, self._scratch)
        mujoco.mj_camlight(self.model, self._scratch)
        mujoco.mj_flex(self.model, self._scratch)
        mujoco.mj_tendon(self.model, self._scratch)
        return self._renderer.render(self._scratch, self._free_camera() if camera == DEFAULT_CAMERA else camera)

    def _open_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        buffer = self.model.vis.global_
        own = buffer.offwidth, buffer.offheight
        self._renderer = Renderer(self.model, self.size, fast=self.fast, sky=True)
        buffer.offwidth, buffer.offheight = own  # for what the environment may draw itself
        self._scratch, self._drawn = mujoco.MjData(self.model), self.model
        mujoco.mj_forward(self.model, self._scratch)
        self._middle = np.median(self._scratch.geom_xpos, axis=0)  # of the model at rest

    def _free_camera(self) -> mujoco.MjvCamera:
        """Return the free camera as the environment sets it up: from where it looks, at what, perhaps following a body."""
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(self.model, camera)
        renderer = next((layer.mujoco_renderer for layer in self._layers() if hasattr(layer, "mujoco_renderer")), None)
        if renderer is None:
            return camera
        camera.lookat[:] = self._middle
        camera.distance = self.model.stat.extent
        for key, value in (attribute(renderer, "default_cam_config") or {}).items():
            if isinstance(value, np.ndarray):
                getattr(camera, key)[:] = value
            else:
                setattr(camera, key, value)
        if camera.trackbodyid > 0:
            camera.type = int(mujoco.mjtCamera.mjCAMERA_TRACKING)
        return camera

    @property
    def cameras(self) -> tuple[str, ...]:
        named = [self.model.camera(i).name for i in range(self.model.ncam)]
        named = [name for name in named if name]
        preferred = next((name for name in _PREFERRED_CAMERAS if name in named), None)
        if preferred is None and named and not any(hasattr(layer, "mujoco_renderer") for layer in self._layers()):
            preferred = named[0]
        first = preferred or DEFAULT_CAMERA
        return (first, *(name for name in named if name != first))

    def position_of(self, state: np.ndarray) -> np.ndarray:
        return np.asarray(state)[1 : 1 + self.model.nq]

    def speed_of(self, state: np.ndarray) -> np.ndarray | None:
        return np.asarray(state)[1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    @property
    def coordinates(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for j in range(self.model.njnt):
            name = plain(self.model.joint(j).name) or f"joint {j}"
            place = int(self.model.jnt_qposadr[j])
            if int(self.model.jnt_type[j]) in _SCALAR_JOINTS:
                found.append((name, place))
            elif int(self.model.jnt_type[j]) == int(mujoco.mjtJoint.mjJNT_FREE):
                found += [(f"{name} {axis}", place + i) for i, axis in enumerate("xyz")]
        return found

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Compute the difference as a velocity over one second, (nv,): turns of hinges, balls and free bodies by the shorter way."""
        difference = np.zeros(self.model.nv)
        mujoco.mj_differentiatePos(self.model, difference, 1.0, np.array(a, np.float64), np.array(b, np.float64))
        for j in range(self.model.njnt):
            if int(self.model.jnt_type[j]) == int(mujoco.mjtJoint.mjJNT_HINGE):
                difference[self.model.jnt_dofadr[j]] = wrap(difference[self.model.jnt_dofadr[j]])
        return difference

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Scale joints with limits by their range, other hinges by half a turn, everything else squeezed; |.| <= 1.1."""
        features = np.tanh(np.asarray(position, np.float64) / 5)
        for j in range(self.model.njnt):
            i, (low, high) = int(self.model.jnt_qposadr[j]), self.model.jnt_range[j]
            if int(self.model.jnt_type[j]) not in _SCALAR_JOINTS:
                continue
            if self.model.jnt_limited[j]:
                features[i] = (position[i] - (low + high) / 2) / ((high - low) / 2)
            elif int(self.model.jnt_type[j]) == int(mujoco.mjtJoint.mjJNT_HINGE):
                features[i] = wrap(position[i]) / np.pi
        return np.clip(features, -1.1, 1.1)

    def action_names(self, size: int) -> list[str]:
        names = [plain(self.model.actuator(i).name or self._driven(i)) for i in range(self.model.nu)]
        return names if len(names) == size and all(names) and len(set(names)) == size else super().action_names(size)

    def _driven(self, actuator: int) -> str:
        """Return the name of the joint that an actuator drives, if it drives one."""
        is_joint = int(self.model.actuator_trntype[actuator]) == int(mujoco.mjtTrn.mjTRN_JOINT)
        return self.model.joint(int(self.model.actuator_trnid[actuator, 0])).name if is_joint else ""

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._renderer, self._drawn = None, None
        super().close()


def open_world(env: gymnasium.Env[Any, Any], size: int, fast: bool) -> World:
    """Open the world of an environment: with its physics when it is MuJoCo's."""
    world = World(env, size, fast)
    try:
        find_physics(world._layers())
    except LookupError:
        return world
    return MujocoWorld(env, size, fast)


def find_physics(layers: list[Any]) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Find MuJoCo's model and data inside an environment.

    Raises:
        LookupError: if there are none.
    """
    for layer in layers:
        pair = [attribute(layer, name) for name in ("model", "data")]
        model, data = (getattr(each, "ptr", each) for each in pair)  # dm_control wraps them
        if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
            return model, data
    raise LookupError("no MuJoCo model and data")


def attribute(thing: Any, name: str) -> Any:
    """Return an attribute that an environment may have, or None: also where asking for it raises."""
    try:
        return getattr(thing, name, None)
    except Exception:  # a property raises whatever its author liked
        return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings that other packages give about themselves at every step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def plain(name: str) -> str:
    """Write a name as words of small letters and digits."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _parts(space: spaces.Space[Any], value: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split an observation into float64 vectors: its numbers, and glimpses (GLIMPSE x GLIMPSE, in [0, 1]) of its pictures."""
    inner: list[tuple[spaces.Space[Any], Any]] = []
    if isinstance(space, spaces.Dict):
        inner = [(each, value[key]) for key, each in space.items()]
    elif isinstance(space, spaces.Tuple):
        inner = list(zip(space, value, strict=True))
    if inner:
        parts = [_parts(*each) for each in inner]
        return [part for numbers, _ in parts for part in numbers], [part for _, pictures in parts for part in pictures]
    glimpse = glimpses(space, value)
    if glimpse is not None:
        return [], [glimpse]
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        raise UserError(f"observations of the kind {type(space).__name__} cannot be recorded as numbers")
    return [np.asarray(spaces.flatten(space, value), np.float64).ravel()], []
