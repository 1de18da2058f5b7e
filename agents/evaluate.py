"""Run a manifest with several controllers and score each beside its controls.

All problems of a controller run side by side: they are planned in one batch, and carried out by the task
workers, each from its own true state and with its own factor values. Nothing of the true state reaches a
controller except the oracle.

Success is measured after every env step. `success` is latched: the goal was met at some step within the
budget. `final_success` asks whether it is still met when the problem ends: at the end of the budget or, with
`stop_when_solved`, at the end of the plan segment in which it was first met, where the controller looks
again.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.intervals import wilson
from worldmodel.agents.learned import LatentDynamics, LearnedSimulator
from worldmodel.agents.mpc import Controller, MPCConfig, MPCController, RandomController
from worldmodel.agents.mppi import MPPI, MPPIConfig
from worldmodel.agents.objective import GoalCost, make_objective
from worldmodel.agents.oracle import OracleSimulator
from worldmodel.agents.planner import ActionBounds, Planner
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.random_shooting import RandomShooting, RandomShootingConfig
from worldmodel.agents.simulator import Codec, CopyLastFrame, History, ShuffledActions, Simulator
from worldmodel.agents.workers import TaskWorkers
from worldmodel.errors import UserError

NO_ORACLE = (
    "{env_id} does not restore its state exactly, so there is no oracle beside the model, and every plan segment starts "
    "from the restored physics alone."
)
"""What is said where the oracle is left out."""

PlannerConfig = CEMConfig | MPPIConfig | RandomShootingConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """How a manifest is run; the same planner and objective for every simulator."""

    planner: PlannerConfig = field(default_factory=CEMConfig)
    """Search over action sequences."""
    objective: GoalCost = field(default_factory=GoalCost)
    """Cost of predicted frames."""
    mpc: MPCConfig = field(default_factory=MPCConfig)
    """How much of a plan is carried out."""
    stop_when_solved: bool = True
    """Do not plan for problems that are already solved."""
    videos: int = 4
    """Problems whose frames are kept, from the first."""
    seed: int = 0
    """Of the planners' and random controllers' noise."""

    def __post_init__(self) -> None:
        for name in ("videos", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")
        if self.mpc.replan_every > self.planner.horizon:
            raise UserError(f"replan_every is {self.mpc.replan_every}, above the planner's horizon {self.planner.horizon}")


@dataclass(frozen=True)
class Score:
    """One controller on one manifest; lists are in the manifest's order."""

    name: str
    """Of the controller."""
    success: list[bool]
    """The goal was met at some env step within the budget."""
    final_success: list[bool]
    """The goal was met when the problem ended."""
    steps_to_success: list[int | None]
    """Env steps until the goal was first met."""
    final_distance: list[float]
    """To the goal at the end, task units."""
    closest_distance: list[float]
    """The smallest distance on the way."""
    plans: int
    """Plans made, one for each problem and look."""
    seconds_per_plan: float
    """Wall time of choosing actions, divided by `plans`; many problems are planned together."""
    seconds: float
    """Wall time of everything."""
    frames: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    """uint8 (t, height, width, 3) of the first problems, one frame per model step."""

    @property
    def success_rate(self) -> float:
        """Share of problems with latched success."""
        return float(np.mean(self.success))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `success_rate`."""
        return wilson(sum(self.success), len(self.success))

    @property
    def final_interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the share of problems with final success."""
        return wilson(sum(self.final_success), len(self.final_success))

    def to_json(self) -> dict[str, Any]:
        """Everything but the frames, with the rates and intervals that follow."""
        content = {key: value for key, value in vars(self).items() if key != "frames"}
        return {
            "success_rate": self.success_rate,
            "interval_95": list(self.interval),
            "final_success_rate": float(np.mean(self.final_success)),
            "final_interval_95": list(self.final_interval),
            "mean_final_distance": float(np.mean(self.final_distance)),
            **content,
        }


def make_planner(config: PlannerConfig, bounds: ActionBounds) -> Planner:
    """The planner that a configuration describes."""
    match config:
        case CEMConfig():
            return CEM(config, bounds)
        case MPPIConfig():
            return MPPI(config, bounds)
        case RandomShootingConfig():
            return RandomShooting(config, bounds)


