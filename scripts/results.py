"""Gather finished quickstarts, of several tasks and seeds, into one record of figures, one table and one picture of dreams.

The record has one row for each controller of each run, the rungs of its ladder, and what made the run: command, commit, machine,
minutes. The table is what README shows of it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image

from worldmodel.agents.quickstart_results import dreams, gather, read_page, table, with_table
from worldmodel.datasets.outputs import check_output, json_bytes, png_bytes, write_output
from worldmodel.errors import UserError
from worldmodel.scripts.console import run_verb
from worldmodel.scripts.json_flag import JsonFlag


@dataclass(frozen=True)
class ResultsConfig(JsonFlag):
    """Gather finished quickstarts, of several tasks and seeds, into one record of figures and one table.

    `worldmodel results quickstart-TwoRoom-0 quickstart-PushT-0 --out results.json` prints the table of both.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished quickstarts, and records that were gathered before: of one task and seed the last one counts."""
    out: Path | None = None
    """JSON file to write the record to."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""
    page: Path | None = None
    """Markdown page whose table is to be drawn anew, between the lines that begin and end it; all else on it stays."""
    picture: Path | None = None
    """PNG of the first dream of each run, truth above dream; the runs' folders are needed for it."""


def main(config: ResultsConfig) -> dict[str, Any]:
    """Gather the runs, write the record and print the table."""
    if not config.runs:
        raise UserError("no run is named: give the folders of finished quickstarts")
    page = config.page
    inputs = [run / "report.json" for run in config.runs] + list(config.runs)
    if config.out is not None:
        check_output(config.out, (".json",), [*inputs, *filter(None, [page])], config.overwrite)
    if config.picture is not None:
        check_output(config.picture, (".png",), inputs, config.overwrite)
        drawn_dreams = dreams(config.runs)
    before = ""
    if page is not None:
        check_output(page, inputs=inputs, overwrite=True)  # nothing of it is replaced but its table
        before = read_page(page)
    record = gather(config.runs)
    try:
        data, drawn = json_bytes(record, indent=1), table(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{config.runs[0]} is damaged: gather the quickstarts anew, from their folders") from None
    if config.out is not None:
        write_output(config.out, data)
    if page is not None:
        write_output(page, with_table(before, drawn, page).encode())
    if config.picture is not None:
        write_output(config.picture, png_bytes(Image.fromarray(drawn_dreams)))
    print(drawn)
    return record


if __name__ == "__main__":
    sys.exit(run_verb("results", lambda: main, sys.argv[1:]))
