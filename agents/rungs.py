"""How each rung of the ladder is measured; what the numbers mean is said in `ladder.py`.

Axes: b problems, s candidates of a menu, h model steps, n tokens, c channels, f variables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.agents.controllers import EvaluateConfig, Name, Parts, make_controllers
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.ladder import (
    DREAMT_FUTURES,
    HELD,
    LINEAR,
    MODEL_COST,
    NOT_OF_GOAL,
    OF_GOAL,
    SHUFFLED,
    STEP_AHEAD,
    TOUCHED,
    TRUE_DISTANCE,
    TRUE_FRAMES,
    TRUE_FUTURES,
    LadderRow,
    Rung,
)
from worldmodel.agents.learned_simulator import LearnedSimulator
from worldmodel.agents.objective import make_objective
from worldmodel.agents.oracle import OracleSimulator, TrueDistance, true_distance_objective
from worldmodel.agents.planner import ActionBounds, correlated_noise
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.reader import ReaderConfig, determination, train_reader
from worldmodel.agents.score import Score
from worldmodel.agents.simulator import History, Simulator
from worldmodel.codec.codec import Codec
from worldmodel.codec.probe import spearman
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError
from worldmodel.evaluation import (
    LEAST_SPREAD,
    DreamConfig,
    DreamErrors,
    StateReader,
    by_horizon,
    draw_clips,
    linear_reader,
    rooted,
    some_episodes,
    state_errors,
    state_of_clips,
    varying_features,
    within,
)

GOAL_VARIABLES = {
    "worldmodel/Ant-v0": ("torso.x", "torso.y"),
    "worldmodel/Cube-v0": ("cube",),
    "worldmodel/PushT-v0": ("block.",),
    "worldmodel/Reacher-v0": ("shoulder.", "elbow."),
}
"""How the variables begin that a task's goal is measured in, by its id; all variables of the others."""
TOLD = 0.01
"""Success thresholds by which candidates of a menu must differ, all in all, to have an order."""


@dataclass(frozen=True)
class MenuConfig:
    """Candidates that the cost has to put in order."""

    problems: int = 16
    """Starts and goals, the first of the manifest."""
    candidates: int = 64
    """Action sequences for each."""
    seed: int = 0
    """Of the sequences."""

    def __post_init__(self) -> None:
        for name, least in (("problems", 2), ("candidates", 3), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"menu.{name} is {getattr(self, name)}, must be at least {least}")


@dataclass(frozen=True)
class Marked:
    """Makes the rows of one task and seed."""

    task: str
    """Name of the task."""
    seed: int
    """Seed of the run that is diagnosed."""
    rows: list[LadderRow] = field(default_factory=list)
    """So far."""

    def add(self, rung: Rung, name: str, value: float, control: float | None = None) -> None:
        """Add one row."""
        self.rows.append(LadderRow(self.task, self.seed, rung, name, float(value), None if control is None else float(control)))


def is_of_goal(env_id: str, variable: str) -> bool:
    """Tell whether a task's goal is measured in a variable."""
    return variable.startswith(GOAL_VARIABLES.get(env_id, ("",)))