def make_controllers(
    config: EvaluateConfig,
    bounds: ActionBounds,
    workers: TaskWorkers,
    codec: Codec,
    dynamics: LatentDynamics | None = None,
    device: str = "cpu",
    shuffled: bool = False,
) -> dict[str, Controller]:
    """The learned model between its controls, weakest first; the oracle only where states are restored exactly.

    Args:
        config: planner, objective and receding horizon, the same for all.
        bounds: of the actions; `ActionBounds.of_box(workers.action_space, workers.block)`.
        workers: of the task; used by the oracle.
        codec: of the model.
        dynamics: the model's rollout; without it only the controls are made.
        device: where codec and model lie.
        shuffled: also the model that is told another candidate's actions.
    """
    simulators: dict[str, Simulator] = {"copy_last_frame": CopyLastFrame(codec, device)}
    if dynamics is not None:
        learned = LearnedSimulator(dynamics, codec, device, seed=config.seed)
        if shuffled:
            simulators["learned_shuffled_actions"] = ShuffledActions(learned)
        simulators["learned"] = learned
    if workers.restorable:
        simulators["oracle"] = OracleSimulator(workers, codec, device)
    objective = make_objective(config.objective, codec)
    controllers: dict[str, Controller] = {
        "random": RandomController(bounds, config.mpc.replan_every),
        "random_held": RandomController(bounds, config.mpc.replan_every, held=True),
    }
    for name, simulator in simulators.items():
        controllers[name] = MPCController(simulator, make_planner(config.planner, bounds), objective, config.mpc)
    return controllers


