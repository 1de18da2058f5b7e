"""Scaling laws: train a grid of sizes to the same budgets, fit exponents for language and vision, and draw them.

Every point of the grid is a run folder of its own. The same command goes on where it stopped; more sizes and budgets may be added
later. `points.json` has the runs, `fits.json` the exponents and what they say of the paper's findings, `isoflop.png` both.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.codec.kinds import load_codec
from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.mixture.training_data import open_training_data
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.precision import choose_device
from worldmodel.presets import tiny
from worldmodel.scripts.console import print_columns, run_verb, stages
from worldmodel.scripts.json_flag import JsonFlag, records
from worldmodel.scripts.preset_flag import PresetFlag
from worldmodel.studies.experiment_runner import ExperimentRunner, write_record
from worldmodel.studies.isoflop import GridConfig, grid, plan_rows, record_of, run_grid
from worldmodel.studies.scaling import Measured, Study, study
from worldmodel.studies.scaling_figure import draw
from worldmodel.system_info import command_line, device_facts, machine
from worldmodel.training.resume import locked_run_folder
from worldmodel.training.train import stop_on_signals


@dataclass(frozen=True)
class IsoflopFiles:
    """What a study reads and writes."""

    codec: Path
    """Folder of the codec, from worldmodel codec."""
    data: tuple[Path, ...] = ()
    """Episode files; a recipe may name them instead."""
    out: Path | None = None
    """Folder of all runs; by default `isoflop` in the runs folder of WORLDMODEL_HOME. The same arguments continue it."""
    plan: bool = False
    """Print the grid with the time to expect, and train nothing."""


@dataclass(frozen=True)
class IsoflopConfig(JsonFlag, GridConfig, IsoflopFiles):
    """Train every size on every budget of compute, and fit how the best size N and tokens D grow with the budget C.

    Look at the plan first: `worldmodel isoflop --data two_room.h5 --codec codec --plan` prints sizes, tokens, steps and the time to
    expect, for which it times a step of each size. The optimum of a budget must lie inside its sizes; five sizes and three budgets are
    the least that give a scaling exponent an interval. The same command goes on where it was stopped; sizes and budgets may be
    added to the folder.
    """

    preset: PresetFlag = field(default_factory=tiny)
    """The model of size 1, its batch and its schedule."""


def main(config: IsoflopConfig) -> Any:
    """Print the plan, run what is missing of it, fit and draw."""
    began = time.perf_counter()
    out = config.out or runs_dir() / "isoflop"
    choose_device(config.preset.train.device)
    codec = load_codec(config.codec)
    with stages("reading the data, training the tokenizer"):
        runner = ExperimentRunner(open_training_data(config.data, config.mixture, codec.image_size), codec, config.vocab_size)
    points = grid(config, runner)
    kept = [point for point in points if point.steps >= config.min_steps]
    if config.plan:
        rows = plan_rows(config, runner, points)
        print_columns(rows)
        return {"plan": records(rows)}
    if not kept:
        least = min(config.min_steps * point.budget / max(point.steps, 0.5) for point in points)
        raise UserError(f"no budget gives any size {config.min_steps} steps: take budgets of at least {least:.1e}, or smaller sizes")
    with locked_run_folder(out, record_of(config, runner)), stop_on_signals() as stop:
        setup = time.perf_counter() - began
        measured = run_grid(config, runner, kept, out, stop)
    if len(measured) < len(kept):
        print(f"stopped after {len(measured)} of {len(kept)} points; the same command goes on from there")
        return {"finished": False, "points": len(measured)}
    result = study(measured, config.replicates, config.preset.train.seed)
    return report(config, result, measured, setup, out)


def report(config: IsoflopConfig, result: Study, measured: Sequence[Measured], setup: float, out: Path) -> dict[str, Any]:
    """Write fits.json and isoflop.png, print exponents, findings, and the share of time in steps; returns what is in fits.json."""
    whole = [each for each in measured if each.seconds is not None]
    steps, wall = sum(m.step_seconds for m in whole), sum(m.seconds or 0.0 for m in whole)
    timing = {"step_seconds": steps, "run_seconds": wall, "setup_seconds": setup, "share_in_steps": steps / wall if wall else None}
    facts = machine("numpy") | device_facts(choose_device(config.preset.train.device))
    origin = {"command": command_line("isoflop"), "machine": facts, "points": len(measured), "replicates": config.replicates}
    record = origin | result.to_json() | {"timing": timing}
    write_record(out / "fits.json", record)
    write_atomic(out / "isoflop.png", draw(result))
    rows = [("model", "loss", "approach", "a: N ~ C^a", "b: D ~ C^b", "the paper's a, b", "remark")]
    for name, fit in result.to_json()["fits"].items():
        for approach in ("approach_2", "approach_3"):
            a, b = (in_words(fit[approach][key]) for key in ("a", "b"))
            rows.append((*name.split("/"), approach[-1], a, b, f"{fit['paper']['a']}, {fit['paper']['b']}", fit[approach]["problem"]))
    print_columns(rows)
    print()
    print(f"Here: {result.here}, one seed each; intervals hold the scatter about the fits, not that of seeds.")
    for line in result.sentences():
        print(line)
    if wall:
        print(f"\nsteps took {steps:.0f} s of the {wall:.0f} s of the runs ({steps / wall:.0%}); opening the data took {setup:.0f} s")
    print(f"{out}: points.json, fits.json and isoflop.png written")
    return record


def in_words(exponent: dict[str, float | None] | None) -> str:
    """Format an exponent with its interval."""
    if exponent is None:
        return "-"
    if exponent["low"] is None:
        return f"{exponent['value']:.3f} (no interval)"
    return f"{exponent['value']:.3f} [{exponent['low']:.3f}, {exponent['high']:.3f}]"


if __name__ == "__main__":
    sys.exit(run_verb("isoflop", lambda: main, sys.argv[1:]))
