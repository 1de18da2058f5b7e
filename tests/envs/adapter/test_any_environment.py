"""Whatever an environment does, observes and draws, and whenever it ends: that is recorded, or there is one sentence."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.datasets.collection.recording import CollectConfig, record_episode
from worldmodel.envs import make_task
from worldmodel.envs.adapter.worlds import MujocoWorld, World, open_world
from worldmodel.errors import UserError

SIDE = 16
MAX_STEPS = 12
ENV_ID = "test/Anything-v0"


def pattern(t: int, channels: int = 3) -> np.ndarray:
    """What can be seen at step t: uint8 (SIDE, SIDE, channels), other at every step, pixel and channel."""
    y, x, c = np.mgrid[:SIDE, :SIDE, :channels]
    return ((31 * y + 17 * x + 53 * c + 29 * t) % 256).astype(np.uint8)


def threshold(picture: np.ndarray) -> np.ndarray:
    return np.where(picture > 127, 255, 0).astype(np.uint8)


KINDS: dict[str, Any] = {
    "uint8": lambda p: p,
    "bool": lambda p: p > 127,
    "uint16": lambda p: p.astype(np.uint16) * 257,
    "float32": lambda p: (p / 255).astype(np.float32),
    "float64": lambda p: p / 255,
    "int64": lambda p: p.astype(np.int64),
    "int16": lambda p: p.astype(np.int16),
}
LAYOUTS: dict[str, tuple[int, Any]] = {
    "hwc": (3, lambda p: p),
    "chw": (3, lambda p: p.transpose(2, 0, 1)),
    "rgba": (3, lambda p: np.concatenate([p, p[..., :1]], axis=-1)),
    "hw1": (1, lambda p: p),
    "1hw": (1, lambda p: p.transpose(2, 0, 1)),
    "hw": (1, lambda p: p[..., 0]),
}
UNREADABLE: dict[str, Any] = {
    "nothing": lambda p: None,
    "a list": lambda p: [p],
    "a batch": lambda p: p[None],
    "stacked frames": lambda p: np.concatenate([p, p, p, p], axis=-1),
    "floats to 255": lambda p: p.astype(np.float32),
    "floats around 0": lambda p: p / 127.5 - 1,
    "not a number": lambda p: np.full(p.shape, np.nan),
    "8 bits in 16": lambda p: np.minimum(p, 200).astype(np.uint16),
    "negative": lambda p: p.astype(np.int32) - 128,
    "complex": lambda p: p.astype(np.complex64),
    "empty": lambda p: p[:0],
}


@dataclass
class Look:
    """How a picture is handed out, and what it shows."""

    kind: str
    layout: str

    def of(self, t: int) -> np.ndarray:
        channels, arranged = LAYOUTS[self.layout]
        return arranged(KINDS[self.kind](pattern(t, channels)))

    def seen(self, t: int) -> np.ndarray:
        picture = pattern(t, LAYOUTS[self.layout][0])
        picture = threshold(picture) if self.kind == "bool" else picture
        return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture


@dataclass
class Sight:
    """A part of the observation: its space, what it shows at step t, and that as numbers, or as grey pictures (n, SIDE, SIDE)."""

    space: spaces.Space[Any]
    at: Any
    numbers: Any = None
    greys: Any = None

    def expected(self, t: int) -> np.ndarray:
        """As the task gives it: numbers, or pictures as 8 x 8 blocks in [0, 1]."""
        if self.numbers is not None:
            return self.numbers(t)
        return self.greys(t).reshape(-1, 8, SIDE // 8, 8, SIDE // 8).mean((2, 4)).ravel() / 255


def counted(t: int) -> np.ndarray:
    return np.array([t, -2.0 * t, 0.5])


SIGHTS: dict[str, Sight] = {
    "float64": Sight(spaces.Box(-99, 99, (3,), np.float64), counted, counted),
    "matrix": Sight(spaces.Box(-99, 99, (3, 1), np.float32), lambda t: counted(t).reshape(3, 1).astype(np.float32), counted),
    "discrete": Sight(spaces.Discrete(40), lambda t: t, lambda t: np.eye(40)[t]),
    "tiny picture": Sight(
        spaces.Box(0, 255, (5, 5, 3), np.uint8), lambda t: pattern(t)[:5, :5], lambda t: pattern(t)[:5, :5].ravel().astype(float)
    ),
    "board": Sight(spaces.Box(0, 2, (9, 9), np.uint8), lambda t: np.full((9, 9), t % 3, np.uint8), lambda t: np.full(81, t % 3.0)),
    "hwc": Sight(spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8), pattern, greys=lambda t: pattern(t).mean(-1)),
    "chw": Sight(
        spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8), lambda t: pattern(t).transpose(2, 0, 1), greys=lambda t: pattern(t).mean(-1)
    ),
    "grey": Sight(
        spaces.Box(0, 255, (SIDE, SIDE), np.uint8), lambda t: pattern(t)[..., 0], greys=lambda t: pattern(t)[..., 0].astype(float)
    ),
    "floats chw": Sight(
        spaces.Box(0, 1, (3, SIDE, SIDE), np.float32),
        lambda t: (pattern(t) / 255).transpose(2, 0, 1).astype(np.float32),
        greys=lambda t: pattern(t).mean(-1),
    ),
    "four greys": Sight(
        spaces.Box(0, 255, (4, SIDE, SIDE), np.uint8),
        lambda t: np.stack([pattern(max(t - k, 0))[..., 0] for k in (3, 2, 1, 0)]),
        greys=lambda t: np.mean([pattern(max(t - k, 0))[..., 0] for k in (3, 2, 1, 0)], axis=0),
    ),
    "two frames": Sight(
        spaces.Box(0, 255, (2, SIDE, SIDE, 3), np.uint8),
        lambda t: np.stack([pattern(max(t - 1, 0)), pattern(t)]),
        greys=lambda t: np.stack([pattern(max(t - 1, 0)), pattern(t)]).mean(-1),
    ),
}


@dataclass
class Plan:
    """An environment, and what it did."""

    action_space: spaces.Space[Any] = field(default_factory=lambda: spaces.Discrete(2))
    sights: tuple[str, ...] = ("float64",)
    nested: str = "alone"
    draw: Any = pattern
    ends: int = 10**9
    cut: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    done: list[Any] = field(default_factory=list)

    def observe(self, t: int) -> Any:
        values = [SIGHTS[name].at(t) for name in self.sights]
        return (
            values[0]
            if self.nested == "alone"
            else tuple(values)
            if self.nested == "tuple"
            else dict(zip("abc", values, strict=False))
        )

    @property
    def space(self) -> spaces.Space[Any]:
        parts = [SIGHTS[name].space for name in self.sights]
        if self.nested == "alone":
            return parts[0]
        return spaces.Tuple(parts) if self.nested == "tuple" else spaces.Dict(dict(zip("abc", parts, strict=False)))


class Anything(gymnasium.Env):
    """Follows a plan; keeps what it was told to do since the last reset."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, plan: Plan, render_mode: str | None = None) -> None:
        self.plan, self.render_mode = plan, render_mode
        self.action_space, self.observation_space = plan.action_space, plan.space
        for name, value in plan.attributes.items():
            setattr(self, name, self if value is Ellipsis else value)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t, self.done = 0, []
        return self.plan.observe(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.t < self.plan.ends, "stepped after its end"
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        self.done.append(action)
        self.t += 1
        over = self.t == self.plan.ends
        return self.plan.observe(self.t), 0.0, over and not self.plan.cut, over and self.plan.cut, {}

    def render(self) -> Any:
        return self.plan.draw(self.t)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    gymnasium.register(ENV_ID, Anything)
    yield
    del gymnasium.registry[ENV_ID]


def recorded(plan: Plan, index: int = 0, steps: int = MAX_STEPS):
    """The episode, and the actions that the environment was given in it."""
    config = CollectConfig(ENV_ID, image_size=SIDE, max_steps=steps, policies={"random": 1.0})
    task = make_task(ENV_ID, image_size=SIDE, plan=plan)
    try:
        return record_episode(task, config, index), task._world.env.unwrapped.done
    finally:
        task.close()


def boxes() -> st.SearchStrategy[spaces.Box]:
    shapes = st.sampled_from([(), (1,), (3,), (2, 2)])
    floats = st.builds(
        lambda low, width, shape, dtype: spaces.Box(low, low + width, shape, dtype),
        st.sampled_from([-2.0, 0.0, 5.0]),
        st.sampled_from([0.5, 1.0, 300.0]),
        shapes,
        st.sampled_from([np.float16, np.float32, np.float64]),
    )
    whole = st.builds(
        lambda low, width, shape, dtype: spaces.Box(low, low + width, shape, dtype),
        st.sampled_from([0, 3]),
        st.sampled_from([1, 3, 100]),
        shapes,
        st.sampled_from([np.int8, np.int64, np.uint8]),
    )
    return floats | whole


ACTIONS = boxes() | st.builds(
    lambda n, start: spaces.Discrete(n, start=start), st.sampled_from([1, 2, 5]), st.sampled_from([0, -1, 7])
)
PLANS = st.builds(
    Plan,
    ACTIONS,
    st.lists(st.sampled_from(sorted(SIGHTS)), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["alone", "dict", "tuple"]),
    ends=st.sampled_from([1, 2, 5, 10**9]),
    cut=st.booleans(),
)


def meant(space: spaces.Space[Any], action: np.ndarray) -> Any:
    """What an action (a,) in [-1, 1] says, in the environment's own words: written anew, by parts of equal size."""
    if isinstance(space, spaces.Discrete):
        return space.start + int(np.argmax(action))
    assert isinstance(space, spaces.Box)
    share = (action.astype(np.float64).reshape(space.shape) + 1) / 2
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if np.dtype(space.dtype).kind == "f":
        return low + share * (high - low)
    return np.minimum(low + (share * (high - low + 1)).astype(int), high)


@settings(max_examples=80)
@given(PLANS, st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(LAYOUTS)))
def test_an_episode_is_what_the_environment_did(plan: Plan, kind: str, layout: str) -> None:
    look = Look(kind, layout)
    plan.draw = look.of
    episode, done = recorded(plan)
    assert len(episode) == len(done) == min(plan.ends, MAX_STEPS)
    for action, told in zip(episode.actions, done, strict=True):
        assert np.allclose(told, meant(plan.action_space, action), rtol=2e-3, atol=1e-3)
    for t, frame in enumerate(episode.frames):
        assert np.array_equal(frame, look.seen(t))
    shown = plan.sights[:1] if plan.nested == "alone" else plan.sights
    parts = sorted(map(SIGHTS.__getitem__, shown), key=lambda sight: sight.numbers is None)  # pictures come last
    for t, state in enumerate(episode.state):
        assert np.allclose(state, np.concatenate([sight.expected(t) for sight in parts]), atol=1.5 / 255)
    squeezed = np.clip(np.sign(episode.state) * np.log1p(np.abs(episode.state)), -3, 3)
    assert np.allclose(episode.proprio, squeezed, atol=1e-6)


