"""A protocol is a file: which starts, which goals, which budget.

A manifest lists held-out starts and goals, each with the full physics state and the factor values of its
episode, so that everybody evaluates the same problems and needs nothing but the manifest and the task. It is
made from the held-out episodes of an episode file: the start is frame t of an episode, the goal is frame t +
goal_offset of the same episode. Starts that already satisfy their goal are dropped, and the number dropped is
recorded. All lengths are in env steps, whatever the action block of the model that is evaluated.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.errors import UserError

SCHEMA_VERSION = 1
KIND = "worldmodel.manifest"


@dataclass(frozen=True)
class ManifestConfig:
    """Which problems to draw."""

    problems: int = 56
    """Start-goal pairs."""
    goal_offset: int = 25
    """Env steps between start and goal in their episode."""
    budget: int = 50
    """Env steps that a controller has."""
    min_distance: float = 3.0
    """Pairs nearer than this many success thresholds are dropped; 1 keeps all that are not solved."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        for name in ("problems", "goal_offset", "budget"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, must be at least 0")


@dataclass(frozen=True)
class Problem:
    """One start and goal."""

    episode: int
    """Index of the episode in the source file."""
    start_step: int
    """Frame of the start in that episode."""
    goal_step: int
    """Frame of the goal."""
    start_state: tuple[float, ...]
    """Full physics state to set."""
    goal_state: tuple[float, ...]
    """Full physics state of the goal; the goal frame is its picture."""
    variation: dict[str, Any]
    """Factor values of the episode."""
    distance: float
    """From start to goal, task units."""


@dataclass(frozen=True)
class Manifest:
    """A fixed set of problems."""

    env_id: str
    """Task, e.g. worldmodel/TwoRoom-v0."""
    image_size: int
    """Side of the frames, pixels."""
    source: str
    """Name of the episode file and which of its episodes were used."""
    goal_offset: int
    """Env steps between start and goal."""
    budget: int
    """Env steps that a controller has."""
    min_distance: float
    """In success thresholds; nearer pairs were dropped."""
    success_threshold: float
    """Distance in task units at which the task calls it success."""
    seed: int
    """Of the draw."""
    drawn: int
    """Pairs looked at."""
    dropped_solved: int
    """Pairs dropped because the start already satisfied the goal."""
    dropped_near: int
    """Pairs dropped because they were nearer than `min_distance`."""
    problems: tuple[Problem, ...]
    """The pairs that were kept."""

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        content = {"kind": KIND, "schema_version": SCHEMA_VERSION, **asdict(self)}
        write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def load(path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            UserError: the file is missing, no manifest, of another version, or incomplete.
        """
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"no manifest at {path}; make one with `worldmodel evaluate`") from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            raise UserError(f"{path} is not a manifest: {error}") from error
        if not isinstance(content, dict) or content.pop("kind", None) != KIND:
            raise UserError(f'{path} is not a manifest: it lacks "kind": "{KIND}"')
        version = content.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: make it anew")
        return _from_json(path, content)

    @property
    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and goal states, float64 (b, state) each."""
        return (
            np.array([problem.start_state for problem in self.problems]),
            np.array([problem.goal_state for problem in self.problems]),
        )


def _from_json(path: Path, content: dict[str, Any]) -> Manifest:
    try:
        _check_fields(content, Manifest)
        problems = []
        for entry in content["problems"]:
            _check_fields(entry, Problem)
            states = {key: tuple(float(x) for x in entry[key]) for key in ("start_state", "goal_state")}
            if len(states["start_state"]) != len(states["goal_state"]):
                raise ValueError("a start and a goal state of different length")
            problems.append(Problem(**{**entry, **states}))
        if not problems:
            raise ValueError("no problems")
        return Manifest(**{**content, "problems": tuple(problems)})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged manifest ({error}): make it anew") from error


def _check_fields(entry: dict[str, Any], record: type) -> None:
    expected = {field.name for field in fields(record)}
    if set(entry) != expected:
        raise ValueError(f"missing {sorted(expected - set(entry))}, unknown {sorted(set(entry) - expected)}")


def _draw_starts(store: EpisodeStore, episodes: Sequence[int], config: ManifestConfig) -> Iterator[tuple[int, int]]:
    """(episode, start frame) in random order: one of each episode, then another of each, and so on."""
    rng = np.random.default_rng(config.seed)
    steps = config.goal_offset // store.action_block
    starts = {int(i): rng.permutation(max(0, int(store.lengths[i]) - steps + 1)) for i in episodes}
    for turn in range(max(map(len, starts.values()), default=0)):
        for index in rng.permutation(list(starts)).tolist():
            if turn < len(starts[index]):
                yield index, int(starts[index][turn])


def make_manifest(store: EpisodeStore, episodes: Sequence[int], source: str, config: ManifestConfig) -> Manifest:
    """Draw problems from held-out episodes.

    Each pass over the shuffled episodes draws one pair from each, so that pairs spread over as many episodes
    as there are.

    Args:
        store: an episode file.
        episodes: indices of the held-out episodes; never trained on.
        source: what to record about where they come from.
        config: how many, how far.

    Raises:
        UserError: the episodes are too short or do not hold enough unsolved pairs.
    """
    if config.goal_offset % store.action_block:
        block = store.action_block
        raise UserError(f"{store.path} was recorded in blocks of {block} actions; goal_offset must be a multiple of {block}")
    task = make_task(store.meta["env_id"], image_size=store.image_size)
    problems: list[Problem] = []
    drawn = solved = near = 0
    for index, start in _draw_starts(store, episodes, config):
        if len(problems) == config.problems:
            break
        goal = start + config.goal_offset // store.action_block
        episode = store.episode(index)
        states = episode.state[start], episode.state[goal]
        distance = float(task.goal_distance(*states))
        drawn += 1
        if task.is_success(*states):
            solved += 1
        elif distance < config.min_distance * task.success_threshold:
            near += 1
        else:
            start_state, goal_state = (tuple(state.tolist()) for state in states)
            problems.append(Problem(index, start, goal, start_state, goal_state, episode.variation, distance))
    if len(problems) < config.problems:
        raise UserError(
            f"only {len(problems)} of {config.problems} problems found in {len(episodes)} held-out episodes "
            f"({drawn} drawn, {solved} already solved, {near} nearer than {config.min_distance} thresholds): "
            "collect more episodes, or lower problems, goal_offset or min_distance"
        )
    return Manifest(
        env_id=store.meta["env_id"],
        image_size=store.image_size,
        source=source,
        goal_offset=config.goal_offset,
        budget=config.budget,
        min_distance=config.min_distance,
        success_threshold=float(task.success_threshold),
        seed=config.seed,
        drawn=drawn,
        dropped_solved=solved,
        dropped_near=near,
        problems=tuple(problems),
    )
