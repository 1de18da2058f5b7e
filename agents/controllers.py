"""The controllers that are evaluated: the model's policy, its policy with a small search, search alone, and the controls."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
import tyro

from worldmodel.agents.actor import Actor
from worldmodel.agents.cem import CEM, CEMConfig
from worldmodel.agents.learned_simulator import LatentDynamics, LearnedSimulator
from worldmodel.agents.mpc import Controller, MPCConfig, MPCController, RandomController
from worldmodel.agents.mppi import MPPI, MPPIConfig
from worldmodel.agents.objective import GoalCost, make_objective
from worldmodel.agents.oracle import OracleSimulator, TrueDistance, true_distance_objective
from worldmodel.agents.planner import ActionBounds, Planner
from worldmodel.agents.policy import PolicyConfig, PolicyController, Proposals
from worldmodel.agents.random_shooting import RandomShooting, RandomShootingConfig
from worldmodel.agents.simulator import Codec, CopyLastFrame, ShuffledActions, Simulator
from worldmodel.agents.workers import TaskWorkers
from worldmodel.choice import Choice
from worldmodel.errors import UserError

NO_ORACLE = (
    "{env_id} does not restore its state exactly, so there is no oracle beside the model, and every plan segment starts "
    "from the restored physics alone."
)
"""What is said where the oracle is left out."""

PlannerConfig = CEMConfig | MPPIConfig | RandomShootingConfig
Name = Literal[
    "random",
    "random_held",
    "copy_last_frame",
    "learned_shuffled_actions",
    "policy",
    "guided",
    "cem",
    "mppi",
    "random_shooting",
    "oracle",
    "oracle_guided",
    "oracle_true_distance",
]
"""Controllers. random, random_held: actions drawn without looking, each or one for a whole segment. copy_last_frame: the search in a
world that stands still. learned_shuffled_actions: the search in the model that is told another candidate's actions. policy: what the
model itself would do. guided: a small search around that in the model. cem, mppi, random_shooting: search in the model alone.
oracle: the search in the true simulator. oracle_guided: the guided one there. oracle_true_distance: the search with the true distance
as cost."""

HELD_STEPS = 4
"""Model steps of a segment for which `random_held` keeps its action."""
SEARCHES: dict[str, type[PlannerConfig]] = {"cem": CEMConfig, "mppi": MPPIConfig, "random_shooting": RandomShootingConfig}


@dataclass(frozen=True)
class GuidedConfig:
    """A small search in the model around what the model itself would do, which is carried out where no candidate is better."""

    search: CEMConfig = field(default_factory=lambda: CEMConfig(horizon=4, num_samples=16, iterations=1))
    """The search, no further ahead than the model proposes; mean and spread are the proposal's, so its `std` is not used."""
    spread: float = 0.5
    """How wide it searches, in standard deviations of the proposal. What the model says of a candidate is wrong by something, and the
    wider the search, the more the best of its candidates owes to that."""
    replan_every: int = 1
    """Model steps of a plan that are carried out before the next plan."""
    near: float = 3.0
    """Model steps to the goal, as the model says, that are too few to choose by: up to there it acts without a search, and of plans
    that come as near none is better than another."""

    def __post_init__(self) -> None:
        if self.replan_every < 1:
            raise UserError(f"guided.replan_every is {self.replan_every}, must be at least 1")
        if self.replan_every > self.search.horizon:
            raise UserError(f"guided.replan_every is {self.replan_every}, above guided.search.horizon {self.search.horizon}")
        if not self.near >= 0:
            raise UserError(f"guided.near is {self.near}, must not be negative")
        if not self.spread > 0:
            raise UserError(f"guided.spread is {self.spread}, must be positive")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a manifest is run: the same objective for every simulator, the same planner for search alone and for the controls."""

    planner: Annotated[PlannerConfig, Choice(SEARCHES), tyro.conf.arg(prefix_name=False)] = field(default_factory=CEMConfig)
    """Search over action sequences."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Acting as the model proposes."""
    guided: GuidedConfig = field(default_factory=GuidedConfig)
    """Search around what the model proposes."""
    objective: GoalCost = field(default_factory=GoalCost)
    """Cost of predicted frames."""
    mpc: MPCConfig = field(default_factory=MPCConfig)
    """How much of a plan is carried out."""
    streams: int = 1
    """Times that each problem is tried, each with other random numbers of the controller."""
    videos: int = 4
    """Problems whose frames are kept, from the first."""
    seed: int = 0
    """Of the planners' and random controllers' noise."""

    def __post_init__(self) -> None:
        for name, least in (("streams", 1), ("videos", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.mpc.replan_every > self.planner.horizon:
            raise UserError(f"mpc.replan_every is {self.mpc.replan_every}, above planner.horizon {self.planner.horizon}")

    @property
    def search(self) -> Name:
        """Name of the controller that searches with `planner`."""
        names: dict[type, Name] = {CEMConfig: "cem", MPPIConfig: "mppi", RandomShootingConfig: "random_shooting"}
        return names[type(self.planner)]


@dataclass(frozen=True)
class Parts:
    """What controllers are made of."""

    bounds: ActionBounds
    """Of the actions; `ActionBounds.of_box(workers.action_space, workers.block)`."""
    workers: TaskWorkers
    """Of the task; used by the oracles."""
    codec: Codec
    """Of the model."""
    dynamics: LatentDynamics | None = None
    """The model's rollout; without it there is no search in the model."""
    actor: Actor | None = None
    """The model's actions; without it there is no policy."""
    goal_steps: int | None = None
    """Env steps in which the goals can be reached, where that is known; else the actor says it of each problem."""
    device: torch.device | str = "cpu"
    """Where codec and model lie."""
    jump: int = 1
    """Model steps from one frame of the model's futures to the next; true futures are seen as often."""


def make_planner(config: PlannerConfig, bounds: ActionBounds) -> Planner:
    """Build the planner that a configuration describes."""
    match config:
        case CEMConfig():
            return CEM(config, bounds)
        case MPPIConfig():
            return MPPI(config, bounds)
        case RandomShootingConfig():
            return RandomShooting(config, bounds)


def usual_controllers(config: EvaluateConfig, parts: Parts) -> list[Name]:
    """List all controllers that the parts suffice for except the rarely used ones: weakest first, the oracle last."""
    names: list[Name] = ["random", "random_held", "copy_last_frame"]
    if parts.actor is not None:
        names.append("policy")
        names += ["guided"] if parts.dynamics is not None else []
    names += [config.search] if parts.dynamics is not None else []
    names += ["oracle"] if parts.workers.restorable else []
    return names


def make_controllers(config: EvaluateConfig, parts: Parts, names: Sequence[Name] = ()) -> dict[str, Controller]:
    """Build controllers by name, in the order of `names`, or the usual ones.

    Raises:
        UserError: the parts do not suffice for one that is asked for.
    """
    return {name: make_controller(config, parts, name) for name in names or usual_controllers(config, parts)}


def with_candidates(config: EvaluateConfig, number: int) -> EvaluateConfig:
    """Configure the same searches with another number of candidates per iteration, of which no more can be elites.

    Raises:
        UserError: there are none.
    """
    planner, guided = config.planner, config.guided.search
    if isinstance(planner, RandomShootingConfig):
        planner = replace(planner, num_samples=number)
    else:
        planner = replace(planner, num_samples=number, num_elites=min(planner.num_elites, number))
    guided = replace(guided, num_samples=number, num_elites=min(guided.num_elites, number))
    return replace(config, planner=planner, guided=replace(config.guided, search=guided))


def make_controller(config: EvaluateConfig, parts: Parts, name: Name) -> Controller:
    """Build one controller; errors as of `make_controllers`."""
    bounds, mpc = parts.bounds, config.mpc
    if name in ("random", "random_held"):
        return RandomController(bounds, HELD_STEPS, action_repeat=name == "random_held")
    if name.startswith("oracle") and not parts.workers.restorable:
        raise UserError(NO_ORACLE.format(env_id=parts.workers.env_id))
    if name == "oracle_true_distance":
        planner = make_planner(config.planner, bounds)
        return MPCController(TrueDistance(parts.workers), planner, true_distance_objective(config.objective), mpc)
    if name == "policy":
        return PolicyController(_proposals(config, parts, name), config.policy, mpc.problems_at_once)
    objective = make_objective(config.objective, parts.codec, parts.actor)
    if name in ("guided", "oracle_guided"):
        proposals = _proposals(config, parts, name, config.guided.search.horizon, config.guided.spread)
        search = replace(config.guided.search, horizon=proposals.horizon)
        mpc, near = replace(mpc, replan_every=config.guided.replan_every), config.guided.near * bounds.block
        objective = make_objective(replace(config.objective, floor=near), parts.codec, parts.actor)
        return MPCController(_simulator(config, parts, name), CEM(search, bounds), objective, mpc, proposals, near)
    settings: PlannerConfig = SEARCHES[name]() if name in SEARCHES and name != config.search else config.planner
    return MPCController(_simulator(config, parts, name), make_planner(settings, bounds), objective, mpc)


def _proposals(config: EvaluateConfig, parts: Parts, name: Name, horizon: int | None = None, spread: float = 1.0) -> Proposals:
    if parts.actor is None:
        raise UserError(f"controller {name} needs a model that puts out actions, and this one was not taught to")
    return Proposals(parts.actor, parts.codec, parts.bounds, config.mpc.context, parts.goal_steps, parts.device, horizon, spread)


def _simulator(config: EvaluateConfig, parts: Parts, name: Name) -> Simulator:
    if name == "copy_last_frame":
        return CopyLastFrame(parts.codec, parts.device)
    if name in ("oracle", "oracle_guided"):
        return OracleSimulator(parts.workers, parts.codec, parts.device, parts.jump)
    if parts.dynamics is None:
        raise ValueError(f"controller {name} needs the model's dynamics")
    learned = LearnedSimulator(parts.dynamics, parts.codec, parts.device, config.seed)
    return ShuffledActions(learned) if name == "learned_shuffled_actions" else learned
