"""Score a model by planning with it on held-out starts and goals; random, copy-last-frame and the true simulator are controls."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.agents.controllers import NO_ORACLE, EvaluateConfig, Name
from worldmodel.agents.evaluate import scores_to_json
from worldmodel.agents.model_score import score
from worldmodel.agents.protocol import KIND as MANIFEST
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.report import write_report
from worldmodel.agents.score_tables import as_text, sections
from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.outputs import check_output
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.known_tasks import block_of, check_task, data_of
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class EvaluateVerbConfig(JsonFlag):
    """Score a model by planning with it on held-out starts and goals, beside the controls.

    `worldmodel evaluate --checkpoint run --out evaluation --planner mppi --planner.horizon 4` searches with MPPI.
    """

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


def main(config: EvaluateVerbConfig) -> dict[str, Any]:
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
    block = block_of(trained, store, config.checkpoint)
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
    write_report(out / "report.html", sections(scores, goals, block, remark), f"Planning on {manifest.env_id}", record)
    print(f"{out / 'report.html'}: table and films; the numbers are in {out / 'report.json'}")
    return record


if __name__ == "__main__":
    sys.exit(run_verb("evaluate", lambda: main, sys.argv[1:]))
