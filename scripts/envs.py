"""List the tasks, or show everything about one of them, in words and as a picture of its variations; or show all in one picture."""

import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.datasets.outputs import check_output, png_bytes, write_output
from worldmodel.envs import full_id, make_task, task_ids
from worldmodel.envs.variation import Factor, Value
from worldmodel.errors import UserError
from worldmodel.scripts.console import command, run_verb

if TYPE_CHECKING:  # a machine without OpenGL hears of it from make_task, not from an import of mujoco
    from worldmodel.envs.action_text import ActionAxis, ActionForm
    from worldmodel.envs.contract import Task
    from worldmodel.envs.recording import Recording

COLUMNS = 6
STEPS = 3
LABEL_HEIGHT = 16

VARIED = 5
"""Pictures with varied factors in a row of the gallery."""
LINE_WIDTH, LEAST_WIDTH = 160, 16
"""Characters of a line where there is no terminal, and of a column that is not made narrower."""
MARGIN, GAP, TITLE_HEIGHT, CORNER = 24, 8, 26, 6
"""Of the gallery, in pixels."""


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks, or show everything about one."""

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


def main(config: EnvsConfig) -> None:
    """Print the table of tasks, or the description of one; write the picture that was asked for."""
    if config.gallery is not None:
        sheet = gallery(config.image_size, config.seed)
        write_output(config.gallery, png_bytes(sheet.quantize(256, dither=Image.Dither.NONE)))  # a third of the bytes
        print(f"wrote {config.gallery}")
        return
    if config.task is None:
        print_table()
        return
    name = full_id(config.task)
    task = make_task(name)
    print_task(name, task, config.seed)
    if config.preview is not None:
        write_output(config.preview, png_bytes(contact_sheet(name, config.image_size, config.seed)))
        print(f"\nwrote {config.preview}")
    else:
        print(f"\nsee it: {command('envs', '--task', name, '--preview', 'preview.png')}")
    print(f"drive it: {command('play', name)}")
    print(f"record it: {command('collect', '--env', name)}")
    print(f"learn it: {command('quickstart', '--task', name)}")


def print_table() -> None:
    """Print one line for each task."""
    rows: list[tuple[str, ...]] = [("task", "action", "proprio", "steps", "factors", "cameras", "description")]
    for env_id in task_ids():
        task = make_task(env_id)
        numbers = (len(task.action_names), task.proprio_size, task.max_episode_steps, len(task.factors))
        rows.append((env_id, *map(str, numbers), ", ".join(task.cameras), describe(task)))
    print_columns(rows, 10_000)  # a line each, but in a terminal
    print("\neverything about one: worldmodel envs --task ID")


def print_task(env_id: str, task: "Task", seed: int) -> None:
    """Print all that a user of the task wants to know, with an example of each sentence that it can produce."""
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
    print_columns([("axis", "keys", "words"), *(words_of(axis) for axis in task.action_axes)])
    print()
    print_columns([("language", "example"), *sentences(task, rng)])
    print()
    if task.factors:
        rows = [("factor", "default", "values", "description")]
        rows += [(name, text_of(f.default), values_of(f), f.description) for name, f in task.factors.items()]
        print_columns(rows)
    else:
        print("no factors of variation")


def recorded(recording: "Recording") -> str:
    """Describe how a quickstart records a task, and which goals it sets."""
    shares = ", ".join(f"{policy} {share:g}" for policy, share in recording.policies.items())
    return (
        f"{recording.episodes} episodes of {recording.max_steps} steps ({shares}); "
        f"goals {recording.goal_offset} steps ahead, in at most {recording.budget}"
    )


def words_of(axis: "ActionAxis") -> tuple[str, str, str]:
    """Return name, keys and words of one component of an action."""
    return axis.name, " ".join(axis.keys), f"{' '.join(axis.negative)}, {' '.join(axis.positive)}"


def sentences(task: "Task", rng: np.random.Generator) -> list[tuple[str, str]]:
    """Collect what the task says about its present state, its goal and an action: (kind, sentence), the kind once."""
    action, before = rng.uniform(-1, 1, len(task.action_names)).astype(np.float32), task.get_state()
    said = {"caption": task.captions(), "goal": task.describe_goal()}
    said["question"] = [f"{question} {answer}" for question, answer in task.questions(rng)]
    forms: tuple[ActionForm, ...] = ("exact", "words", "keys")
    said["action"] = [task.describe_action(action, form) for form in forms]
    for _ in range(STEPS):
        task.advance(action)
    said["change"] = [task.describe_change(before, task.get_state())]
    return [(kind if i == 0 else "", text) for kind, texts in said.items() for i, text in enumerate(texts)]


def gallery(image_size: int, seed: int) -> Image.Image:
    """Draw a row for each task of this suite: as it is by default, with all factors varied, and the default's goal."""
    columns = 2 + VARIED
    ids = task_ids()
    row_height = TITLE_HEIGHT + image_size + GAP
    width, height = 2 * MARGIN + columns * (image_size + GAP) - GAP, MARGIN + LABEL_HEIGHT + len(ids) * row_height + MARGIN // 2
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    lefts = [MARGIN + column * (image_size + GAP) for column in range(columns)]
    for left, text in ((lefts[0], "default"), (lefts[1], "all factors of variation sampled"), (lefts[-1], "goal")):
        draw.text((left, MARGIN), text, "#70757f", small, anchor="ls")
    mask = rounded_corners(image_size)
    for row, env_id in enumerate(ids):
        top = MARGIN + LABEL_HEIGHT + row * row_height
        task = make_task(env_id, image_size=2 * image_size)  # drawn in double size: smooth edges
        draw.text((MARGIN, top + 16), env_id.rsplit("/", 1)[-1], "#1d1f24", large, anchor="ls")
        name_width = draw.textlength(env_id.rsplit("/", 1)[-1], large)
        draw.text((MARGIN + name_width + 12, top + 16), describe(task), "#70757f", small, anchor="ls")
        for left, picture in zip(lefts, pictures_of(task, seed), strict=True):
            sheet.paste(Image.fromarray(picture).reduce(2), (left, top + TITLE_HEIGHT), mask)
        task.close()
    return sheet


