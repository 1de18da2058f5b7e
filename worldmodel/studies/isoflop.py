"""The grid of a scaling study: models of several sizes on several budgets, its plan, and its runs."""

import math
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from worldmodel.checkpoint import read_checkpoint
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError
from worldmodel.model import ModelConfig
from worldmodel.precision import choose_device
from worldmodel.presets import Preset, tiny
from worldmodel.serialization import rebuild
from worldmodel.studies.experiment_runner import ExperimentRunner, write_record
from worldmodel.studies.scaling import Measured, Point, Sparsity, check_grid, for_steps, plan, scaled
from worldmodel.training.latent_cache import codec_key
from worldmodel.training.resume import newest_checkpoint, read_progress

LARGE = 1e18
"""Operations of which many steps can be made of any model, so that their rounded number gives the operations of one step."""
MEASURED_BATCHES = 4
"""Batches whose mean stands for the operations of a step."""


@dataclass(frozen=True)
class GridConfig:
    """Which sizes are trained on which budgets of compute, and how."""

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
    preset: Preset = field(default_factory=tiny)
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


def grid(config: GridConfig, runner: ExperimentRunner) -> list[Point]:
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


def plan_rows(config: GridConfig, runner: ExperimentRunner, points: Sequence[Point]) -> list[tuple[str, ...]]:
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


def record_of(config: GridConfig, runner: ExperimentRunner) -> dict[str, Any]:
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
    config: GridConfig, runner: ExperimentRunner, points: Sequence[Point], out: Path, stop: threading.Event
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