def codec_rung(
    marked: Marked, codec: Codec, store: EpisodeStore, training: Sequence[int], held_out: Sequence[int], config: ReaderConfig
) -> StateReader:
    """Measure what a network and a linear map read off the tokens of held-out frames, with the same network on the frames as control.

    Args:
        marked: gets the rows.
        codec: of the model.
        store: episode file with true variables.
        training: episodes that the readers are trained on.
        held_out: episodes that they are measured on.
        config: of the network.

    Returns:
        The network on tokens, for the errors of dreams.

    Raises:
        UserError: the file has no true variables that vary.
    """
    columns, names, scale = varying_features(store, training)
    features = store.column("features")[:, columns].astype(np.float64)
    kept = some_episodes(store, training, config.frames)
    fit, test = store.frame_rows(kept), store.frame_rows(some_episodes(store, held_out, config.frames // 4))
    episode = np.repeat(kept, store.lengths[kept] + 1)
    frames, test_frames = store.frames(fit), store.frames(test)
    tokens, truth = codec.encode_frames(test_frames), features[test]

    def as_grid(latents: Tensor) -> Tensor:
        return rearrange(latents, "m (r k) c -> m c r k", r=codec.grid[0]).float().cpu()

    def as_picture(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(rearrange(pixels, "m h w c -> m c h w"))

    read = train_reader(as_grid(codec.encode_frames(frames)), features[fit], episode, config)
    read_frames = train_reader(as_picture(frames), features[fit], episode, config)
    found = determination(read(as_grid(tokens)), truth)
    beside = determination(read_frames(as_picture(test_frames)), truth)
    straight = determination(linear_reader(codec, store, training).read(tokens), truth)
    varies = truth.std(axis=0) > LEAST_SPREAD
    for i in np.flatnonzero(varies):
        kind = OF_GOAL if is_of_goal(store.meta["env_id"], names[i]) else NOT_OF_GOAL
        marked.add("codec", f"{kind}{names[i]}", found[i], beside[i])
    for i in np.flatnonzero(varies):
        marked.add("codec", f"{LINEAR}{names[i]}", straight[i], beside[i])
    return StateReader(lambda given: read(as_grid(given)), names, columns, scale)


def dynamics_rung(marked: Marked, errors: DreamErrors, at_once: Mapping[int, float] | None = None) -> None:
    """Measure the dream's errors of the state, with copying as control, and whether the dream follows the actions.

    Args:
        marked: gets the rows.
        errors: of held-out clips, measured with a reader.
        at_once: error of the state after k steps predicted without the frames between, by k, where the model can.
    """
    for h, ((error, _), (copied, _)) in enumerate(zip(errors.state["learned"], errors.state["copy_last_frame"], strict=True)):
        marked.add("dynamics", f"{STEP_AHEAD}{h + 1}", error, copied)
    marked.add("dynamics", TRUE_FRAMES, errors.state["true_frames"][0][0])
    marked.add("dynamics", SHUFFLED, errors.shuffled_over_true, 1.0)
    for k, error in sorted((at_once or {}).items()):
        marked.add("dynamics", f"state error, {k} steps at once", error, errors.state["learned"][k - 1][0])


def errors_at_once(
    jump: Callable[[Tensor, Tensor, Tensor], Tensor],
    codec: Codec,
    store: EpisodeStore,
    episodes: Sequence[int],
    block: int,
    config: DreamConfig,
    reader: StateReader,
    steps: Sequence[int],
) -> dict[int, float]:
    """Return root mean squared errors of the state, by k, of frames k steps ahead that are predicted without the frames between.

    Args:
        jump: latents of the frames given (b, t, n, c), actions between them (b, t - 1, a), actions ahead (b, k, a) -> (b, n, c).
        codec: of the model.
        store: episode file.
        episodes: held-out ones.
        block: env actions per model step.
        config: the clips are those of `dream_errors`.
        reader: of the true state.
        steps: the k that are tried, as far as the clips go: those that planning's jumps have.
    """
    config = within(config, store, episodes, block)
    clips = draw_clips(store, episodes, block, config)
    latents = codec.encode_frames(np.stack([clip.frames[: config.context] for clip in clips]))
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips]))
    variables = state_of_clips(store, clips, block, reader.columns)
    of_episode, given, found = np.array([clip.episode for clip in clips]), config.context - 1, {}
    for k in (k for k in steps if k <= config.horizon):
        reached = jump(latents, actions[:, :given], actions[:, given : given + k])
        squared = state_errors(reader, reached[:, None], variables[:, [given + k]]).mean(axis=2)  # (b, 1)
        [(found[k], _)] = rooted(by_horizon(torch.from_numpy(squared), of_episode))
    return found


