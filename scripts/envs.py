"""List the tasks, or show everything about one of them, in words and as a picture of its variations; or show all in one picture."""

import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from worldmodel.datasets.outputs import check_output, png_bytes, write_output
from worldmodel.envs import full_id, make_task, task_ids
from worldmodel.envs.description import describe, recorded, sentences, text_of, values_of, words_of
from worldmodel.envs.preview import contact_sheet, gallery
from worldmodel.errors import UserError
from worldmodel.scripts.console import command, run_verb
from worldmodel.scripts.json_flag import JsonFlag, records

if TYPE_CHECKING:  # a machine without OpenGL hears of it from make_task, not from an import of mujoco
    from worldmodel.envs.task import Task

LINE_WIDTH, LEAST_WIDTH = 160, 16
"""Characters of a line where there is no terminal, and of a column that is not made narrower."""


@dataclass(frozen=True)
class EnvsConfig(JsonFlag):
    """List the tasks, or show everything about one, in words and in pictures.

    `worldmodel envs --task PushT --preview push_t.png` draws its factors of variation.
    """

    task: str | None = None
    """Show this task: a name such as PushT, or the id of any gymnasium environment."""
    preview: Path | None = None
    """Write pictures of the task and of each of its factors of variation to this PNG file."""
    gallery: Path | None = None
    """Write pictures of all tasks of this suite with their factors varied to this PNG file."""
    image_size: int = 128
    """Height and width of one picture of the preview or the gallery, in pixels."""
    seed: int = 0
    """Seed of the start, the goal and the variations shown."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""

    def __post_init__(self) -> None:
        """Refuse flags that contradict each other before anything is built."""
        if self.preview is not None and self.task is None:
            raise UserError(f"--preview {self.preview} needs --task, the task to draw")
        if self.gallery is not None and self.task is not None:
            raise UserError("--gallery shows all tasks; give it without --task, or take --preview for one task")
        for path in filter(None, (self.preview, self.gallery)):
            check_output(path, (".png",), overwrite=self.overwrite)


def main(config: EnvsConfig) -> dict[str, Any]:
    """Print the table of tasks, or the description of one; write the picture that was asked for."""
    if config.gallery is not None:
        sheet = gallery(config.image_size, config.seed)
        write_output(config.gallery, png_bytes(sheet.quantize(256, dither=Image.Dither.NONE)))  # a third of the bytes
        print(f"wrote {config.gallery}")
        return {"gallery": config.gallery}
    if config.task is None:
        return {"tasks": print_table()}
    name = full_id(config.task)
    task = make_task(name)
    found = print_task(name, task, config.seed)
    if config.preview is not None:
        write_output(config.preview, png_bytes(contact_sheet(name, config.image_size, config.seed)))
        print(f"\nwrote {config.preview}")
    else:
        print(f"\nsee it: {command('envs', '--task', name, '--preview', 'preview.png')}")
    print(f"drive it: {command('play', '--task', name)}")
    print(f"record it: {command('collect', '--task', name)}")
    print(f"learn it: {command('quickstart', '--task', name)}")
    return found


def print_table() -> list[dict[str, Any]]:
    """Print one line for each task, and return them."""
    found = []
    for env_id in task_ids():
        task = make_task(env_id)
        sizes = {"action": len(task.action_names), "proprio": task.proprio_size, "steps": task.max_episode_steps}
        words = {"cameras": ", ".join(task.cameras), "description": describe(task)}
        found.append({"task": env_id, **sizes, "factors": len(task.factors), **words})
    print_columns([tuple(found[0]), *(tuple(map(str, row.values())) for row in found)], 10_000)  # a line each, but in a terminal
    print("\neverything about one: worldmodel envs --task NAME")
    return found


def print_task(env_id: str, task: "Task", seed: int) -> dict[str, Any]:
    """Print and return all that a user of the task wants to know, with an example of each sentence that it can produce."""
    rng = np.random.default_rng(seed)
    _, info = task.reset(seed=seed)
    facts = {
        "action": f"{len(task.action_names)} numbers in [-1, 1], one action every {task.step_seconds:g} s",
        "pixels": f"{task.image_size}x{task.image_size}x3 uint8",
        "cameras": ", ".join(task.cameras),
        "proprio": f"{task.proprio_size} float32",
        "state": f"{info['state'].size} float64, " + ("the whole physics" if task.restorable else "which cannot be restored exactly"),
        "features": ", ".join(task.feature_names),
        "success": f"distance to the goal at most {task.success_threshold:g}",
        "time limit": f"{task.max_episode_steps} steps",
        "recorded": recorded(task.recording),
    }
    print(f"{env_id}: {describe(task)}\n")
    print_columns(list(facts.items()))
    print()
    axes = [("axis", "keys", "words"), *(words_of(axis) for axis in task.action_axes)]
    print_columns(axes)
    print()
    said = sentences(task, rng)
    print_columns([("language", "example"), *said])
    print()
    factors = [("factor", "default", "values", "description")]
    factors += [(name, text_of(f.default), values_of(f), f.description) for name, f in task.factors.items()]
    if task.factors:
        print_columns(factors)
    else:
        print("no factors of variation")
    tables = {"axes": records(axes), "language": [text for _, text in said], "factors": records(factors)}
    return {"task": env_id, "description": describe(task), **facts, **tables}


def print_columns(rows: Sequence[tuple[str, ...]], width: int | None = None) -> None:
    """Print rows of text with their columns aligned; long cells are broken so that a line fits into `width`, or the terminal."""
    if width is None or sys.stdout.isatty():
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else LINE_WIDTH
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > LEAST_WIDTH:
        widths[widths.index(max(widths))] -= 1
    for row in rows:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            print("  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(run_verb("envs", lambda: main, sys.argv[1:]))
