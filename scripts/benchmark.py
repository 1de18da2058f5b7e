"""Measure speeds, as ratios of implementations measured in turn in one run, or how often the demonstrators succeed.

Drawing and collecting (`envs`), reading episode files and waiting for them (`data`), training steps (`train`), demonstrators of all
tasks (`demonstrators`), a dream that is driven (`play`).
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldmodel.benchmarks.config import BenchmarkConfig, What
from worldmodel.benchmarks.reading import torchvision_decodes
from worldmodel.benchmarks.reference_library import reference_installed
from worldmodel.benchmarks.tables import BenchmarkRow, tables
from worldmodel.datasets.outputs import check_output, json_bytes, write_output
from worldmodel.scripts.console import print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.system_info import command_line, machine


@dataclass(frozen=True)
class BenchmarkVerbConfig(JsonFlag, BenchmarkConfig):
    """Measure speeds, as ratios of sides that take turns in one run, or how often the demonstrators succeed.

    `worldmodel benchmark data --task PushT --out data.json` reads episode files each way.
    """

    what: Annotated[What, tyro.conf.Positional] = "envs"
    """envs: frames/s of drawing and collecting. data: clips/s of reading, and what training waits. train: what limits a training step,
    with targets. demonstrators: solved seeds, with random actions as control. play: a dream driven beside its simulator."""
    out: Path | None = None
    """Write the figures to this JSON file too."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing, and a file that must not be written over."""
        super().__post_init__()
        if self.out is not None:
            check_output(self.out, (".json",), overwrite=self.overwrite)


def main(config: BenchmarkVerbConfig) -> dict[str, Any]:
    """Measure; print each table and write the figures so far as soon as it is measured."""
    facts: dict[str, Any] = {"command": command_line("benchmark"), "machine": machine_of(config)}
    for title, rows in measured(config, facts["machine"]):
        facts.setdefault(title, []).extend(rows)
        print(f"\n{title}")
        print_columns([tuple(rows[0]), *(tuple(map(text_of, row.values())) for row in rows)])
        if config.out is not None:
            write_output(config.out, json_bytes(json.loads(json.dumps(facts, default=str)), indent=1))
    if config.out is not None:
        print(f"\nwrote {config.out}")
    return facts


def measured(config: BenchmarkConfig, machine: dict[str, Any]) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Yield the tables that are asked for; facts found on the way are added to `machine`."""
    if config.checkpoint is None:
        yield from tables(config, machine)
        return
    from worldmodel.agents.play_speed import playing  # torch, which the other benchmarks need not wait for

    yield "playing", [playing(config.checkpoint, task, config.steps, config.device) for task in config.tasks or (None,)]


def machine_of(config: BenchmarkConfig) -> dict[str, Any]:
    """Describe the machine and the versions that figures are measured with."""
    facts = machine("mujoco", "gymnasium", "numpy") | {"load": [round(load, 2) for load in os.getloadavg()]}
    if config.what == "data":
        facts |= {"stable_worldmodel": str(reference_installed()), "its JPEG decoder": str(torchvision_decodes())}
    return facts


def text_of(value: Any) -> str:
    """Format a figure as a cell of a table."""
    if isinstance(value, tuple):
        return "-".join(text_of(part) for part in value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


if __name__ == "__main__":
    sys.exit(run_verb("benchmark", lambda: main, sys.argv[1:]))
