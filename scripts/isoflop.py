"""Scaling laws: train a grid of sizes to the same budgets, fit exponents for language and vision, and draw them.

Every point of the grid is a run folder of its own. The same command goes on where it stopped; more sizes and budgets may be added
later. `points.json` has the runs, `fits.json` the exponents and what they say of the paper's findings, `isoflop.png` both.
"""

import math
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.checkpoint import read_checkpoint
from worldmodel.codec.codec import load_codec
from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.records import parse_json
from worldmodel.datasets.training_data import MixtureConfig, open_training_data
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.model import ModelConfig
from worldmodel.precision import choose_device
from worldmodel.presets import tiny
from worldmodel.scripts.console import print_columns, run_verb, stages
from worldmodel.scripts.preset_flag import PresetFlag
from worldmodel.serialization import rebuild
from worldmodel.studies.experiment_runner import ExperimentRunner, write_record
from worldmodel.studies.scaling import Measured, Point, Sparsity, Study, check_grid, for_steps, plan, scaled, study
from worldmodel.studies.scaling_figure import draw
from worldmodel.system_info import command_line, device_facts, machine
from worldmodel.training.latent_cache import codec_key
from worldmodel.training.resume import locked_run_folder, newest_checkpoint, read_progress
from worldmodel.training.train import stop_on_signals

LARGE = 1e18
"""Operations of which many steps can be made of any model, so that their rounded number gives the operations of one step."""
MEASURED_BATCHES = 4
"""Batches whose mean stands for the operations of a step."""


@dataclass(frozen=True)
class IsoflopConfig:
    """Train every size on every budget of compute, and fit how the best size N and tokens D grow with the budget C.

    Look at the plan first: `worldmodel isoflop --data two_room.h5 --codec codec --plan` prints sizes, tokens, steps and the time to
    expect, for which it times a step of each size. The optimum of a budget must lie inside its sizes; five sizes and three budgets are
    the least that give a scaling exponent an interval. The same command goes on where it was stopped; sizes and budgets may be
    added to the folder.
    """

    codec: Path
    """Folder of the codec, from worldmodel codec."""
    data: tuple[Path, ...] = ()
    """Episode files; a recipe may name them instead."""
    out: Path | None = None
    """Folder of all runs; by default `isoflop` in the runs folder of WORLDMODEL_HOME. The same arguments continue it."""
    plan: bool = False
    """Print the grid with the time to expect, and train nothing."""
    sizes: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Sizes of the models: multiples of the preset's width and depth. At least three, for a parabola; five, to tell noise from it."""
    budgets: tuple[float, ...] = ()
    """Floating-point operations of a run, of forward and backward passes; by default three, each twice the one before, of which the
    least gives the largest size twice the `min_steps`."""
    kinds: tuple[Sparsity, ...] = ("dense", "moe")
    """dense: the preset's dense feed-forward; moe: the preset's mixture of experts, or one of as many active parameters."""
    min_steps: int = 20
    """Points with fewer steps are left out: the schedule of such a run has no time to act."""
    replicates: int = 200
    """Of the bootstrap that gives the intervals."""
    batches: int = 8
    """Held-out batches that each loss is measured on."""
    keep_runs: bool = False
    """Keep the checkpoints of measured points; without, their metrics stay and their weights go."""
    vocab_size: int = 2048
    """Largest vocabulary of the tokenizer."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""
    preset: PresetFlag = field(default_factory=tiny)
    """The model of size 1, its batch and its schedule."""

    def __post_init__(self) -> None:
        for name in ("sizes", "budgets"):
            values = getattr(self, name)
            none = not values and name == "sizes"
            if none or len(set(values)) < len(values) or not all(math.isfinite(v) and v > 0 for v in values):
                raise UserError(f"{name} are {values}; give positive numbers, each once")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"kinds are {self.kinds}; give dense, moe or both")
        for name, least in (("min_steps", 1), ("replicates", 20), ("batches", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")


def main(config: IsoflopConfig) -> None:
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
        print_columns(plan_rows(config, runner, points))
        return
    if not kept:
        least = min(config.min_steps * point.budget / max(point.steps, 0.5) for point in points)
        raise UserError(f"no budget gives any size {config.min_steps} steps: take budgets of at least {least:.1e}, or smaller sizes")
    with locked_run_folder(out, record_of(config, runner)), stop_on_signals() as stop:
        setup = time.perf_counter() - began
        measured = run_grid(config, runner, kept, out, stop)
    if len(measured) < len(kept):
        print(f"stopped after {len(measured)} of {len(kept)} points; the same command goes on from there")
        return
    result = study(measured, config.replicates, config.preset.train.seed)
    report(config, result, measured, setup, out)


def grid(config: IsoflopConfig, runner: ExperimentRunner) -> list[Point]:
    """List all points, the cheapest budgets first."""
    packer = runner.packer(config.preset)
    batches = [packer.batch(step) for step in range(MEASURED_BATCHES)]
    models: list[tuple[ModelConfig, Sparsity, float]] = []
    for kind in config.kinds:
        for size in sorted(config.sizes):
            try:
                model = runner.model_config(scaled(config.preset, size, kind))
            except UserError as error:
                message = str(error)
                raise UserError(message if message.startswith("size ") else f"size {size:g}: {message}") from None
            models.append((model, kind, size))
    shown = tqdm(models, unit="model", desc="counting operations", leave=False, disable=None)
    counted = [plan(model, kind, size, config.budgets or (LARGE,), batches) for model, kind, size in shown]
    if not config.budgets:
        budgets = usual_budgets(config.min_steps, [points[0].steps for points in counted])
        counted = [plan(model, kind, size, budgets, batches) for model, kind, size in models]
    points = [point for of_model in counted for point in of_model]
    check_grid(points)
    return sorted(points, key=lambda point: (point.budget, point.size, point.kind))


def usual_budgets(min_steps: int, steps: Sequence[int]) -> tuple[float, ...]:
    """Choose three budgets; `steps` says how many steps `LARGE` operations give each model."""
    least = float(f"{2 * min_steps * LARGE / min(steps):.1e}")
    return least, 2 * least, 4 * least


def plan_rows(config: IsoflopConfig, runner: ExperimentRunner, points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Format the grid as a table; seconds are those of one timed training step of each model, times the steps."""
    batch = runner.packer(config.preset).batch(0)
    seconds: dict[tuple[str, float], float] = {}
    rows: list[tuple[str, ...]] = [
        ("model", "size", "width", "depth", "parameters", "active N", "FLOPs", "tokens D", "D/N", "steps", "seconds")
    ]
    total = 0.0
    for point in tqdm(points, unit="point", desc="timing a step of each size", disable=None):
        key = point.kind, point.size
        if key not in seconds:
            seconds[key] = runner.step_seconds(scaled(config.preset, point.size, point.kind), batch)
        left_out = point.steps < config.min_steps
        expected = 0.0 if left_out else point.steps * seconds[key]
        total += expected
        shape = (point.kind, f"{point.size:g}", str(point.width), str(point.depth), f"{point.total:,}", f"{point.active:,}")
        spent = (f"{point.budget:.3g}", f"{point.tokens:,}", f"{point.tokens / point.active:.2f}", str(point.steps))
        rows.append((*shape, *spent, "left out: too few steps" if left_out else f"{expected:.0f}"))
    rest = [""] * (len(rows[0]) - 2)
    rows.append(("all", *rest, f"{total:.0f}, about {total / 3600:.1f} hours"))
    return rows


