"""Score a model by planning with it on held-out starts and goals; random, copy-last-frame and the true simulator are controls."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worldmodel.agents.controllers import NO_ORACLE, EvaluateConfig, Name
from worldmodel.agents.evaluate import scores_to_json
from worldmodel.agents.model_score import score
from worldmodel.agents.protocol import KIND as MANIFEST
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.report import Table, write_report
from worldmodel.agents.score_tables import NOTE, as_text, by_task, sections
from worldmodel.checkpoint import read_card, read_checkpoint
from worldmodel.datasets.outputs import check_output
from worldmodel.envs import short_name
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.known_tasks import KEY, check_task, data_of, known_task, open_data
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes

ALL = "all"
"""Names every task that the model was trained on."""


@dataclass(frozen=True)
class EvaluateVerbConfig(JsonFlag):
    """Score a model by planning with it on held-out starts and goals, beside the controls.

    `worldmodel evaluate --checkpoint run --out evaluation --planner mppi --planner.horizon 4` searches with MPPI.
    """

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path | None = None
    """Episode file; starts and goals come from its held-out episodes. By default the one that the checkpoint was trained on."""
    task: tuple[str, ...] = ()
    """Which of the tasks that the model was trained on, by name, or all; of several each gets a folder of its own within --out. By
    default that of the data."""
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
    """Score the model on one task, or on several one after the other."""
    out, tasks = config.out or runs_dir() / "evaluate", asked_tasks(config)
    if len(tasks) < 2:
        return evaluate_task(replace(config, task=tasks), out)
    folders = {short_name(task).replace("/", "_"): task for task in tasks}
    check_output(out / "report.html", overwrite=config.overwrite)
    for folder, task in folders.items():  # mistakes are told before the first of them is scored
        check_outputs(config, out / folder, data_of(config.checkpoint, task))
    found = {}
    for folder, task in folders.items():
        print(f"== {task}")
        found[folder] = evaluate_task(replace(config, task=(task,)), out / folder)
    cells = by_task(found)
    print_columns(cells)
    table = Table("Planning success by task, touched / held in %", cells[0], cells[1:], NOTE)
    write_report(out / "report.html", [table], "Planning on several tasks", {"tasks": found})
    print(f"{out / 'report.html'}: all tasks; each has its own report.html beside it")
    return {"tasks": found}


def asked_tasks(config: EvaluateVerbConfig) -> tuple[str, ...]:
    """Return the ids of the tasks that are asked for; none: that of the data.

    Raises:
        UserError: the model does not know one of them; there are several, and a file or problems of one.
    """
    card = read_card(config.checkpoint) if config.task else {}
    named = tuple(card.get(KEY) or ()) if config.task == (ALL,) else tuple(known_task(card, name) for name in config.task)
    if len(named) > 1 and (config.data is not None or config.manifest is not None):
        raise UserError("--data and --manifest are of one task; leave them out where several are named with --task")
    return tuple(dict.fromkeys(named))


def check_outputs(config: EvaluateVerbConfig, out: Path, data: Path) -> None:
    """Refuse to replace what worldmodel did not write, or what is read."""
    for name in ("report.html", "report.json"):
        check_output(out / name, inputs=[data], overwrite=config.overwrite)
    if config.manifest is None:
        check_output(out / "manifest.json", inputs=[data], overwrite=config.overwrite, mark=MANIFEST)


def evaluate_task(config: EvaluateVerbConfig, out: Path) -> dict[str, Any]:
    """Draw or read the problems of a task, run all controllers, print the table and write the report to a folder."""
    device = choose_device(config.device)
    data = config.data or data_of(config.checkpoint, *config.task)
    check_outputs(config, out, data)
    given = Manifest.load(config.manifest) if config.manifest is not None else None
    trained = read_checkpoint(config.checkpoint, device)
    store, block = open_data(trained, config.checkpoint, data, *config.task)
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
