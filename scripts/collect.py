"""Record episodes of a task into a file, in several worker processes; run it again to go on after a stop."""

import sys

from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.coverage import ASCII_BARS, BARS, coverage_table
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.scripts.console import command, run_verb


def main(config: CollectConfig) -> None:
    """Record the missing episodes, then print what the file holds."""
    result = collect(config)
    print(f"{result.path}: {result.episodes} episodes, {result.frames} frames")
    print(f"recorded now: {result.new_episodes} episodes in {result.seconds:.1f} s")
    if result.left_out:
        print(f"left out because they failed: {len(result.left_out)} episodes, named above and in the file's `left_out`")
    print(coverage_table(result.coverage, BARS if (sys.stdout.encoding or "").lower().startswith("utf") else ASCII_BARS))
    print(f"next: {command('codec', '--data', result.path)}")


if __name__ == "__main__":
    sys.exit(run_verb("collect", lambda: main, sys.argv[1:]))