def pictures_of(task: "Task", seed: int) -> list[np.ndarray]:
    """Render the default, `VARIED` samples of all factors, and the goal of the default."""
    obs, info = task.reset(seed=seed)
    varied = [task.reset(seed=seed + i, options={"variation": "all"})[0]["pixels"] for i in range(1, VARIED + 1)]
    return [obs["pixels"], *varied, info["goal"]]


def rounded_corners(size: int) -> Image.Image:
    """Draw a mask that leaves out the corners."""
    mask = Image.new("L", (4 * size, 4 * size), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * size - 1, 4 * size - 1), 4 * CORNER, fill=255)
    return mask.reduce(4)


def contact_sheet(env_id: str, image_size: int, seed: int) -> Image.Image:
    """Draw a row of pictures without variation, one for each factor alone, one for all; a column is a seed.

    All pictures of a column have the same seed and are taken after the same actions, so that factors of the
    physics show too.
    """
    task = make_task(env_id, image_size=image_size)
    rows: dict[str, list[str]] = {"no variation": []}
    rows |= {name: [name] for name in task.factors}
    if task.factors:
        rows["all"] = list(task.factors)
    sheet = Image.new("RGB", (COLUMNS * image_size, len(rows) * (image_size + LABEL_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, names) in enumerate(rows.items()):
        top = row * (image_size + LABEL_HEIGHT)
        draw.text((4, top + 2), label, fill="black")
        for column in range(COLUMNS):
            rng = np.random.default_rng(seed + column)
            action = rng.choice([-1.0, 1.0], task.action_space.shape)
            values = {name: task.factors[name].sample(rng) for name in names}
            task.reset(seed=seed + column, options={"variation_values": values})
            for _ in range(STEPS):
                task.advance(action)
            sheet.paste(Image.fromarray(task.render()), (column * image_size, top + LABEL_HEIGHT))
    task.close()
    return sheet


def describe(task: "Task") -> str:
    """Return the first line of the task's docstring."""
    return (type(task).__doc__ or "").strip().split("\n")[0].rstrip(".")


def text_of(value: Value) -> str:
    """Format a value of a factor."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def values_of(factor: Factor) -> str:
    """Describe the values that a factor takes, in words."""
    if factor.choices:
        return ", ".join(map(str, factor.choices))
    whole = ", whole" if factor.integer else ""
    return f"{factor.low:g} to {factor.high:g}{whole}{', new in every episode' if factor.per_episode else ''}"


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
