"""Gather finished quickstarts, of several tasks and seeds, into one record of figures and one table.

The record has one row for each controller of each run, and the rungs of its ladder; the table is what README shows of it.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldmodel.agents.ladder import SHUFFLED
from worldmodel.datasets.atomic import write_atomic
from worldmodel.errors import UserError
from worldmodel.folder import read_json
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.machine import machine

BEGIN, END = "<!-- worlds: worldmodel results -->\n", "<!-- end of worlds -->\n"
"""Between these lines of a page stands the table."""
COLUMNS = {"random": "random", "copy_last_frame": "copy", "policy": "policy", "guided": "guided", "cem": "search", "oracle": "oracle"}
"""Controllers that the table shows, and their headers; oracle: the true simulator with the model's cost."""


@dataclass(frozen=True)
class ResultsConfig:
    """Which runs, and where to."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished quickstarts, or one record that was gathered before."""
    out: Path | None = None
    """JSON file to write the record to."""
    page: Path | None = None
    """Markdown page whose table is to be drawn anew, between the lines that begin and end it."""


def main(config: ResultsConfig) -> None:
    """Gather, write, print the table."""
    if not config.runs:
        raise UserError("no run is named: give the folders of finished quickstarts")
    first = config.runs[0]
    record = read_json(first) if first.is_file() else gather(config.runs)
    if config.out is not None:
        write_atomic(config.out, (json.dumps(record, indent=1) + "\n").encode())
    drawn = table(record)
    if config.page is not None:
        write_atomic(config.page, with_table(config.page.read_text(encoding="utf-8"), drawn, config.page).encode())
    print(drawn)


def gather(runs: Sequence[Path]) -> dict[str, Any]:
    """The record of some runs: `rows`, `ladder`, and the machine.

    Raises:
        UserError: a folder holds no finished quickstart.
    """
    rows, ladder, minutes = [], [], []
    for run in runs:
        if not (run / "report.json").is_file():
            raise UserError(f"{run} holds no report.json: it is no finished quickstart")
        report = read_json(run / "report.json")
        task, seed = report["config"]["task"].removeprefix("worldmodel/").removesuffix("-v0"), report["config"]["seed"]
        protocol = report["planning"]["protocol"]
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
        ladder += report["ladder"]["rows"]
        minutes.append({"task": task, "seed": seed, "minutes": sum(report["seconds"].values()) / 60})
    made_by = {"command": "worldmodel quickstart --task TASK --seed SEED", **machine("torch")}
    return made_by | {"minutes": minutes, "rows": rows, "ladder": ladder}


def table(record: dict[str, Any]) -> str:
    """Touched / held in percent by task, seed and controller, and the ladder's ratio of shuffled to true actions, as Markdown."""
    runs = list(dict.fromkeys((row["task"], row["seed"]) for row in record["rows"]))
    found = {(row["task"], row["seed"], row["controller"]): row for row in record["rows"]}
    ratios = {(row["task"], row["seed"]): row["value"] for row in record["ladder"] if row["name"] == SHUFFLED}
    took = {(run["task"], run["seed"]): run["minutes"] for run in record["minutes"]}
    lines = [f"| task, seed | {' | '.join(COLUMNS.values())} | shuffled / true | minutes |", "|---" * (len(COLUMNS) + 3) + "|"]
    for run in runs:
        cells = [_cell(found.get((*run, name))) for name in COLUMNS]
        ratio = f"{ratios[run]:.2f}" if run in ratios else ""
        lines.append(f"| {run[0]}, {run[1]} | {' | '.join(cells)} | {ratio} | {took[run]:.1f} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{100 * row['success']:.0f} / {100 * row['held']:.0f}"


def with_table(page: str, drawn: str, path: Path) -> str:
    """A page with this table between its lines.

    Raises:
        UserError: the page lacks them.
    """
    if BEGIN not in page or END not in page:
        raise UserError(f"{path} has no place for the table, between the lines {BEGIN.strip()!r} and {END.strip()!r}")
    before, rest = page.split(BEGIN, 1)
    return before + BEGIN + drawn + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    sys.exit(run_verb("results", lambda: main, sys.argv[1:]))
