"""Plan with a trained model on a few held-out problems and write what happened as an mp4, the goal on the right."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from worldmodel.agents.controllers import EvaluateConfig, Name
from worldmodel.agents.evaluate import side_by_side
from worldmodel.agents.protocol import ManifestConfig, make_manifest
from worldmodel.agents.report import write_video
from worldmodel.checkpoint import from_pretrained
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.home import runs_dir
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.evaluate import score
from worldmodel.scripts.pretrain import block_of
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class PlanConfig:
    """Which model plans for what."""

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path
    """Episode file; starts and goals come from its held-out episodes."""
    out: Path | None = None
    """The mp4; by default `plan.mp4` in the runs folder of WORLDMODEL_HOME."""
    problems: ManifestConfig = field(default_factory=lambda: ManifestConfig(problems=4))
    """Which problems to draw."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = PLANNING
    """Flow steps per frame and form of the actions."""
    controller: Name | None = None
    """Who chooses the actions: policy, guided, cem, mppi, random_shooting, oracle; by default the search of `evaluate.planner`."""


def main(config: PlanConfig) -> None:
    """Plan, say how it went, write the film."""
    trained = from_pretrained(config.checkpoint)
    store = EpisodeStore(config.data, in_memory=True)
    block = block_of(trained.model.config.action_dim, store.action_size, config.checkpoint, config.data)
    manifest = make_manifest(store, held_out_episodes(trained, store), config.data.name, config.problems)
    settings = replace(config.evaluate, videos=len(manifest.problems), streams=1)
    name = config.controller or settings.search
    (result,), goals = score(trained, manifest, block, settings, config.rollout, 2, (name,))
    [outcomes] = result.streams
    for i, steps in enumerate(outcomes.steps_to_success):
        outcome = f"reached the goal after {steps} env steps" if steps is not None else "did not reach the goal"
        kept = "" if steps is None else " and held it" if outcomes.held[i] else " and lost it"
        print(f"problem {i}: {outcome}{kept}; distance {outcomes.final_distance[i]:.3f} at the end of the budget")
    print(f"{name}: {result.seconds_per_plan:.3g} s per plan, {result.seconds_per_action:.3g} s per action")
    films = [side_by_side(frames, goals[i]) for i, frames in sorted(result.frames.items())]
    out = config.out or runs_dir() / "plan.mp4"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_video(out, np.concatenate(films, axis=1), fps=4, scale=3)
    print(f"{out}: one row per problem, the goal on the right")


if __name__ == "__main__":
    sys.exit(run_verb("plan", lambda: main, sys.argv[1:]))