def record_of(config: IsoflopConfig, runner: ExperimentRunner) -> dict[str, Any]:
    """Collect what must be the same when a study is continued; sizes, budgets and kinds may change."""
    return {
        "study": "isoflop",
        "preset": asdict(config.preset),
        "mixture": asdict(config.mixture),
        "data": [store.path.name for store in runner.data.stores],
        "codec": codec_key(runner.codec),
        "vocab_size": config.vocab_size,
        "batches": config.batches,
    }


def run_grid(
    config: IsoflopConfig, runner: ExperimentRunner, points: Sequence[Point], out: Path, stop: threading.Event
) -> list[Measured]:
    """Run the points that `points.json` lacks, and write each when it is done; fewer than asked for if training is stopped."""
    done = read_points(out / "points.json")
    held_out = runner.held_out(config.preset, config.batches)
    with tqdm(total=len(points), initial=sum(p.name in done for p in points), unit="point", desc="isoflop", disable=None) as bar:
        for point in points:
            if point.name in done:
                continue
            folder = out / "runs" / point.name
            fresh, began = newest_checkpoint(folder) is None, time.perf_counter()
            preset = for_steps(scaled(config.preset, point.size, point.kind), point.steps)
            result = runner.run(preset, folder, stop)
            if not result.finished:
                break
            losses = runner.losses(read_checkpoint(result.checkpoint, choose_device(preset.train.device)).model, held_out)
            step_seconds = read_progress(result.checkpoint).seconds
            done[point.name] = Measured(point, losses, step_seconds, time.perf_counter() - began if fresh else None)
            write_record(out / "points.json", [asdict(measured) for measured in done.values()])
            if not config.keep_runs:
                shutil.rmtree(folder / "checkpoints")
            bar.update()
    return [done[point.name] for point in points if point.name in done]


def read_points(path: Path) -> dict[str, Measured]:
    """Read the points that have been measured, by name."""
    if not path.exists():
        return {}
    try:
        records = parse_json(path.read_bytes())
        if not isinstance(records, list):
            raise TypeError(f"it holds {type(records).__name__}, expected a list")
        measured = [rebuild(Measured, record, f"{path}: point {number}") for number, record in enumerate(records)]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to measure the points again") from None
    return {each.point.name: each for each in measured}


def report(config: IsoflopConfig, result: Study, measured: Sequence[Measured], setup: float, out: Path) -> None:
    """Write fits.json and isoflop.png, and print exponents, findings, and the share of the time that was spent in steps."""
    whole = [each for each in measured if each.seconds is not None]
    steps, wall = sum(m.step_seconds for m in whole), sum(m.seconds or 0.0 for m in whole)
    timing = {"step_seconds": steps, "run_seconds": wall, "setup_seconds": setup, "share_in_steps": steps / wall if wall else None}
    facts = machine("numpy") | device_facts(choose_device(config.preset.train.device))
    origin = {"command": command_line("isoflop"), "machine": facts, "points": len(measured), "replicates": config.replicates}
    write_record(out / "fits.json", origin | result.to_json() | {"timing": timing})
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


def in_words(exponent: dict[str, float | None] | None) -> str:
    """Format an exponent with its interval."""
    if exponent is None:
        return "-"
    if exponent["low"] is None:
        return f"{exponent['value']:.3f} (no interval)"
    return f"{exponent['value']:.3f} [{exponent['low']:.3f}, {exponent['high']:.3f}]"


if __name__ == "__main__":
    sys.exit(run_verb("isoflop", lambda: main, sys.argv[1:]))