@pytest.mark.parametrize("draw", UNREADABLE)
def test_what_is_no_picture_is_refused_in_one_sentence(draw: str) -> None:
    with pytest.raises(UserError, match=f"^{ENV_ID} draws [^\n]*(uint8|gave)"):
        recorded(Plan(draw=lambda t: UNREADABLE[draw](pattern(t))))


def test_an_environment_that_cannot_draw_is_refused() -> None:
    def draw(t: int) -> None:
        raise NotImplementedError

    with pytest.raises(UserError, match=f"{ENV_ID} cannot be drawn: its render.. is not implemented"):
        recorded(Plan(draw=draw))


@pytest.mark.parametrize("count", [2, 4, 7])
def test_every_whole_number_is_done_equally_often(count: int) -> None:
    plan = Plan(spaces.Box(0, count - 1, (1,), np.int64))
    _, done = recorded(plan, steps=3000)
    times = np.bincount(np.concatenate(done), minlength=count)
    assert len(times) == count and np.all(np.abs(times / 3000 - 1 / count) < 0.04)


class Loud:
    """An attribute of an environment that looks as if it led inside, and does not."""

    @property
    def model(self) -> None:
        raise RuntimeError("there is no model yet")


ODD = {
    "a number, as PyBullet's clients are": {"_physics": 0, "_env": 3},
    "itself": {"_env": ...},
    "a class": {"_env": Loud, "robot_env": dict},
    "something that raises": {"_env": Loud()},
    "words": {"model": "cart", "data": "pole", "task": "balance", "physics": 1, "dt": "soon", "_render_callback": 1, "_get_obs": 2},
}


