"""Score a model by planning with it on held-out starts and goals, beside random, copy-last-frame and the true simulator."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.agents.evaluate import (
    NO_ORACLE,
    EvaluateConfig,
    Score,
    evaluate,
    make_controllers,
    scores_to_json,
    side_by_side,
)
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.report import Intervals, Row, Section, Table, Video, video_bytes, write_report
from worldmodel.agents.workers import TaskWorkers
from worldmodel.checkpoint import Pretrained, from_pretrained
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.pretrain import block_of, held_out_episodes


@dataclass(frozen=True)
class EvaluateVerbConfig:
    """What is scored, on which problems, with which planner."""

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path
    """Episode file; starts and goals come from its held-out episodes."""
    out: Path | None = None
    """Folder for manifest.json, report.html and report.json; by default `evaluate` in the runs folder of WORLDMODEL_HOME."""
    manifest: Path | None = None
    """Use the problems of this file instead of drawing new ones."""
    problems: ManifestConfig = field(default_factory=ManifestConfig)
    """Which problems to draw."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Flow steps per frame and form of the actions."""
    shuffled: bool = False
    """Also score the model when it is told another candidate's actions."""
    only: tuple[str, ...] = ()
    """Controllers to run, e.g. learned; by default all."""
    workers: int = 2
    """Task processes."""


def main(config: EvaluateVerbConfig) -> None:
    """Draw or read the problems, run all controllers, print the table and write the report."""
    trained = from_pretrained(config.checkpoint)
    store = EpisodeStore(config.data, in_memory=True)
    block = block_of(trained.model.config.action_dim, store.action_size, config.checkpoint, config.data)
    out = config.out or runs_dir() / "evaluate"
    out.mkdir(parents=True, exist_ok=True)
    if config.manifest is not None:
        manifest = Manifest.load(config.manifest)
    else:
        manifest = make_manifest(store, held_out_episodes(trained, store), config.data.name, config.problems)
        manifest.save(out / "manifest.json")
    scores, goals = score(trained, manifest, block, config.evaluate, config.rollout, config.workers, config.only, config.shuffled)
    remark = "" if store.meta.get("restorable", True) else NO_ORACLE.format(env_id=manifest.env_id)
    print("\n".join([as_text(scores), *filter(None, [remark])]))
    record = scores_to_json(manifest, scores, config.evaluate)
    write_report(out / "report.html", sections(scores, goals, remark), f"Planning on {manifest.env_id}", record)
    print(f"{out / 'report.html'}: table and films; the numbers are in {out / 'report.json'}")


def score(
    trained: Pretrained,
    manifest: Manifest,
    block: int,
    config: EvaluateConfig,
    rollout: RolloutConfig,
    num_workers: int,
    only: Sequence[str] = (),
    shuffled: bool = False,
) -> tuple[list[Score], np.ndarray]:
    """Scores of all controllers (or of `only` some), and the goals' frames uint8 (problems, h, w, 3)."""
    with TaskWorkers(manifest.env_id, manifest.image_size, block, num_workers) as workers:
        describe = None
        if rollout.action_form == "text":
            from worldmodel.agents.actions import describe_block

            describe = describe_block(manifest.env_id, workers.action_dim)
        dynamics = Rollout(trained.model, trained.tokenizer, rollout, describe)
        bounds = ActionBounds.of_box(workers.action_space, block)
        if "oracle" in only and not workers.restorable:
            raise UserError(NO_ORACLE.format(env_id=manifest.env_id))
        controllers = make_controllers(config, bounds, workers, trained.codec, dynamics, shuffled=shuffled)
        unknown = [name for name in only if name not in controllers]
        if unknown:
            raise UserError(f"there is no controller {unknown[0]!r}; there are {', '.join(controllers)}")
        chosen = {name: controller for name, controller in controllers.items() if not only or name in only}
        scores = evaluate(manifest, chosen, workers, config)
        goals = workers.render(manifest.states[1], [problem.variation for problem in manifest.problems])
    return scores, goals


HEADERS = ("controller", "success", "95 % interval", "at the end", "final distance", "seconds per plan")


def rows(scores: Sequence[Score]) -> list[list[str]]:
    """One row of cells for each controller."""
    return [
        [
            score.name,
            f"{score.success_rate:.1%}",
            f"{score.interval[0]:.1%} - {score.interval[1]:.1%}",
            f"{np.mean(score.final_success):.1%}",
            f"{np.mean(score.final_distance):.3f}",
            f"{score.seconds_per_plan:.3f}",
        ]
        for score in scores
    ]


def as_text(scores: Sequence[Score]) -> str:
    """The table for a terminal."""
    cells = [list(HEADERS), *rows(scores)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADERS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([f"success over {len(scores[0].success)} held-out problems", *lines])


def sections(scores: Sequence[Score], goals: np.ndarray, remark: str = "") -> list[Section]:
    """Table (with a remark below), intervals, and films of the first problems with their goals."""
    note = f"Success: the goal was met within the budget. At the end: it was met when the problem ended. {remark}".strip()
    parts: list[Section] = [
        Table("Planning success", HEADERS, rows(scores), note),
        Intervals(
            "Success rates with 95 % Wilson intervals",
            {s.name: (s.interval[0], s.success_rate, s.interval[1]) for s in scores},
            "success rate",
        ),
    ]
    for score_ in scores:
        if score_.frames and score_.name in ("learned", "oracle", "random"):
            films = [
                Video("", video_bytes(side_by_side(frames, goals[i]), fps=4), f"problem {i}, goal on the right", 260)
                for i, frames in sorted(score_.frames.items())[:3]
            ]
            parts.append(Row(f"Plans carried out: {score_.name}", films))
    return parts


if __name__ == "__main__":
    sys.exit(run_verb("evaluate", lambda: main, sys.argv[1:]))
