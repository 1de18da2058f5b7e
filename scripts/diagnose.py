"""Report where a model fails: codec, dynamics, ranking of plans, search or none, each with its control and what usually mends it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.agents import ladder
from worldmodel.agents.controllers import EvaluateConfig
from worldmodel.agents.diagnosis import LadderConfig, climb, sections, to_json
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.report import write_report
from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.outputs import check_output, json_bytes, write_output
from worldmodel.envs import short_name
from worldmodel.home import runs_dir
from worldmodel.known_tasks import data_of, open_data
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class DiagnoseConfig(JsonFlag):
    """Report where a model fails: codec, dynamics, ranking of plans, search or none, each beside its control.

    `worldmodel diagnose --checkpoint run --out diagnosis` measures it on the held-out episodes of the run's own file.
    """

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    data: Path | None = None
    """Episode file; readers are trained on its training episodes, all else is measured on the held-out ones. By default the
    one that the checkpoint was trained on."""
    task: str = ""
    """Which of the tasks that the checkpoint was trained on, by name; by default that of its first file."""
    out: Path | None = None
    """Folder for diagnose.json and report.html; by default `diagnose` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace files of these names which worldmodel did not make."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""
    seed: int = 0
    """Of the run, as the rows say it."""
    manifest: Path | None = None
    """Use the problems of this file instead of drawing new ones."""
    problems: ManifestConfig = field(default_factory=ManifestConfig)
    """Which problems to draw."""
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(videos=0))
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = PLANNING
    """Flow steps per frame and form of the actions."""
    ladder: LadderConfig = field(default_factory=LadderConfig)
    """How the rungs are measured."""
    workers: int = 2
    """Task processes."""


def main(config: DiagnoseConfig) -> dict[str, Any]:
    """Climb the ladder, print its table and the weakest rung, write the report."""
    out, device = config.out or runs_dir() / "diagnose", choose_device(config.device)
    data = config.data or data_of(config.checkpoint, config.task)
    for name in ("diagnose.json", "report.html"):
        check_output(out / name, inputs=[data, *filter(None, [config.manifest])], overwrite=config.overwrite)
    given = Manifest.load(config.manifest) if config.manifest is not None else None
    trained = read_checkpoint(config.checkpoint, device)
    store, block = open_data(trained, config.checkpoint, data, config.task)
    env_id = str(store.meta["env_id"])
    held_out = held_out_episodes(trained, store)
    manifest = given or make_manifest(store, held_out, data.name, config.problems)
    rows = climb(
        trained,
        store,
        held_out,
        manifest,
        block,
        config.ladder,
        config.seed,
        planning=config.evaluate,
        rollout=config.rollout,
        workers=config.workers,
    )
    verdict = ladder.weakest(rows)
    print_columns([ladder.HEADERS, *map(tuple, ladder.cells(rows))])
    print(verdict.sentence)
    record = to_json(rows, verdict)
    write_output(out / "diagnose.json", json_bytes(record))
    write_report(out / "report.html", sections(rows, verdict), f"Where {short_name(env_id)} fails")
    print(f"{out / 'report.html'}: the same; the numbers are in {out / 'diagnose.json'}")
    return record


if __name__ == "__main__":
    sys.exit(run_verb("diagnose", lambda: main, sys.argv[1:]))
