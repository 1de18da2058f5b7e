"""Plan with a trained model on a few held-out problems and write what happened as a film, the goal on the right."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worldmodel.agents.controllers import EvaluateConfig, Name
from worldmodel.agents.model_score import score
from worldmodel.agents.plan_film import plan_film
from worldmodel.agents.protocol import ManifestConfig, make_manifest
from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.films import ENDINGS, write_film
from worldmodel.datasets.outputs import check_output
from worldmodel.home import runs_dir
from worldmodel.known_tasks import data_of, open_data
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class PlanConfig(JsonFlag):
    """Plan with a trained model on a few held-out problems and film what happens, the goal on the right.

    `worldmodel plan --checkpoint run --out plan.mp4 --planner cem --planner.num-samples 64` searches with the cross-entropy method.
    """

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path | None = None
    """Episode file; starts and goals come from its held-out episodes. By default the one that the checkpoint was trained on."""
    task: str = ""
    """Which of the tasks that the checkpoint was trained on, by name; by default that of its first file."""
    out: Path | None = None
    """The film, .mp4 or .gif; by default `plan.mp4` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""
    problems: ManifestConfig = field(default_factory=lambda: ManifestConfig(problems=4))
    """Which problems to draw."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = PLANNING
    """Flow steps per frame and form of the actions."""
    controller: Name | None = None
    """Who chooses the actions: policy, guided, cem, mppi, random_shooting, oracle; by default the search with --planner."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""


def main(config: PlanConfig) -> dict[str, Any]:
    """Plan, say how it went, write the film."""
    out, device = config.out or runs_dir() / "plan.mp4", choose_device(config.device)
    data = config.data or data_of(config.checkpoint, config.task)
    check_output(out, ENDINGS, [data], config.overwrite)
    trained = read_checkpoint(config.checkpoint, device)
    store, block = open_data(trained, config.checkpoint, data, config.task)
    manifest = make_manifest(store, held_out_episodes(trained, store), data.name, config.problems)
    settings = replace(config.evaluate, videos=len(manifest.problems), streams=1)
    name = config.controller or settings.search
    (result,), goals = score(trained, manifest, block, settings, config.rollout, 2, (name,))
    [outcomes] = result.streams
    for i, steps in enumerate(outcomes.steps_to_success):
        outcome = f"reached the goal after {steps} env steps" if steps is not None else "did not reach the goal"
        kept = "" if steps is None else " and held it" if outcomes.held[i] else " and lost it"
        print(f"problem {i}: {outcome}{kept}; distance {outcomes.final_distance[i]:.3f} at the end of the budget")
    print(f"{name}: {result.seconds_per_plan:.3g} s per plan, {result.seconds_per_action:.3g} s per action")
    write_film(out, plan_film(result, goals, sorted(result.frames), block))
    print(f"{out}: one row per problem, the goal on the right")
    return result.to_json() | {"film": out}


if __name__ == "__main__":
    sys.exit(run_verb("plan", lambda: main, sys.argv[1:]))
