"""A protocol is a file: which starts, which goals, which budget.

A manifest lists held-out starts and goals, each with the full physics state and the factor values of its
episode, so that everybody evaluates the same problems and needs nothing but the manifest and the task. It is
made from the held-out episodes of an episode file: the start is frame t of an episode. The goal is, "path", frame
t + goal_offset of the same episode, so that its policy has shown a way; or, "elsewhere", the goal that the task
itself draws for this start under the same factors of variation: a state that can be reached (in the same maze, the
same flat, with the same colors), that no episode holds. Starts that already satisfy their goal, or are too near to
it, are dropped, and the number dropped is recorded. All lengths are in env steps, whatever the action block of the
model that is evaluated.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from worldmodel.agents.paired import digest_of
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.outputs import write_output
from worldmodel.datasets.records import parse_json
from worldmodel.envs import task_of_data as make_task
from worldmodel.errors import UserError
from worldmodel.serialization import rebuild

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

SCHEMA_VERSION = 2
KIND = "worldmodel.manifest"
Goals = Literal["path", "elsewhere"]


@dataclass(frozen=True)
class ManifestConfig:
    """Which problems to draw."""

    problems: int = 100
    """Start-goal pairs."""
    goals: Goals = "path"
    """path: a later frame of the start's episode; elsewhere: a goal that the task draws for the start, on no recorded path."""
    goal_offset: int | None = None
    """Env steps between start and goal in their episode; None: as the task says. Goals elsewhere have none."""
    budget: int | None = None
    """Env steps that a controller has; None: as the task says for goals on the path, twice that for goals elsewhere."""
    min_distance: float | None = None
    """Pairs nearer than this many success thresholds are dropped, 1 keeps all that are not solved; None: as the task says."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        for name in ("problems", "goal_offset", "budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, must be at least 1")
        if self.goals not in ("path", "elsewhere"):
            raise UserError(f"goals is {self.goals!r}, must be path or elsewhere")
        if self.goals == "elsewhere" and self.goal_offset is not None:
            raise UserError(f"goal_offset is {self.goal_offset}, but goals elsewhere have none; leave it out")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, must be at least 0")


@dataclass(frozen=True)
class Problem:
    """One start and goal."""

    episode: int
    """Index of the episode in the source file."""
    start_step: int
    """Frame of the start in that episode."""
    goal_step: int | None
    """Frame of the goal; None where it is elsewhere."""
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
    goals: Goals
    """Where the goals come from."""
    goal_offset: int
    """Env steps between start and goal; 0 where goals are elsewhere and nobody knows."""
    budget: int
    """Env steps that a controller has."""
    min_distance: float
    """In success thresholds; nearer pairs were dropped."""
    success_threshold: float
    """Distance in task units at which the task calls it success."""
    seed: int
    """Of the draw."""
    drawn: int
    """Pairs of start and goal that were examined."""
    dropped_solved: int
    """Pairs dropped because the start already satisfied the goal."""
    dropped_near: int
    """Pairs dropped because they were nearer than `min_distance`."""
    problems: tuple[Problem, ...]
    """The pairs that were kept."""

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        content = {"kind": KIND, "schema_version": SCHEMA_VERSION, **asdict(self)}
        write_output(path, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def load(path: Path) -> "Manifest":
        """Read a manifest.

        Raises:
            UserError: the file is missing, no manifest, of another version, or incomplete.
        """
        try:
            content = parse_json(path.read_text())
        except FileNotFoundError:
            raise UserError(f"no manifest at {path}; make one with `worldmodel evaluate`") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is not a manifest: {error}") from error
        if not isinstance(content, dict) or content.pop("kind", None) != KIND:
            raise UserError(f'{path} is not a manifest: it lacks "kind": "{KIND}"')
        version = content.pop("schema_version", None)
        if version == 1:  # before goals could be elsewhere
            content["goals"] = "path"
        elif version != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}: make it anew")
        return _from_json(path, content)

    @property
    def digest(self) -> str:
        """What tells these problems from others."""
        return digest_of([json.loads(json.dumps(asdict(problem))) for problem in self.problems])

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
        for entry in content["problems"]:
            _check_fields(entry, Problem)
            if len(entry["start_state"]) != len(entry["goal_state"]):
                raise ValueError("a start and a goal state of different length")
        if not content["problems"]:
            raise ValueError("no problems")
        manifest = rebuild(Manifest, content, "it")
        assert isinstance(manifest, Manifest)
        return manifest
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged manifest ({error}): make it anew") from error


def _check_fields(entry: dict[str, Any], record: type) -> None:
    expected = {field.name for field in fields(record)}
    if set(entry) != expected:
        raise ValueError(f"missing {sorted(expected - set(entry))}, unknown {sorted(set(entry) - expected)}")


def _draw_starts(store: EpisodeStore, episodes: Sequence[int], steps: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield (episode, start frame), `steps` or more before its end, in random order: one of each episode, then another of each ..."""
    rng = np.random.default_rng(seed)
    starts = {int(i): rng.permutation(max(0, int(store.lengths[i]) - steps + 1)) for i in episodes}
    for turn in range(max(map(len, starts.values()), default=0)):
        for index in rng.permutation(list(starts)).tolist():
            if turn < len(starts[index]):
                yield index, int(starts[index][turn])


