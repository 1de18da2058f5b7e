"""Ablations: train variants of the model with several seeds each, and say which of the paper's findings hold here.

    worldmodel ablate codec --data data.h5 --out ablation --seeds 0 1 2 --preset tiny
    worldmodel ablate all --out ablation --report

All comparisons share one baseline and one folder: what is trained is not trained again, whichever comparison asks for it. There is
one codec of each kind for all seeds (training it is the dearest part): seeds vary the model's weights, its batches and its noise,
so intervals do not hold the luck of a codec.
"""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from worldmodel.agents.ablation_metrics import make_ablation_metrics
from worldmodel.agents.ablation_runs import AblationConfig, check_widths, record_of, run_all
from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.mixture.training_data import open_training_data
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.precision import choose_device
from worldmodel.presets import tiny
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.scripts.preset_flag import PresetFlag
from worldmodel.serialization import read_json
from worldmodel.studies.ablation import COMPARISONS, NOTES, What, asked_for, findings, runs_of
from worldmodel.studies.ablation_tables import findings_table, page, table
from worldmodel.system_info import command_line
from worldmodel.training.resume import locked_run_folder
from worldmodel.training.train import stop_on_signals


@dataclass(frozen=True)
class AblateFiles:
    """What is compared, and what is read and written."""

    what: Annotated[Literal["codec", "feed-forward", "prediction", "shift", "all"], tyro.conf.Positional]
    """The comparison: codec (rae, vae, pixels), feed-forward (shared, modality, moe), prediction (x, v), shift (on, off), or all."""
    data: tuple[Path, ...] = ()
    """Episode files; a recipe may name them instead."""
    out: Path | None = None
    """Folder of codecs, runs, results.json and results.md; by default `ablate` in the runs folder of WORLDMODEL_HOME."""
    report: bool = False
    """Train nothing: print the tables of what --out holds, and write them as results.md."""

    @property
    def comparisons(self) -> tuple[What, ...]:
        """What `what` stands for."""
        return COMPARISONS if self.what == "all" else (self.what,)


@dataclass(frozen=True)
class AblateConfig(JsonFlag, AblationConfig, AblateFiles):
    """Train variants that differ in one thing, with several seeds each, and test the paper's findings on them.

    `worldmodel ablate prediction --data two_room.h5 --out ablation --steps 240 --preset tiny` trains x- and v-prediction
    with seeds 0, 1 and 2. The same command goes on where it was stopped; other comparisons and more seeds may be added to the folder.
    `worldmodel ablate all --out ablation --report` prints what is there.
    """

    preset: PresetFlag = field(default_factory=tiny)
    """Sizes of model and training; with the codec rae, x-prediction and its own feed-forward and shift it is the baseline."""


def main(config: AblateConfig) -> dict[str, Any]:
    """Train and measure what is missing, then print the tables."""
    out = config.out or runs_dir() / "ablate"
    if config.report:
        return report(out / "results.json", config.comparisons)
    choose_device(config.preset.train.device)
    data = open_training_data(config.data, config.mixture)
    asked = asked_for(config.comparisons, config.preset.model.trunk.feed_forward)
    check_widths(config, asked)
    metrics = make_ablation_metrics(data, config.dream, config.rollout, config.problems)
    with locked_run_folder(out, record_of(config, data)), stop_on_signals() as stop:
        runs = run_all(config, data, asked, metrics, out, stop, command_line("ablate"))
    if any((variant.name, seed) not in runs for variant in asked for seed in config.seeds):
        print("stopped; the same command goes on from there")
        return {"finished": False}
    return report(out / "results.json", config.comparisons, config.seeds)


def report(path: Path, comparisons: Sequence[What], seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Print the tables of these comparisons and seeds (None: all), write all of results.json as results.md, and return what it holds.

    Raises:
        UserError: there are no results.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has no results yet, there is no {path.name}: leave out --report to train")
    record = read_json(path)
    try:
        steps, feed_forward = record["preset"]["train"]["steps"], record["preset"]["model"]["trunk"]["feed_forward"]
        controls, shift = record["controls"], record["preset"]["model"]["flow"]["shift"]
    except (KeyError, TypeError):
        raise UserError(f"{path} is damaged: remove it, and the runs of its folder are measured again") from None
    runs = runs_of(record, path)
    outcomes = findings(COMPARISONS, feed_forward, runs, steps)
    everything = [v for v in asked_for(COMPARISONS, feed_forward) if any(name == v.name for name, _ in runs)]
    write_atomic(path.with_suffix(".md"), page(everything, runs, controls, outcomes, steps, shift).encode())
    shown = {key: values for key, values in runs.items() if seeds is None or key[1] in seeds}
    print_columns(table(asked_for(comparisons, feed_forward), shown, controls))
    print()
    print_columns(findings_table(findings(comparisons, feed_forward, shown, steps)))
    print()
    for note in NOTES:
        print(textwrap.fill(note, 110, subsequent_indent="  "))
    print(f"\n{path}: everything measured; {path.with_suffix('.md')}: the tables as Markdown")
    return record


if __name__ == "__main__":
    sys.exit(run_verb("ablate", lambda: main, sys.argv[1:]))
