"""Compare runs: settings that differ, figures with their intervals, curves on one page, and differences on the same problems."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from worldmodel.agents.comparison_page import sections, tables
from worldmodel.agents.report import write_report
from worldmodel.agents.run_comparison import compare
from worldmodel.datasets.outputs import check_output
from worldmodel.home import runs_dir
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag, plain


@dataclass(frozen=True)
class CompareConfig(JsonFlag):
    """Put quickstarts, runs of pretrain, codecs, evaluations or diagnoses side by side: settings that differ, figures, curves.

    `worldmodel compare quickstart-TwoRoom-0 quickstart-TwoRoom-1` compares two seeds.
    """

    runs: Positional[tuple[Path, ...]]
    """Their folders, two at least."""
    out: Path | None = None
    """Folder for report.html and report.json; by default `compare` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace files of these names which worldmodel did not make."""


def main(config: CompareConfig) -> dict[str, Any]:
    """Print the tables and write the page."""
    out = config.out or runs_dir() / "compare"
    for name in ("report.html", "report.json"):
        check_output(out / name, inputs=[run / name for run in config.runs], overwrite=config.overwrite)
    comparison = compare(config.runs)
    for table in tables(comparison):
        print(table.title)
        print_columns([tuple(table.headers), *(tuple(map(str, row)) for row in table.rows)])
        print(f"{table.note}\n")
    record: dict[str, Any] = plain(comparison.to_json())
    write_report(out / "report.html", sections(comparison), f"Comparison of {', '.join(comparison.names)}", record)
    print(f"{out / 'report.html'}: the same with curves; the numbers are in {out / 'report.json'}")
    return record


if __name__ == "__main__":
    sys.exit(run_verb("compare", lambda: main, sys.argv[1:]))
