"""Climb the ladder from pixels to success with a trained model, and tell what was found."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from worldmodel.agents import ladder, rungs
from worldmodel.agents.controllers import EvaluateConfig, make_controllers, usual_controllers
from worldmodel.agents.evaluate import evaluate
from worldmodel.agents.ladder import LadderRow, Verdict
from worldmodel.agents.model_score import parts_of
from worldmodel.agents.protocol import Manifest
from worldmodel.agents.reader import ReaderConfig
from worldmodel.agents.report import Curves, Section, Table, TextSection
from worldmodel.agents.rungs import Marked, MenuConfig
from worldmodel.agents.score import Score
from worldmodel.agents.workers import TaskWorkers
from worldmodel.checkpoint import Pretrained
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import short_name
from worldmodel.evaluation import DreamConfig, dream_errors
from worldmodel.rollout import PLANNING, Rollout, RolloutConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LadderConfig:
    """How the rungs are measured."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """The small network that reads the true state off tokens and off frames."""
    dream: DreamConfig = field(default_factory=lambda: DreamConfig(horizon=0))
    """Clips that are dreamed."""
    menu: MenuConfig = field(default_factory=MenuConfig)
    """Candidates that the cost puts in order."""


def climb(
    trained: Pretrained,
    store: EpisodeStore,
    held_out: Sequence[int],
    manifest: Manifest,
    block: int,
    config: LadderConfig,
    seed: int = 0,
    scores: Sequence[Score] | None = None,
    *,
    planning: EvaluateConfig | None = None,
    rollout: RolloutConfig = PLANNING,
    workers: int = 2,
) -> list[LadderRow]:
    """Measure all rungs of a checkpoint on one task.

    Args:
        trained: the checkpoint.
        store: episode file of the task, with true variables.
        held_out: episodes that the model was not trained on.
        manifest: problems of held-out episodes.
        block: env actions per model step.
        config: how the rungs are measured.
        seed: of the run, for the rows.
        scores: of the usual controllers, where they are known already.
        planning: planner, objective and receding horizon.
        rollout: flow steps per frame and form of the actions.
        workers: task processes.

    Raises:
        UserError: the file has no true variables, or its episodes are too short.
    """
    marked, planning = Marked(short_name(manifest.env_id), seed), planning or EvaluateConfig(videos=0)
    training = sorted(set(range(len(store))) - set(held_out))
    if not training:  # a file of which the model has seen nothing: readers need some of it
        training, held_out = list(held_out[::2]), list(held_out[1::2])
    logger.info("reading the true state off tokens and frames")
    reader = rungs.codec_rung(marked, trained.codec, store, training, held_out, config.reader)
    with TaskWorkers(manifest.env_id, manifest.image_size, block, workers) as tasks:
        parts = parts_of(trained, manifest, tasks, rollout)
        assert isinstance(parts.dynamics, Rollout)
        logger.info("dreaming")
        frame_by_frame = parts.dynamics.with_config(replace(rollout, jump=1))
        errors = dream_errors(frame_by_frame, trained.codec, store, held_out, block, config.dream, reader)
        jumped, at_once = None, range(2, rollout.jump + 1)
        if trained.model.config.references:  # such models know jumps
            jump = jump_of(parts.dynamics)
            jumped = rungs.errors_at_once(jump, trained.codec, store, held_out, block, config.dream, reader, at_once)
        rungs.dynamics_rung(marked, errors, jumped)
        known = {score.name: score for score in scores or ()}
        if tasks.restorable:
            logger.info("ranking a menu of candidates")
            rungs.ranking_rung(marked, manifest, parts, planning, config.menu)
            known |= {score.name: score for score in rungs.search_rung(marked, manifest, parts, planning, known)}
        missing = [name for name in usual_controllers(planning, parts) if name not in known]
        if missing:
            controllers = make_controllers(planning, parts, missing)
            known |= {score.name: score for score in evaluate(manifest, controllers, tasks, planning)}
    rungs.result_rung(marked, list(known.values()))
    return marked.rows


def jump_of(rollout: Rollout) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Make a function that predicts the frame after all actions ahead at once; see `errors_at_once`."""

    def jump(frames: Tensor, between: Tensor, ahead: Tensor) -> Tensor:
        at_once = rollout.with_config(replace(rollout.config, jump=ahead.shape[1]))
        state = at_once.encode(frames, between)
        return at_once.rollout(state, ahead[:, None], torch.Generator().manual_seed(0))[:, 0, -1]

    return jump


def to_json(rows: Sequence[LadderRow], verdict: Verdict) -> dict[str, Any]:
    """Return the rows and the verdict as JSON values."""
    return {"rows": ladder.rows_to_json(rows), "weakest": verdict.rung, "verdict": verdict.sentence}


def sections(rows: Sequence[LadderRow], verdict: Verdict) -> list[Section]:
    """Lay out a ladder as sections of a report."""
    ahead = [row for row in rows if row.name.startswith(ladder.STEP_AHEAD)]
    steps = [float(i + 1) for i in range(len(ahead))]
    curves = {
        "dream": (steps, [row.value for row in ahead]),
        "copying the last frame": (steps, [row.control or 0.0 for row in ahead]),
    }
    return [
        TextSection("The weakest rung", verdict.sentence),
        Table(
            "From pixels to success",
            ladder.HEADERS,
            ladder.cells(rows),
            "Beside: the same network on frames (codec), copying the last frame (errors), 1 for actions that do not matter, true "
            "futures (dreamt ones), the true distance (search), random actions (result).",
        ),
        Curves("Error of the state in the dream", curves, "model steps ahead", "standard deviations"),
    ]
