"""Plan: goals are frames of held-out episodes; the model of 03_train.py acts, beside random actions and the true simulator."""

from pathlib import Path

import tyro

from worldmodel.agents.controllers import EvaluateConfig
from worldmodel.agents.model_score import score
from worldmodel.agents.protocol import ManifestConfig, make_manifest
from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.rollout import PLANNING
from worldmodel.unseen import held_out_episodes


def main(problems: int = 20, goal_offset: int | None = None, budget: int | None = None, min_distance: float | None = None) -> None:
    """Measure success.

    Args:
        problems: starts with a goal each.
        goal_offset: env steps between start and goal in their episode; as the task says if not given.
        budget: env steps that a controller has; as the task says if not given.
        min_distance: success thresholds that start and goal are apart; as the task says if not given.
    """
    trained = read_checkpoint("run")
    store = EpisodeStore(Path("rooms.h5"), in_memory=True)
    which = ManifestConfig(problems, goal_offset=goal_offset, budget=budget, min_distance=min_distance)
    manifest = make_manifest(store, held_out_episodes(trained, store), "rooms.h5", which)
    block = trained.model.config.action_dim // store.action_size
    scores, _ = score(trained, manifest, block, EvaluateConfig(), PLANNING, 1, ("random", "policy", "guided", "oracle"))
    for each in scores:
        low, high = each.interval
        print(f"{each.name}: touched {each.success_rate:.0%} [{low:.0%}, {high:.0%}], held {each.held_rate:.0%}")


if __name__ == "__main__":
    tyro.cli(main)
