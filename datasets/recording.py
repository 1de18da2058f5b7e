"""Recording one episode: what to record, the policies, and the loop; a pure function of (seed, index)."""

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from worldmodel import __version__
from worldmodel.datasets.episode import Episode
from worldmodel.errors import UserError
from worldmodel.home import datasets_dir

if TYPE_CHECKING:  # the worker processes import it when they make the task
    from worldmodel.envs.task import MujocoTask, Policy

MAX_SEED = 2**31


@dataclass(frozen=True)
class PolicyMix:
    """Shares of the episodes that each kind of policy records; only their ratios count."""

    demonstrator: float = 0.4
    """Solves the task by looking at the true state."""
    noisy: float = 0.3
    """The demonstrator with Gaussian noise on every action; wanders like `smooth` once the task is solved."""
    smooth: float = 0.2
    """Random actions that change slowly (autoregressive noise): goes far, with long motions."""
    random: float = 0.1
    """Every action uniform and independent."""

    def __post_init__(self) -> None:
        """Raises UserError when a share is negative or not finite, or when all are zero."""
        shares = asdict(self)
        for name, share in shares.items():
            if not (math.isfinite(share) and share >= 0):
                raise UserError(f"policy share {name}={share} must be a number of at least 0")
        if sum(shares.values()) == 0:
            raise UserError("all policy shares are 0; give at least one of " + ", ".join(shares))

    def draw(self, rng: np.random.Generator) -> str:
        """The name of one policy."""
        shares = asdict(self)
        weights = np.array(list(shares.values()))
        return str(rng.choice(list(shares), p=weights / weights.sum()))


@dataclass(frozen=True)
class CollectConfig:
    """What to record, and where."""

    env: str = "worldmodel/TwoRoom-v0"
    """Task id."""
    out: Path | None = None
    """File to write; by default `<task>.h5` in the datasets folder of WORLDMODEL_HOME."""
    episodes: int = 400
    """Number of episodes."""
    seed: int = 0
    """Episode i depends on (seed, i) alone."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes; any number gives the same file."""
    policies: PolicyMix = field(default_factory=PolicyMix)
    """Which policies play, by share of the episodes."""
    noise: float = 0.5
    """Standard deviation of the noise on the `noisy` policy's actions, in units of half the action range."""
    image_size: int = 64
    """Height and width of a frame in pixels."""
    max_steps: int = 50
    """Actions per episode; an episode goes on after success."""
    variation: tuple[str, ...] = ()
    """Factors of variation to sample in each episode, e.g. `disc.color`; `all` for every factor."""
    start_timeout: float = 120.0
    """Seconds after which a worker that has not drawn its first frame counts as hung."""

    def __post_init__(self) -> None:
        """Raises UserError when a number is out of range."""
        for name in ("episodes", "workers", "image_size", "max_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        for name in ("seed", "noise"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 0")
        if not self.start_timeout > 0:
            raise UserError(f"--start-timeout {self.start_timeout} must be more than 0")

    @property
    def path(self) -> Path:
        """The file that will be written."""
        return Path(self.out) if self.out is not None else datasets_dir() / f"{self.env.rsplit('/', 1)[-1]}.h5"

    def recipe(self) -> dict[str, Any]:
        """Everything the content of the file depends on, as JSON values."""
        settings = asdict(self) | {"variation": list(self.variation), "package_version": __version__}
        return {name: value for name, value in settings.items() if name not in ("out", "workers", "start_timeout")}


def make_policy(name: str, task: "MujocoTask", rng: np.random.Generator, noise: float) -> "Policy":
    """One of the policies of `PolicyMix`.

    Args:
        name: field of `PolicyMix`.
        task: gives the action bounds and the demonstrator.
        rng: the only source of randomness of the policy.
        noise: standard deviation of the noise of `noisy`, in units of half the action range.
    """
    space = task.action_space
    assert isinstance(space, spaces.Box), f"a task has a Box of actions, got {space}"
    low, high = space.low, space.high
    if name == "random":
        return lambda obs, info: rng.uniform(low, high).astype(np.float32)
    if name == "smooth":
        return _smooth(rng, low, high)
    demonstrator = task.demonstrator(rng)
    if name == "demonstrator":
        return demonstrator
    if name == "noisy":
        return _noisy(demonstrator, rng, low, high, noise)
    raise ValueError(f"no policy {name!r}; there are {', '.join(asdict(PolicyMix()))}")


def _smooth(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, correlation: float = 0.9) -> "Policy":
    """First-order autoregressive noise of standard deviation 0.6 of half the range, cut at the bounds."""
    centre, half = (high + low) / 2, (high - low) / 2
    value = rng.normal(size=low.shape)

    def act(obs: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        nonlocal value
        action = np.clip(centre + half * 0.6 * value, low, high).astype(np.float32)
        value = correlation * value + math.sqrt(1 - correlation**2) * rng.normal(size=low.shape)
        return action

    return act


def _noisy(demonstrator: "Policy", rng: np.random.Generator, low: np.ndarray, high: np.ndarray, noise: float) -> "Policy":
    wander = _smooth(rng, low, high)
    solved = False

    def act(obs: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        nonlocal solved
        solved = solved or bool(info["success"])
        if solved:
            return wander(obs, info)
        action = demonstrator(obs, info) + noise * (high - low) / 2 * rng.normal(size=low.shape)
        return np.clip(action, low, high).astype(np.float32)

    return act


def record_episode(task: "MujocoTask", config: CollectConfig, index: int) -> Episode:
    """Plays `config.max_steps` actions, on through success, and returns what was seen.

    Args:
        task: any instance of `config.env`; what it did before does not matter.
        config: of the collection; `out`, `workers` and `start_timeout` play no part.
        index: number of the episode in its collection.
    """
    rng = np.random.default_rng([config.seed, index])
    reset_seed = int(rng.integers(MAX_SEED))
    name = config.policies.draw(rng)
    obs, info = task.reset(seed=reset_seed, options=reset_options(config.variation))
    policy = make_policy(name, task, rng, config.noise)
    steps, actions = [(obs, info)], []
    pairs = [_question(task, rng)]
    for _ in range(config.max_steps):
        action = policy(obs, info)
        obs, _, _, _, info = task.step(action)
        actions.append(action)
        steps.append((obs, info))
        pairs.append(_question(task, rng))
    return Episode(
        frames=np.stack([obs["pixels"] for obs, _ in steps]),
        proprio=np.stack([obs["proprio"] for obs, _ in steps]).astype(np.float32),
        state=np.stack([info["state"] for _, info in steps]).astype(np.float64),
        features=np.stack([info["features"] for _, info in steps]).astype(np.float32),
        success=np.array([info["success"] for _, info in steps], np.bool_),
        captions=[info["caption"] for _, info in steps],
        questions=[question for question, _ in pairs],
        answers=[answer for _, answer in pairs],
        actions=np.stack(actions).astype(np.float32),
        action_texts=[task.describe_action(action) for action in actions],
        seed=reset_seed,
        policy=name,
        variation={factor: _json_value(value) for factor, value in info["variation"].items()},
        goal_state=np.asarray(info["goal_state"], np.float64),
    )


def reset_options(variation: tuple[str, ...]) -> dict[str, Any]:
    """The `options` of a task's `reset` that sample these factors of variation."""
    if not variation:
        return {}
    return {"variation": "all" if variation == ("all",) else list(variation)}


def _question(task: "MujocoTask", rng: np.random.Generator) -> tuple[str, str]:
    """One of the questions about the current state, with its answer."""
    pairs = task.questions(rng)
    return pairs[int(rng.integers(len(pairs)))]


def _json_value(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