def evaluate(
    manifest: Manifest,
    controllers: Mapping[str, Controller],
    workers: TaskWorkers,
    config: EvaluateConfig,
    progress: bool = True,
) -> list[Score]:
    """Score every controller on every problem of the manifest.

    Args:
        manifest: starts, goals, budget.
        controllers: by name, run in this order.
        workers: of the manifest's task; they carry out the actions.
        config: `stop_when_solved`, `videos` and `seed` are read here.
        progress: show a progress bar on stderr.

    Raises:
        UserError: manifest and workers are not of one task, or the budget is shorter than an action block.
    """
    if (workers.env_id, workers.image_size) != (manifest.env_id, manifest.image_size):
        raise UserError(
            f"the manifest is of {manifest.env_id} at {manifest.image_size} px, "
            f"the workers of {workers.env_id} at {workers.image_size} px"
        )
    if manifest.budget < workers.block:
        raise UserError(f"a budget of {manifest.budget} env steps is shorter than an action block of {workers.block}")
    scores = []
    for name, controller in controllers.items():
        with tqdm(total=manifest.budget // workers.block, desc=name, unit="step", disable=not progress) as bar:
            scores.append(run_controller(manifest, name, controller, workers, config, bar))
    return scores


def run_controller(
    manifest: Manifest,
    name: str,
    controller: Controller,
    workers: TaskWorkers,
    config: EvaluateConfig,
    bar: tqdm,
) -> Score:
    """One controller on all problems of a manifest, see `evaluate`."""
    began = time.perf_counter()
    record = _Record(manifest, workers, config)
    controller.reset(record.goals, _seeds(config.seed, len(manifest.problems)))
    plans, planning = 0, 0.0
    while record.step < record.model_steps and len(rows := record.running()):
        asked = time.perf_counter()
        actions = controller.act(record.history(rows), rows)
        planning += time.perf_counter() - asked
        plans += len(rows)
        before = record.step
        record.carry_out(rows, actions[:, : record.model_steps - record.step])
        bar.update(record.step - before)
        bar.set_postfix(solved=f"{int((record.first > 0).sum())}/{len(manifest.problems)}")
    return Score(
        name=name,
        success=(record.first > 0).tolist(),
        final_success=record.final_success.tolist(),
        steps_to_success=[first or None for first in record.first.tolist()],
        final_distance=record.final_distance.tolist(),
        closest_distance=record.closest.tolist(),
        plans=plans,
        seconds_per_plan=planning / max(plans, 1),
        seconds=time.perf_counter() - began,
        frames=record.kept_frames(),
    )


class _Record:
    """What has happened to each problem of a manifest so far."""

    def __init__(self, manifest: Manifest, workers: TaskWorkers, config: EvaluateConfig) -> None:
        self.workers, self.config = workers, config
        self.variations = [problem.variation for problem in manifest.problems]
        self.states, self.goal_states = manifest.states
        self.goals = workers.render(self.goal_states, self.variations)
        self.model_steps = manifest.budget // workers.block
        self.step = 0
        count, size = len(self.states), manifest.image_size
        self.frames = np.zeros((count, self.model_steps + 1, size, size, 3), np.uint8)
        self.frames[:, 0] = workers.render(self.states, self.variations)
        self.actions = np.zeros((count, self.model_steps, workers.action_dim), np.float32)
        self.ended = np.zeros(count, int)  # model steps carried out
        self.first = np.zeros(count, int)  # env steps to the first success; 0: none
        self.final_success = np.zeros(count, bool)
        self.final_distance = np.array([problem.distance for problem in manifest.problems])
        self.closest = self.final_distance.copy()

    def running(self) -> np.ndarray:
        """Problems that still get actions."""
        if not self.config.stop_when_solved:
            return np.arange(len(self.states))
        return np.flatnonzero(self.first == 0)

    def history(self, rows: np.ndarray) -> History:
        """All that these problems have seen."""
        return History(
            frames=self.frames[rows, : self.step + 1],
            actions=self.actions[rows, : self.step],
            states=self.states[rows],
            variations=[self.variations[row] for row in rows],
        )

    def carry_out(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Let the world do actions (len(rows), r, a)."""
        steps = slice(self.step, self.step + actions.shape[1])

        def keep(problem: int, _: slice, frames: np.ndarray) -> None:
            self.frames[rows[problem], steps.start + 1 : steps.stop + 1] = frames[0]

        rolled = self.workers.roll(
            self.states[rows],
            actions[:, None],
            keep,
            [self.variations[row] for row in rows],
            self.goal_states[rows],
        )
        success, distance = rolled.success[:, 0], rolled.distance[:, 0]
        self.states[rows] = rolled.states[:, 0, -1]
        self.actions[rows, steps] = actions
        newly = success.any(axis=1) & (self.first[rows] == 0)
        met = steps.start * self.workers.block + success.argmax(axis=1) + 1
        self.first[rows] = np.where(newly, met, self.first[rows])
        self.final_success[rows], self.final_distance[rows] = success[:, -1], distance[:, -1]
        self.closest[rows] = np.minimum(self.closest[rows], distance.min(axis=1))
        self.step = self.ended[rows] = steps.stop

    def kept_frames(self) -> dict[int, np.ndarray]:
        """Frames of the first problems, up to where each ended."""
        count = min(self.config.videos, len(self.frames))
        return {i: self.frames[i, : self.ended[i] + 1].copy() for i in range(count)}


def _seeds(seed: int, count: int) -> list[int]:
    """One seed for each problem, the same for every controller."""
    return [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(count)]


def scores_to_json(manifest: Manifest, scores: list[Score], config: EvaluateConfig) -> dict[str, Any]:
    """A JSON-able record: what was run, with which settings, and what came out."""
    protocol = {key: value for key, value in vars(manifest).items() if key != "problems"}
    return {
        "protocol": {**protocol, "problems": len(manifest.problems)},
        "config": {"planner_kind": type(config.planner).__name__, **asdict(config)},
        "controllers": [score.to_json() for score in scores],
    }


def side_by_side(frames: np.ndarray, goal: np.ndarray, gap: int = 2) -> np.ndarray:
    """Frames uint8 (t, h, w, 3) with the goal (h, w, 3) to their right, for a video."""
    white = np.full((len(frames), frames.shape[1], gap, 3), 255, np.uint8)
    return np.concatenate([frames, white, np.broadcast_to(goal, frames.shape)], axis=2)
