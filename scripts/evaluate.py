"""Score a model by planning with it on held-out starts and goals; random, copy-last-frame and the true simulator are controls."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.agents.actions import describe_block
from worldmodel.agents.controllers import (
    NO_ORACLE,
    SEARCHES,
    EvaluateConfig,
    Name,
    Parts,
    make_controller,
    make_controllers,
    with_candidates,
)
from worldmodel.agents.evaluate import evaluate, scores_to_json, side_by_side
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.protocol import KIND as MANIFEST
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.report import Curves, Intervals, Section, SectionRow, Table, Video, video_bytes, write_report
from worldmodel.agents.score import Score
from worldmodel.agents.workers import TaskWorkers
from worldmodel.agents.world import actor_of
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.outputs import check_output
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.known_tasks import block_of, check_task, data_of
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, Rollout, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class EvaluateVerbConfig:
    """What is scored, on which problems, with which planner."""

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path | None = None
    """Episode file; starts and goals come from its held-out episodes. By default the one that the checkpoint was trained on."""
    out: Path | None = None
    """Folder for manifest.json, report.html and report.json; by default `evaluate` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace files of these names which worldmodel did not make."""
    manifest: Path | None = None
    """Use the problems of this file instead of drawing new ones."""
    problems: ManifestConfig = field(default_factory=ManifestConfig)
    """Which problems to draw."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = PLANNING
    """Flow steps per frame and form of the actions."""
    controller: tuple[Name, ...] = ()
    """Controllers to run: policy (what the model itself would do), guided (a small search around that), cem, mppi, random_shooting
    (search in the model alone), oracle, oracle_guided, oracle_true_distance (search in the true simulator), and the controls random,
    random_held, copy_last_frame, learned_shuffled_actions; by default all that the model and the task allow but the rarer ones."""
    candidates: tuple[int, ...] = ()
    """Numbers of candidates, as in 4 16 64: guided and the search run once with each, too, and success is drawn against seconds per
    plan."""
    workers: int = 2
    """Task processes."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""


def main(config: EvaluateVerbConfig) -> None:
    """Draw or read the problems, run all controllers, print the table and write the report."""
    out, device = config.out or runs_dir() / "evaluate", choose_device(config.device)
    data = config.data or data_of(config.checkpoint)
    for name in ("report.html", "report.json"):
        check_output(out / name, inputs=[data], overwrite=config.overwrite)
    given = Manifest.load(config.manifest) if config.manifest is not None else None
    if given is None:
        check_output(out / "manifest.json", inputs=[data], overwrite=config.overwrite, mark=MANIFEST)
    trained = read_checkpoint(config.checkpoint, device)
    store = EpisodeStore(data, in_memory=True)
    block = block_of(trained.model.config.action_dim, store.action_size, config.checkpoint, data)
    if given is not None:
        check_task(trained.card, store)
        if given.env_id != store.meta["env_id"]:
            raise UserError(f"{config.manifest} holds problems of {given.env_id}, {data} episodes of {store.meta['env_id']}")
        manifest = given
    else:
        manifest = make_manifest(store, held_out_episodes(trained, store), data.name, config.problems)
        manifest.save(out / "manifest.json")
    scores, goals = score(
        trained, manifest, block, config.evaluate, config.rollout, config.workers, config.controller, config.candidates
    )
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
    describe = None
    if rollout.action_form == "text":
        describe = describe_block(manifest.env_id, len(workers.action_space.low))
    return Parts(
        bounds=ActionBounds.of_box(workers.action_space, workers.block),
        workers=workers,
        codec=trained.codec,
        dynamics=Rollout(trained.model, trained.tokenizer, rollout, describe),
        actor=actor_of(trained),
        goal_steps=goal_steps(manifest),
        device=trained.model.device,
    )


def goal_steps(manifest: Manifest) -> int | None:
    """Return the env steps in which a demonstrator reached the goals, if they lie on its path."""
    return manifest.goal_offset or None


HEADERS = ("controller", "touched", "95 % interval", "held", "95 % interval", "final distance", "s per plan", "s per action")


def rows(scores: Sequence[Score]) -> list[list[str]]:
    """Format one row of cells for each controller."""
    return [
        [
            score.name,
            f"{score.success_rate:.1%}",
            f"{score.interval[0]:.1%} - {score.interval[1]:.1%}",
            f"{score.held_rate:.1%}",
            f"{score.held_interval[0]:.1%} - {score.held_interval[1]:.1%}",
            f"{np.mean(score.final_distance):.3f}",
            f"{score.seconds_per_plan:.3g}",
            f"{score.seconds_per_action:.3g}",
        ]
        for score in scores
    ]


def as_text(scores: Sequence[Score]) -> str:
    """Format the table for a terminal."""
    cells = [list(HEADERS), *rows(scores)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADERS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    tried = f", each tried {len(scores[0].streams)} times" if len(scores[0].streams) > 1 else ""
    return "\n".join([f"success over {len(scores[0].success)} held-out problems{tried}", *lines])


NOTE = (
    "Touched: the goal was met at some env step of the budget. Held: it was met at the end of the whole budget, the controller "
    "acting on. Intervals are over episodes: problems of one episode are alike. Seconds are those of choosing actions, many problems "
    "at once."
)


def sections(scores: Sequence[Score], goals: np.ndarray, remark: str = "") -> list[Section]:
    """Lay out the report: table (with a remark below), intervals, and films of the first problems with their goals."""
    touched = {s.name: (s.interval[0], s.success_rate, s.interval[1]) for s in scores}
    held = {s.name: (s.held_interval[0], s.held_rate, s.held_interval[1]) for s in scores}
    parts: list[Section] = [
        Table("Planning success", HEADERS, rows(scores), f"{NOTE} {remark}".strip()),
        Intervals("Goals touched, with 95 % Wilson intervals", touched, "share of problems"),
        Intervals("Goals held at the end of the budget, with 95 % Wilson intervals", held, "share of problems"),
    ]
    if curves := success_against_seconds(scores):
        parts.append(Curves("Success against seconds", curves, "seconds per plan", "share of goals touched"))
    for score_ in scores:
        if score_.frames and score_.name in SHOWN:
            films = [
                Video("", video_bytes(side_by_side(frames, goals[i]), fps=4), f"problem {i}, goal on the right", 260)
                for i, frames in sorted(score_.frames.items())[:3]
            ]
            parts.append(SectionRow(f"Plans carried out: {score_.name}", films))
    return parts


def success_against_seconds(scores: Sequence[Score]) -> dict[str, tuple[list[float], list[float]]]:
    """Collect seconds per plan and share of goals touched of searches with several numbers of candidates, the fastest first.

    Guided search with no candidate at all is the policy.
    """
    curves = {}
    for name in ("guided", *SEARCHES):
        own = [score for score in scores if score.name == name or score.name.startswith(f"{name}, ")]
        if len(own) > 1:
            own += [score for score in scores if name == "guided" and score.name == "policy"]
            points = sorted((score.seconds_per_plan, score.success_rate) for score in own)
            curves[name] = ([seconds for seconds, _ in points], [success for _, success in points])
    return curves


SHOWN = ("policy", "guided", "cem", "mppi", "random_shooting", "oracle", "random")
"""Controllers whose films stand in the report."""


if __name__ == "__main__":
    sys.exit(run_verb("evaluate", lambda: main, sys.argv[1:]))
