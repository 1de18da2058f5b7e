"""Finished quickstarts of several tasks and seeds as one record, one table and one picture of dreams."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldmodel.agents.ladder import SHUFFLED, STEP_AHEAD, TRUE_FRAMES
from worldmodel.datasets.films import labelled
from worldmodel.envs import short_name
from worldmodel.errors import UserError
from worldmodel.serialization import read_json

BEGIN, END = "<!-- worlds: worldmodel results -->\n", "<!-- end of worlds -->\n"
"""Between these lines of a page stands the table."""
COLUMNS = {"random": "random", "copy_last_frame": "copy", "policy": "policy", "guided": "guided", "cem": "search", "oracle": "oracle"}
"""Controllers that the table shows, and their headers; oracle: the true simulator with the model's cost."""
PARTS = ("rows", "ladder", "language")
"""Of a record, beside the runs."""
AHEAD = (1, 8)
"""Model steps ahead at which the table shows the error of the dreamed state, in standard deviations."""


def dreams(runs: Sequence[Path]) -> np.ndarray:
    """Stack the first dream of each run below each other, with the task's name: uint8 (height, width, 3).

    Raises:
        UserError: a run has no picture of its dreams.
    """
    pairs, labels = [], []
    for run in runs:
        manifest, report = read_json(run / "manifest.json"), read_json(run / "report.json")
        try:
            with Image.open(run / "dream.png") as picture:
                pixels = np.asarray(picture.convert("RGB"))
            pairs.append(pixels[None, : 2 * int(manifest["image_size"])])  # of its clips the first: truth, and dream below
            task, seed = named(report)
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{run} has no picture of dreams ({error}): give the folders of finished quickstarts") from None
        labels.append([f"{task}, seed {seed}: truth above, dream below"])
    return labelled(pairs, labels)[0]


def named(report: dict[str, Any]) -> tuple[str, int]:
    """Return task and seed of a quickstart."""
    return short_name(report["config"]["task"]), report["config"]["seed"]


def read_page(path: Path) -> str:
    """Read a page that has a place for the table.

    Raises:
        UserError: it is not there, is no text, or lacks the lines that begin and end the table.
    """
    try:
        page = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): name a Markdown page that is there") from None
    with_table(page, "", path)
    return page


@dataclass(frozen=True)
class RunFigures:
    """What is kept of one quickstart."""

    made: dict[str, Any]
    """Task, seed, minutes, command, commit and machine."""
    rows: list[Any]
    """One for each controller."""
    ladder: list[Any]
    """One for each number of the rungs."""
    language: list[Any]
    """One for each kind of caption and answer: how many of held-out frames were right, and by chance."""


def gather(runs: Sequence[Path]) -> dict[str, Any]:
    """Build the record of some runs: `rows`, `ladder`, `language`, and what made the `runs`.

    Args:
        runs: folders of quickstarts, and records that were gathered before; of one task and seed the last one counts, in the place of
            the first.

    Raises:
        UserError: a folder holds no finished quickstart, or a file no record.
    """
    found: dict[tuple[str, int], RunFigures] = {}
    for run in runs:
        read = of_record(read_json(run), run) if run.is_file() else [of_folder(run)]
        found |= {(each.made["task"], each.made["seed"]): each for each in read}
    every = found.values()
    return {
        "runs": [each.made for each in every],
        **{part: [row for each in every for row in getattr(each, part)] for part in PARTS},
    }


def of_record(record: dict[str, Any], path: Path) -> list[RunFigures]:
    """Return what a record keeps of each of its runs.

    Raises:
        UserError: it is no such record.
    """
    found = []
    try:
        for made in record["runs"]:
            run = made["task"], made["seed"]
            parts = {part: [row for row in record.get(part, []) if (row["task"], row["seed"]) == run] for part in PARTS}
            found.append(RunFigures(made, **parts))
        table(record)  # what cannot be shown is damaged
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is damaged or no record of results: give one that --out wrote, or folders of quickstarts") from None
    return found


def of_folder(run: Path) -> RunFigures:
    """Return what is kept of the quickstart in a folder.

    Raises:
        UserError: it holds no finished quickstart.
    """
    if not (run / "report.json").is_file():
        raise UserError(f"{run} holds no report.json: it is no finished quickstart")
    try:
        return of_report(read_json(run / "report.json"))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{run / 'report.json'} is damaged or of another version: run the quickstart again") from None


def of_report(report: dict[str, Any]) -> RunFigures:
    """Return what is kept of one quickstart, from its report."""
    task, seed = named(report)
    protocol = report["planning"]["protocol"]
    rows = []
    for score in report["planning"]["controllers"]:
        rows.append(
            {
                "task": task,
                "seed": seed,
                "manifest": {key: protocol[key] for key in ("goals", "goal_offset", "budget", "min_distance", "seed")},
                "controller": score["name"],
                "problems": protocol["problems"],
                "success": score["success_rate"],
                "success_interval_95": score["interval_95"],
                "held": score["held_rate"],
                "held_interval_95": score["held_interval_95"],
                "seconds_per_plan": score["seconds_per_plan"],
            }
        )
    making = {"task": task, "seed": seed, "minutes": sum(report["seconds"].values()) / 60, **report["made_by"]}
    language = [{"task": task, "seed": seed, **row} for row in report["language"]]
    return RunFigures(making, rows, list(report["ladder"]["rows"]), language)


def table(record: dict[str, Any]) -> str:
    """Write touched / held in percent by task, seed and controller, and how the dreams do on the ladder, as Markdown."""
    runs = list(dict.fromkeys((row["task"], row["seed"]) for row in record["rows"]))
    found = {(row["task"], row["seed"], row["controller"]): row for row in record["rows"]}
    ratios = {(row["task"], row["seed"]): row["value"] for row in record["ladder"] if row["name"] == SHUFFLED}
    took = {(run["task"], run["seed"]): run["minutes"] for run in record["runs"]}
    steps = {(row["task"], row["seed"], row["name"]): row for row in record["ladder"]}
    ahead = [f"{h} ahead (copying)" for h in AHEAD]
    headers = ["task, seed", *COLUMNS.values(), "shuffled / true", "true frames", *ahead, "minutes"]
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    for run in runs:
        cells = [_cell(found.get((*run, name))) for name in COLUMNS]
        cells.append(f"{ratios[run]:.2f}" if run in ratios else "")
        floor = steps.get((*run, TRUE_FRAMES))
        cells.append("" if floor is None else f"{floor['value']:.2f}")
        errors = [steps.get((*run, f"{STEP_AHEAD}{h}")) for h in AHEAD]
        cells += ["" if row is None else f"{row['value']:.2f} ({row['control']:.2f})" for row in errors]
        lines.append(f"| {run[0]}, {run[1]} | {' | '.join(cells)} | {took[run]:.1f} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['success']:.0f} / {100 * row['held']:.0f}"


def with_table(page: str, drawn: str, path: Path) -> str:
    """Put this table between its lines of a page.

    Raises:
        UserError: the page lacks them.
    """
    if page.count(BEGIN) != 1 or END not in page.partition(BEGIN)[2]:
        raise UserError(f"{path} has no place for the table, between the lines {BEGIN.strip()!r} and {END.strip()!r}")
    before, rest = page.split(BEGIN, 1)
    return before + BEGIN + drawn + END + rest.split(END, 1)[1]