@pytest.mark.parametrize("attributes", ODD.values(), ids=ODD)
def test_attributes_of_known_names_may_be_anything(attributes: dict[str, Any]) -> None:
    episode, _ = recorded(Plan(attributes=attributes))
    assert len(episode) == MAX_STEPS


def test_attributes_of_known_names_may_be_anything_where_there_is_physics() -> None:
    env = gymnasium.make("InvertedPendulum-v5").unwrapped
    env._env, env._physics, env._render_callback = 3, "none", "never"  # type: ignore[attr-defined]
    world = open_world(env, SIDE, True)
    assert isinstance(world, MujocoWorld)
    before = world.state()
    world.step(np.zeros(1, np.float32))
    world.restore(before)
    assert np.array_equal(world.state(), before)
    world.close()


def test_a_clock_of_a_known_name_in_another_package_keeps_running() -> None:
    class Clock(Anything):
        def step(self, action: Any) -> Any:
            self._step_count = getattr(self, "_step_count", 0) + 1
            return super().step(action)

    env = Clock(Plan(), "rgb_array")
    world = World(env, SIDE, True)
    for _ in range(5):
        world.step(0)
    assert env._step_count == 5


def test_an_environment_that_ends_stands_still_and_says_so() -> None:
    task = make_task(ENV_ID, image_size=SIDE, plan=Plan(ends=3, cut=True))
    task.reset(seed=0)
    said = [task.step(np.zeros(2))[2:4] for _ in range(5)]
    assert said == [(False, False)] * 2 + [(False, True)] * 3 and task.finished
    task.reset(seed=1)
    assert not task.finished
    task.close()
