"""List runs: training, quickstarts, codecs, evaluations and studies, how far each is and how good."""

import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from worldmodel.agents.run_folders import RunFolder, list_folders
from worldmodel.errors import UserError
from worldmodel.home import checkpoints_dir, runs_dir
from worldmodel.scripts.console import command, print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag

HEADERS = ("run", "kind", "task", "steps", "loss", "touched / held", "written", "size", "state")
LOSSES = ("text", "flow", "action")
"""Which are printed."""


@dataclass(frozen=True)
class RunsConfig(JsonFlag):
    """List runs, codecs and evaluations: how far each is, and how good, with what is damaged or somebody else's among them.

    `worldmodel runs ~/.worldmodel/runs` lists all of a folder.
    """

    folders: Positional[tuple[Path, ...]] = ()
    """Runs, or folders of runs; by default the runs and checkpoints folders of WORLDMODEL_HOME."""


def main(config: RunsConfig) -> list[dict[str, Any]]:
    """Print a line for each run."""
    missing = [folder for folder in config.folders if not folder.is_dir()]
    if missing:
        raise UserError(f"there is no folder {missing[0]}: name a run, or a folder of runs")
    looked = config.folders or [folder for folder in (runs_dir(), checkpoints_dir()) if folder.is_dir()]
    found = list_folders(looked)
    if found:
        print_columns([HEADERS, *map(cells, found)])
        with_figures = [each.path for each in found if each.losses or each.success]
        if len(with_figures) > 1:
            print(f"\nnext: {command('compare', *with_figures[:2])}")
    else:
        print(f"no runs in {', '.join(map(str, looked or [runs_dir()]))} yet\nnext: {command('quickstart')}")
    return [asdict(each) | {"modified": when(each)} for each in found]


def cells(run: RunFolder) -> tuple[str, ...]:
    """Format a run as a line of the table."""
    steps = "" if run.done is None else f"{run.done}" + (f" of {run.asked}" if run.asked is not None else "")
    losses = ", ".join(f"{name} {run.losses[name]:.3g}" for name in LOSSES if name in run.losses)
    success = f"{run.success.touched:.0%} / {run.success.held:.0%} {run.success.controller}" if run.success else ""
    state = f"{run.state}: {run.reason}" if run.reason else run.state
    return str(run.path), run.kind, ", ".join(run.tasks), steps, losses, success, when(run), f"{run.size / 1e6:.1f} MB", state


def when(run: RunFolder) -> str:
    """Write when something in a run was changed last, to the minute; empty for an empty folder."""
    return datetime.fromtimestamp(run.modified).isoformat(" ", "minutes") if run.modified else ""


if __name__ == "__main__":
    sys.exit(run_verb("runs", lambda: main, sys.argv[1:]))
