"""Score a trained model with its controllers on a manifest: random, copy-last-frame and the true simulator are controls."""

from collections.abc import Sequence

import numpy as np

from worldmodel.agents.controllers import EvaluateConfig, Name, Parts, make_controller, make_controllers, with_candidates
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.score import Score
from worldmodel.agents.workers import TaskWorkers
from worldmodel.agents.world import actor_of, rollout_of, steps_per_frame
from worldmodel.checkpoint import Pretrained
from worldmodel.rollout import RolloutConfig


def score(
    trained: Pretrained,
    manifest: Manifest,
    block: int,
    config: EvaluateConfig,
    rollout: RolloutConfig,
    num_workers: int,
    names: Sequence[Name] = (),
    candidates: Sequence[int] = (),
) -> tuple[list[Score], np.ndarray]:
    """Score the named controllers (by default the usual ones); also return the goals' frames uint8 (problems, h, w, 3).

    Those that search in the model run once more with each number of `candidates`; see `swept`.
    """
    with TaskWorkers(manifest.env_id, manifest.image_size, block, num_workers) as workers:
        parts = parts_of(trained, manifest, workers, rollout)
        controllers = make_controllers(config, parts, names)
        for name in [name for name in ("guided", config.search) if name in controllers]:
            controllers |= {swept(name, k): make_controller(with_candidates(config, k), parts, name) for k in candidates}
        scores = evaluate(manifest, controllers, workers, config)
        goals = workers.render(manifest.states[1], [problem.variation for problem in manifest.problems])
    return scores, goals


def swept(name: Name, candidates: int) -> str:
    """Name a search with another number of candidates."""
    return f"{name}, {candidates} candidates"


def parts_of(trained: Pretrained, manifest: Manifest, workers: TaskWorkers, rollout: RolloutConfig) -> Parts:
    """Collect what the controllers of a checkpoint need, on a manifest."""
    return Parts(
        bounds=ActionBounds.of_box(workers.action_space, workers.block),
        workers=workers,
        codec=trained.codec,
        dynamics=rollout_of(trained, manifest.env_id, len(workers.action_space.low), rollout),
        actor=actor_of(trained, manifest.env_id),
        goal_steps=goal_steps(manifest),
        device=trained.model.device,
        jump=steps_per_frame(trained, rollout),
    )


def goal_steps(manifest: Manifest) -> int | None:
    """Return the env steps in which a demonstrator reached the goals, if they lie on its path."""
    return manifest.goal_offset or None