def ranking_rung(marked: Marked, manifest: Manifest, parts: Parts, config: EvaluateConfig, menu: MenuConfig) -> None:
    """Measure the rank correlation of the model's cost with the true distance, over one menu of candidates per problem, by episode.

    The true cost is the true distance after each model step, reduced over the horizon as the objective reduces its own.

    Args:
        marked: gets the rows.
        manifest: of held-out problems.
        parts: of the model, with dynamics.
        config: objective; horizon, spread and correlation of the candidates are the planner's.
        menu: how many.
    """
    assert parts.dynamics is not None, "there is nothing to dream with"
    history, goals = first_histories(manifest, parts, menu.problems)
    candidates = draw_menu(len(history), parts.bounds, config, menu)
    truth = TrueDistance(parts.workers)
    true = costs(truth, true_distance_objective(config.objective), history, goals, candidates)
    objective = make_objective(config.objective, parts.codec, parts.actor)
    simulators: dict[str, Simulator] = {
        TRUE_FUTURES: OracleSimulator(parts.workers, parts.codec, parts.device, parts.jump),
        DREAMT_FUTURES: LearnedSimulator(parts.dynamics, parts.codec, parts.device, config.seed),
    }
    least, beside = TOLD * manifest.success_threshold, 0.0
    ordered = np.ptp(true, axis=1) > least
    if not ordered.any():
        return
    of_episode = np.array([problem.episode for problem in manifest.problems[: len(true)]])
    for name, simulator in simulators.items():
        found = costs(simulator, objective, history, goals, candidates)[ordered]
        each = rank_correlations(found, true[ordered], least)
        [(mean, half)] = by_horizon(torch.from_numpy(each)[:, None], of_episode[ordered])
        marked.add("ranking", name, mean, beside)
        if len(each) > 1:
            marked.add("ranking", f"{name}, half of the 95 % interval", half)
        beside = mean


def first_histories(manifest: Manifest, parts: Parts, count: int) -> tuple[History, np.ndarray]:
    """Return the first history of the first problems, and their goals' frames uint8 (b, height, width, 3)."""
    problems = manifest.problems[:count]
    starts, goals = (states[:count] for states in manifest.states)
    variations = [problem.variation for problem in problems]
    frames = parts.workers.render(starts, variations)
    none = np.zeros((len(problems), 0, parts.bounds.dim), np.float32)
    return History(frames[:, None], none, starts, variations, goals), parts.workers.render(goals, variations)


def draw_menu(problems: int, bounds: ActionBounds, config: EvaluateConfig, menu: MenuConfig) -> Tensor:
    """Draw candidates (b, s, h, a) as the planner's first ones, each problem with its own."""
    planner, generator = config.planner, torch.Generator().manual_seed(menu.seed)
    noise = correlated_noise(generator, problems, menu.candidates, planner.horizon, bounds, planner.noise_correlation)
    return bounds.clamp(bounds.center + planner.std * bounds.scale * noise)


def costs(
    simulator: Simulator, objective: Callable[[Tensor, Tensor], Tensor], history: History, goals: np.ndarray, candidates: Tensor
) -> np.ndarray:
    """Compute costs (b, s) of candidates (b, s, h, a), one problem at a time."""
    found = []
    for i in range(len(history)):
        state = simulator.encode(history.select(slice(i, i + 1)))
        found.append(objective(simulator.rollout(state, candidates[i : i + 1]), simulator.encode_goal(goals[i : i + 1])).cpu())
    return torch.cat(found).double().numpy()


def rank_correlations(found: np.ndarray, true: np.ndarray, least: float) -> np.ndarray:
    """Compute Spearman's correlation of costs (b, s) with true ones, for each problem whose true costs differ by more than `least`.

    Where the true costs of all candidates lie within `least`, none comes nearer than another, and the problem is left out.
    """
    return np.array([spearman(a, b) for a, b in zip(found, true, strict=True) if np.ptp(b) > least])


def search_rung(
    marked: Marked, manifest: Manifest, parts: Parts, config: EvaluateConfig, known: Mapping[str, Score] | None = None
) -> list[Score]:
    """Run the planner in the true simulator, with the true distance and with the model's cost; also return their scores.

    Scores that are known already, by the controller's name, are not measured again.
    """
    names: list[Name] = ["oracle_true_distance", "oracle"]
    found = dict(known or {})
    missing = [name for name in names if name not in found]
    controllers = make_controllers(config, parts, missing) if missing else {}
    found |= {score.name: score for score in evaluate(manifest, controllers, parts.workers, config)}
    true, cost = (found[name].success_rate for name in names)
    marked.add("search", TRUE_DISTANCE, true)
    marked.add("search", MODEL_COST, cost, true)
    return [found[name] for name in names]


def result_rung(marked: Marked, scores: Sequence[Score]) -> None:
    """Record what each controller touches and holds, with random actions as control."""
    control = next((score for score in scores if score.name == "random"), None)
    for score in scores:
        marked.add("result", f"{TOUCHED}{score.name}", score.success_rate, control.success_rate if control else None)
        marked.add("result", f"{HELD}{score.name}", score.held_rate, control.held_rate if control else None)
