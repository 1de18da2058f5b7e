"""Everything about data files: what is in them, whether they are whole, other formats, and what a mixture draws from them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, subcommand

from worldmodel.scripts.console import run_verb


@dataclass(frozen=True)
class Info:
    """Show what an episode file holds: sizes, how it was collected, columns with their statistics."""

    file: Positional[Path]
    """Episode file."""

    def run(self) -> None:
        """Print it."""
        from worldmodel.datasets.inspection import describe

        print(describe(self.file))


DatasetsConfig = Annotated[Info, subcommand("info")]
"""One subcommand a task."""


def main(config: DatasetsConfig) -> None:
    """Run the subcommand."""
    config.run()


if __name__ == "__main__":
    sys.exit(run_verb("datasets", lambda: main, sys.argv[1:]))
