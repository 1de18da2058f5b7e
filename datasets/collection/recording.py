"""Recording one episode: what to record, and the loop; a pure function of (seed, index)."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from worldmodel import __version__
from worldmodel.datasets.collection.policies import DEFAULT_POLICIES, SB3, check_policies, draw_policy, make_policy, policy_file
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.schema import Storage
from worldmodel.envs import full_id, make_task
from worldmodel.errors import UserError
from worldmodel.home import datasets_dir

if TYPE_CHECKING:  # the worker processes import it when they make the task
    from worldmodel.envs.task import Task

MAX_SEED = 2**31
NOT_IN_RECIPE = ("out", "workers", "start_timeout", "ray", "ray_address")
"""Settings that change nothing in the file."""


def available_cores() -> int:
    """Count the cores that this process may use: a batch system may give it a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class CollectConfig:
    """Record episodes of a task into a file, in several worker processes.

    `worldmodel collect --task TwoRoom --episodes 500 --variation disc.color --out two_room.h5`: once more, it goes on after a stop.
    """

    env: Annotated[str, tyro.conf.arg(name="task")] = "worldmodel/TwoRoom-v0"
    """Task: a name such as PushT, or the id of any gymnasium environment."""
    out: Path | None = None
    """File to write; by default `<task>.h5` in the datasets folder of WORLDMODEL_HOME."""
    episodes: int = 400
    """Number of episodes."""
    seed: int = 0
    """Episode i depends on (seed, i) alone."""
    workers: int = field(default_factory=available_cores)
    """Worker processes; any number gives the same file."""
    policies: dict[str, float] = field(default_factory=dict)
    """Who plays, by share of the episodes: random, smooth, demonstrator, noisy, play, sb3:<file of Stable-Baselines3>; by default
    as the task says (worldmodel envs --task ...). A demonstrator alone stands at its goal most of the time. Policies of
    Stable-Baselines3 must have been trained without VecNormalize: a file of PPO or A2C says so, of SAC, TD3 and DDPG only the file
    of statistics next to it (*norm*.pkl), and where that was left behind they are fed other numbers than they were trained on."""
    noise: float = 0.5
    """Standard deviation of the noise on the `noisy` policy's actions, in units of half the action range."""
    image_size: int = 64
    """Height and width of a frame in pixels."""
    max_steps: int = 50
    """Environment actions per episode; an episode goes on after success."""
    variation: tuple[str, ...] = ()
    """Factors of variation to sample in each episode, e.g. `disc.color`; `all` for every factor."""
    start_timeout: float = 120.0
    """Seconds after which a worker that has not drawn its first frame counts as hung."""
    camera: str | None = None
    """Camera of the observation; by default the task's first one."""
    cameras: tuple[str, ...] = ()
    """Additional cameras to record next to that of the observation."""
    action_block: int = 1
    """Environment actions per recorded step: only every k-th frame is drawn and kept."""
    storage: Storage = "lossless"
    """How the file keeps its frames: lossless (compressed, smallest), raw (uncompressed, fastest to read) or jpeg (lossy)."""
    ray: bool = False
    """Record with Ray, on a cluster or on this machine, instead of worker processes; the same file comes out."""
    ray_address: str | None = None
    """Address of the Ray cluster; by default one of this machine's own is started."""

    def __post_init__(self) -> None:
        """Raise UserError when a number is out of range or a policy is not there."""
        object.__setattr__(self, "env", full_id(self.env))
        check_policies(self.shares)
        for name in ("episodes", "workers", "image_size", "max_steps", "action_block"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        for name in ("seed", "noise"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 0")
        if not self.start_timeout > 0:
            raise UserError(f"--start-timeout {self.start_timeout} must be more than 0")
        if self.max_steps % self.action_block:
            raise UserError(f"--max-steps {self.max_steps} must be a multiple of --action-block {self.action_block}")
        if self.ray_address is not None and not self.ray:
            raise UserError(f"--ray-address {self.ray_address} needs --ray")
        if len(set(self.cameras)) < len(self.cameras):
            raise UserError(f"--cameras {' '.join(self.cameras)} names a camera twice")

    @property
    def path(self) -> Path:
        """The file that will be written."""
        return Path(self.out) if self.out is not None else datasets_dir() / f"{self.env.rsplit('/', 1)[-1]}.h5"

    @property
    def shares(self) -> dict[str, float]:
        """Share of the episodes that each policy plays."""
        return dict(self.policies or DEFAULT_POLICIES)

    def recipe(self) -> dict[str, Any]:
        """Return everything the content of the file depends on, as JSON values."""
        files = {name: _digest(policy_file(name)) for name in self.shares if name.startswith(SB3)}
        settings = asdict(self) | {"package_version": __version__, "policies": self.shares, "policy_files": files}
        settings |= {"variation": list(self.variation), "cameras": list(self.cameras)}
        return {name: value for name, value in settings.items() if name not in NOT_IN_RECIPE}


def _digest(path: Path) -> str:
    """Compute a digest that tells one file of weights from another."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


class Recorder:
    """Gathers what is seen and done in one episode.

    It begins with the current state of `task`, of which `obs` and `info` tell; `cameras` take a picture of every recorded state, too.
    """

    def __init__(self, task: "Task", obs: dict[str, np.ndarray], info: dict[str, Any], cameras: tuple[str, ...] = ()) -> None:
        self._task = task
        self._seen: list[tuple[dict[str, np.ndarray], dict[str, Any]]] = []
        self._blocks: list[np.ndarray] = []
        self._outcomes: list[tuple[float, bool, bool]] = []
        self._views: dict[str, list[np.ndarray]] = {camera: [] for camera in sorted(cameras)}
        self._look(obs, info)

    def _look(self, obs: dict[str, np.ndarray], info: dict[str, Any]) -> None:
        self._seen.append((obs, info))
        for camera, frames in self._views.items():
            frames.append(self._task.render(camera))

    def add(
        self, actions: np.ndarray, outcomes: Sequence[tuple[float, bool, bool]], obs: dict[str, np.ndarray], info: dict[str, Any]
    ) -> None:
        """Add one recorded step.

        Args:
            actions: the k actions of a block, (k, a).
            outcomes: reward, terminated and truncated of each of them, as `step` returns them.
            obs: what the task, now in the block's last state, shows.
            info: the info of that state.
        """
        rewards, terminated, truncated = zip(*outcomes, strict=True)
        self._blocks.append(np.asarray(actions, np.float32))
        self._outcomes.append((float(sum(rewards)), any(terminated), any(truncated)))
        self._look(obs, info)

    def __len__(self) -> int:
        """Return the number of steps recorded so far."""
        return len(self._blocks)

    def episode(self, rng: np.random.Generator, seed: int, policy: str) -> Episode:
        """Make the episode of a task that was reset with `seed`; `rng` chooses among phrasings and questions."""
        task, seen = self._task, self._seen
        state = np.stack([info["state"] for _, info in seen]).astype(np.float64)
        info = seen[-1][1]
        pairs = task.language.episode_questions(rng, state)
        return Episode(
            frames=np.stack([obs["pixels"] for obs, _ in seen]),
            proprio=np.stack([obs["proprio"] for obs, _ in seen]).astype(np.float32),
            state=state,
            features=np.stack([info["features"] for _, info in seen]).astype(np.float32),
            success=np.array([info["success"] for _, info in seen], np.bool_),
            captions=[_one_of(rng, task.language.captions(row)) for row in state],
            questions=[question for question, _ in pairs],
            answers=[answer for _, answer in pairs],
            actions=np.stack([block.reshape(-1) for block in self._blocks]),
            action_texts=["; ".join(task.describe_action(action) for action in block) for block in self._blocks],
            action_words=["; ".join(task.describe_action(action, "words") for action in block) for block in self._blocks],
            changes=[task.language.change(before, after) for before, after in pairwise(state)],
            reward=np.array([reward for reward, _, _ in self._outcomes], np.float64),
            terminated=np.array([terminated for _, terminated, _ in self._outcomes], np.bool_),
            truncated=np.array([truncated for _, _, truncated in self._outcomes], np.bool_),
            seed=seed,
            policy=policy,
            variation={factor: _json_value(value) for factor, value in info["variation"].items()},
            goal_state=np.asarray(info["goal_state"], np.float64),
            goal_text=_one_of(rng, task.language.goals(info["goal_state"])),
            views={camera: np.stack(frames) for camera, frames in self._views.items()},
        )


def as_the_task_says(config: CollectConfig) -> CollectConfig:
    """Fill in the policies that the task is best recorded with, where none are asked for."""
    if config.policies:
        return config
    task = make_task(config.env, image_size=config.image_size)
    try:
        return replace(config, policies=dict(task.recording.policies))
    finally:
        task.close()


def open_task(config: CollectConfig) -> "Task":
    """Make the task of a collection; UserError where there is no such task, or it has no such camera."""
    task = make_task(config.env, image_size=config.image_size, **({"camera": config.camera} if config.camera else {}))
    for camera in config.cameras:
        if camera not in task.cameras:
            raise UserError(f"unknown camera {camera!r}: this task has {', '.join(task.cameras)}")
        if camera == task.camera:
            raise UserError(f"--cameras {camera}: this camera takes the observation already; name other ones")
    return task


def warm_up(task: "Task", config: CollectConfig, seed: int = 0) -> dict[str, Any]:
    """Draw a first frame and make every policy once, so that what cannot work fails at the start with a UserError.

    Returns:
        Facts about the task for the meta data, as JSON values.
    """
    task.reset(seed=seed, options=reset_options(config.variation))
    for camera in config.cameras:
        task.render(camera)
    for name, share in config.shares.items():
        if share > 0:
            make_policy(name, task, np.random.default_rng(0), config.noise)
    return {
        "feature_names": list(task.feature_names),
        "action_names": list(task.action_names),
        "image_size": config.image_size,
        "camera": task.camera,
        "cameras": list(config.cameras),
        "action_block": config.action_block,
        "restorable": bool(getattr(task, "restorable", True)),
        "factors": {
            name: {"choices": list(factor.choices)} if factor.choices else {"low": factor.low, "high": factor.high}
            for name, factor in task.factors.items()
        },
    }


def record_episode(task: "Task", config: CollectConfig, index: int) -> Episode:
    """Play `config.max_steps` actions, on through success, and return the recorded episode.

    Within an action block nothing is drawn: a policy acts on the fresh proprioception and info, and on the pixels
    of the block's first state. The episode is shorter only if the environment cannot go on (`task.finished`); it then
    ends with the last whole block, and what the actions after that block returned is not recorded.

    Args:
        task: any instance of `config.env`; what it did before does not matter.
        config: of the collection; `out`, `workers`, `start_timeout` and `ray` play no part.
        index: number of the episode in its collection.

    Raises:
        UserError: the environment ended within the first block, or gave numbers that are not finite.
    """
    rng = np.random.default_rng([config.seed, index])
    task_seed = int(rng.integers(MAX_SEED))  # as `reset_seed`
    name = draw_policy(config.shares, rng)
    obs, info = task.reset(seed=task_seed, options=reset_options(config.variation))
    policy = make_policy(name, task, rng, config.noise)
    recorder = Recorder(task, obs, info, config.cameras)
    finished = False
    while len(recorder) < config.max_steps // config.action_block and not finished:
        actions: list[np.ndarray] = []
        outcomes: list[tuple[float, bool, bool]] = []
        while len(actions) < config.action_block and not finished:
            action = policy(obs, info)
            task.advance(action)
            obs, info = obs | {"proprio": task.proprio()}, task.info()
            actions.append(action)
            outcomes.append(task.outcome(info))
            finished = bool(getattr(task, "finished", False))
        if len(actions) == config.action_block:
            obs = obs | {"pixels": task.render()}
            recorder.add(np.asarray(actions, np.float32), outcomes, obs, info)
    if len(recorder) == 0:
        raise UserError(f"episode {index} of {config.env} ended within {config.action_block} actions; choose a smaller --action-block")
    episode = recorder.episode(rng, task_seed, name)
    for column in ("proprio", "state", "features", "actions", "reward", "goal_state"):
        bad = np.argwhere(~np.isfinite(getattr(episode, column)))
        if len(bad):
            raise UserError(
                f"{column} of episode {index} of {config.env} holds a number that is not finite, first at {bad[0].tolist()}"
            )
    return episode


def reset_seed(seed: int, index: int) -> int:
    """Derive the seed that the task is reset with for episode `index` of a collection with this seed."""
    return int(np.random.default_rng([seed, index]).integers(MAX_SEED))


def reset_options(variation: tuple[str, ...]) -> dict[str, Any]:
    """Make the `options` of a task's `reset` that sample these factors of variation."""
    if not variation:
        return {}
    return {"variation": "all" if variation == ("all",) else list(variation)}


def _one_of(rng: np.random.Generator, texts: list[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def _json_value(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