def _as_the_task_says(config: ManifestConfig, task: "Task", block: int) -> tuple[int, int, float]:
    """Return goal offset in recorded steps, budget and least distance; the task decides those that the configuration leaves open."""
    if config.goals == "elsewhere":
        offset, budget = 0, 2 * task.recording.budget
    else:
        offset, budget = config.goal_offset or -(-task.recording.goal_offset // block) * block, task.recording.budget
    least = task.recording.min_distance if config.min_distance is None else config.min_distance
    return offset // block, config.budget or budget, least


def _goal_state(task: "Task", episode: Episode, start: int, goal: int | None, seed: int) -> np.ndarray:
    """Return the goal of a start: frame `goal`, or else drawn by the task, which then has the episode's factors of variation."""
    options: dict[str, Any] = {"state": episode.state[start], "variation_values": episode.variation}
    if goal is not None:
        options["goal_state"] = episode.state[goal]
    _, info = task.reset(seed=seed, options=options)
    state: np.ndarray = info["goal_state"]
    return state


def make_manifest(store: EpisodeStore, episodes: Sequence[int], source: str, config: ManifestConfig) -> Manifest:
    """Draw problems from held-out episodes; no model is needed, so too few episodes are reported before any training.

    Each pass over the shuffled episodes draws one pair from each, so that pairs spread over as many episodes
    as there are: while there are enough, no two pairs are of the same episode.

    Args:
        store: an episode file.
        episodes: indices of the held-out episodes; never trained on.
        source: what to record about where they come from.
        config: how many, how far.

    Raises:
        UserError: the episodes are too short or do not hold enough unsolved pairs.
    """
    block = store.action_block
    if (config.goal_offset or 0) % block:
        raise UserError(f"{store.path} was recorded in blocks of {block} actions; goal_offset must be a multiple of {block}")
    task = make_task(store.meta["env_id"], image_size=store.image_size)
    steps, budget, least = _as_the_task_says(config, task, block)
    problems: list[Problem] = []
    drawn = solved = near = 0
    for index, start in _draw_starts(store, episodes, steps, config.seed):
        if len(problems) == config.problems:
            break
        episode = store.episode(index)
        goal = None if config.goals == "elsewhere" else start + steps
        seed = int(np.random.default_rng([config.seed, index, start]).integers(2**31))
        states = episode.state[start], _goal_state(task, episode, start, goal, seed)
        distance = float(task.goal_distance(*states))
        drawn += 1
        if task.is_success(*states):
            solved += 1
        elif distance < least * task.success_threshold:
            near += 1
        else:
            whole = [tuple(state.tolist()) for state in states]
            problems.append(Problem(index, start, goal, whole[0], whole[1], episode.variation, distance))
    if len(problems) < config.problems:
        raise UserError(
            f"only {len(problems)} of {config.problems} problems found in {len(episodes)} held-out episodes "
            f"({drawn} drawn, {solved} already solved, {near} nearer than {least} thresholds): "
            "collect more episodes, or lower problems, goal_offset or min_distance"
        )
    return Manifest(
        env_id=store.meta["env_id"],
        image_size=store.image_size,
        source=source,
        goals=config.goals,
        goal_offset=steps * block,
        budget=budget,
        min_distance=least,
        success_threshold=float(task.success_threshold),
        seed=config.seed,
        drawn=drawn,
        dropped_solved=solved,
        dropped_near=near,
        problems=tuple(problems),
    )
