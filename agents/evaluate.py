"""Run a manifest with several controllers and score each of them and its controls.

All problems of a controller run side by side: they are planned in one batch, and carried out by the task
workers, each from its own true state and with its own factor values. Nothing of the true state reaches a
controller except the oracles.

Success is measured after every env step, and every controller acts on to the end of the budget, whatever it has met: see `score.py`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.agents.controllers import EvaluateConfig
from worldmodel.agents.mpc import Controller, MPCController
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.score import Outcomes, Score
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.errors import UserError

BAR = "{desc:.18} {percentage:3.0f}%|{bar:12}|{n}/{total} [{elapsed}<{remaining}{postfix}]"
"""Of a bar that keeps its length whatever stands beside it, in 80 columns."""
BETWEEN = 0.2
"""Seconds from one drawing of a bar to the next."""


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
        config: `streams`, `videos` and `seed` are read here.
        progress: show a progress bar on stderr.

    Raises:
        UserError: manifest and workers are not of one task, or the budget is shorter than an action block.
    """
    if (workers.env_id, workers.image_size) != (manifest.env_id, manifest.image_size):
        raise UserError(
            f"the manifest is of {manifest.env_id} at {manifest.image_size} px, "
            f"the workers of {workers.env_id} at {workers.image_size} px"
        )
    check_budget(manifest, workers.block)
    scores = []
    for name, controller in controllers.items():
        total = config.streams * (manifest.budget // workers.block)
        with tqdm(total=total, desc=name, unit="step", bar_format=BAR, disable=not progress) as bar:
            scores.append(run_controller(manifest, name, controller, workers, config, bar))
    return scores


def check_budget(manifest: Manifest, block: int) -> None:
    """Refuse problems that leave no time to act.

    Raises:
        UserError: the budget is shorter than an action block.
    """
    if manifest.budget < block:
        raise UserError(f"a budget of {manifest.budget} env steps is shorter than an action block of {block}")


def run_controller(
    manifest: Manifest,
    name: str,
    controller: Controller,
    workers: TaskWorkers,
    config: EvaluateConfig,
    bar: tqdm,
) -> Score:
    """Run one controller on all problems of a manifest, once per stream of random numbers; see `evaluate`."""
    began, planning, plans, count = time.perf_counter(), 0.0, 0, len(manifest.problems)
    records: list[_Record] = []
    progress_bar = SearchProgress(bar, count)
    if isinstance(controller, MPCController):
        controller.on_futures = progress_bar.futures
    for stream in range(config.streams):
        record = _Record(manifest, workers)
        records.append(record)
        controller.reset(record.goals, _seeds(config.seed, count, stream))
        while record.step < record.model_steps:
            asked = time.perf_counter()
            actions = controller.act(record.history())
            planning += time.perf_counter() - asked
            plans += count
            before = record.step
            record.execute(actions[:, : record.model_steps - record.step])
            bar.update(record.step - before)
            progress_bar.solved(int((record.first > 0).sum()))
    return Score(
        name=name,
        streams=[record.outcomes() for record in records],
        plans=plans,
        seconds_per_plan=planning / plans,
        seconds_per_action=planning / (config.streams * count * records[0].model_steps * workers.block),
        seconds=time.perf_counter() - began,
        episodes=[problem.episode for problem in manifest.problems],
        frames={i: records[0].frames[i].copy() for i in range(min(config.videos, count))},
    )


class SearchProgress:
    """What stands behind a controller's bar: problems solved, and futures evaluated, so that it moves during a long search."""

    def __init__(self, bar: tqdm, problems: int) -> None:
        self.bar, self.problems = bar, problems
        self.count, self.found, self.drawn = 0, 0, 0.0

    def futures(self, more: int) -> None:
        """Count `more` futures that a search has evaluated."""
        self.count += more
        self._say()

    def solved(self, problems: int) -> None:
        """Set the number of problems whose goal has been met so far."""
        self.found = problems
        self._say()

    def _say(self) -> None:
        futures = f", {self.count:,} futures" if self.count else ""
        now = time.perf_counter()
        due = now - self.drawn >= BETWEEN
        self.bar.set_postfix_str(f"solved {self.found}/{self.problems}{futures}", refresh=due)
        self.drawn = now if due else self.drawn


class _Record:
    """What has happened to each problem of a manifest so far."""

    def __init__(self, manifest: Manifest, workers: TaskWorkers) -> None:
        self.workers = workers
        self.variations = [problem.variation for problem in manifest.problems]
        self.states, self.goal_states = manifest.states
        self.goals = workers.render(self.goal_states, self.variations)
        self.model_steps = manifest.budget // workers.block
        self.step = 0
        count, size = len(self.states), manifest.image_size
        self.frames = np.zeros((count, self.model_steps + 1, size, size, 3), np.uint8)
        self.frames[:, 0] = workers.render(self.states, self.variations)
        self.actions = np.zeros((count, self.model_steps, workers.action_dim), np.float32)
        self.first = np.zeros(count, int)  # env steps to the first success; 0: none
        self.met = np.zeros(count, bool)  # after the last env step
        self.distance = np.array([problem.distance for problem in manifest.problems])
        self.closest = self.distance.copy()

    def history(self) -> History:
        """Return all frames, actions and states that the problems have seen."""
        return History(
            frames=self.frames[:, : self.step + 1],
            actions=self.actions[:, : self.step],
            states=self.states,
            variations=self.variations,
            goal_states=self.goal_states,
        )

    def execute(self, actions: np.ndarray) -> None:
        """Execute actions (problems, r, a) in the true simulator."""
        steps = slice(self.step, self.step + actions.shape[1])

        def keep(problem: int, _: slice, frames: np.ndarray) -> None:
            self.frames[problem, steps.start + 1 : steps.stop + 1] = frames[0]

        rolled = self.workers.roll(self.states, actions[:, None], keep, self.variations, self.goal_states)
        success, distance = rolled.success[:, 0], rolled.distance[:, 0]
        self.states = rolled.states[:, 0, -1]
        self.actions[:, steps] = actions
        newly = success.any(axis=1) & (self.first == 0)
        self.first = np.where(newly, steps.start * self.workers.block + success.argmax(axis=1) + 1, self.first)
        self.met, self.distance = success[:, -1], distance[:, -1]
        self.closest = np.minimum(self.closest, distance.min(axis=1))
        self.step = steps.stop

    def outcomes(self) -> Outcomes:
        """Collect what came of each problem."""
        return Outcomes(
            success=(self.first > 0).tolist(),
            held=self.met.tolist(),
            steps_to_success=[first or None for first in self.first.tolist()],
            final_distance=self.distance.tolist(),
            closest_distance=self.closest.tolist(),
        )


def _seeds(seed: int, count: int, stream: int) -> list[int]:
    """Derive one seed for each problem of a stream, the same for every controller."""
    children = np.random.SeedSequence(seed).spawn(count * (stream + 1))[count * stream :]
    return [int(child.generate_state(1)[0]) for child in children]


def scores_to_json(manifest: Manifest, scores: list[Score], config: EvaluateConfig) -> dict[str, Any]:
    """Return a JSON-able record: what was run, with which settings, and what came out."""
    protocol = {key: value for key, value in vars(manifest).items() if key != "problems"}
    which = {"digest": manifest.digest, "episodes": [problem.episode for problem in manifest.problems]}
    return {
        "protocol": {**protocol, "problems": len(manifest.problems), **which},
        "config": {"planner_kind": type(config.planner).__name__, **asdict(config)},
        "controllers": [score.to_json() for score in scores],
    }
