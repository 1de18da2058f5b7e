"""List the tasks, or show everything about one of them, in words and as a picture of its variations."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.variation import Factor
from worldmodel.errors import UserError
from worldmodel.scripts.console import run_verb

if TYPE_CHECKING:  # a machine without OpenGL hears of it from make_task, not from an import of mujoco
    from worldmodel.envs.task import MujocoTask

COLUMNS = 6
STEPS = 3
LABEL_HEIGHT = 16


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks, or show everything about one."""

    task: str | None = None
    """Show this task, e.g. worldmodel/TwoRoom-v0."""
    preview: Path | None = None
    """Write pictures of the task and of each of its factors of variation to this PNG file."""
    image_size: int = 128
    """Height and width of one picture of the preview, in pixels."""
    seed: int = 0
    """Seed of the start, the goal and the variations shown."""

    def __post_init__(self) -> None:
        """Refuse flags that contradict each other before anything is built."""
        if self.preview is not None and self.task is None:
            raise UserError(f"--preview {self.preview} needs --task, the task to draw")
        if self.preview is not None and self.preview.suffix.lower() != ".png":
            raise UserError(f"--preview {self.preview} must end in .png")


def main(config: EnvsConfig) -> None:
    """Print the table of tasks, or the description of one."""
    if config.task is None:
        print_table()
        return
    task = make_task(config.task)
    print_task(config.task, task, config.seed)
    if config.preview is not None:
        config.preview.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(config.task, config.image_size, config.seed).save(config.preview)
        print(f"\nwrote {config.preview}")
    else:
        print(f"\nsee it: worldmodel envs --task {config.task} --preview preview.png")
    print(f"record it: worldmodel collect --env {config.task}")


def print_table() -> None:
    """One line for each task."""
    rows: list[tuple[str, ...]] = [("task", "action", "pixels", "proprio", "factors", "description")]
    for env_id in task_ids():
        task = make_task(env_id)
        sizes = (len(task.action_names), pixels_of(task), task.proprio_size, len(task.factors))
        rows.append((env_id, *map(str, sizes), describe(task)))
    print_columns(rows)
    print("\neverything about one: worldmodel envs --task ID")


def print_task(env_id: str, task: "MujocoTask", seed: int) -> None:
    """All that a user of the task wants to know, with an example of each sentence it can say."""
    rng = np.random.default_rng(seed)
    _, info = task.reset(seed=seed)
    action = rng.uniform(-1, 1, len(task.action_names))
    question, answer = task.questions(rng)[0]
    facts = {
        "action": f"{len(action)} numbers in [-1, 1], as text '{task.describe_action(action)}'",
        "pixels": f"{pixels_of(task)} uint8",
        "proprio": f"{task.proprio_size} float32",
        "state": f"{info['state'].size} float64, the whole physics",
        "features": ", ".join(task.feature_names),
        "success": f"distance to the goal at most {task.success_threshold:g}",
        "time limit": f"{task.max_episode_steps} steps",
        "caption": info["caption"],
        "question": f"{question} {answer}",
    }
    print(f"{env_id}: {describe(task)}\n")
    print_columns(list(facts.items()))
    rows = [("factor", "default", "values", "description")]
    rows += [(name, str(f.default), values_of(f), f.description) for name, f in task.factors.items()]
    print()
    print_columns(rows)


def contact_sheet(env_id: str, image_size: int, seed: int) -> Image.Image:
    """A row of pictures without variation, one for each factor alone, one for all; a column is a seed.

    All pictures of a column have the same seed and are taken after the same actions, so that factors of the
    physics show too.
    """
    task = make_task(env_id, image_size=image_size)
    rows: dict[str, list[str]] = {"no variation": []}
    rows |= {name: [name] for name in task.factors}
    rows |= {"all": list(task.factors)}
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


def describe(task: "MujocoTask") -> str:
    """The first line of the task's docstring."""
    return (type(task).__doc__ or "").strip().splitlines()[0].rstrip(".")


def pixels_of(task: "MujocoTask") -> str:
    """Height, width and channels of a frame."""
    return f"{task.image_size}x{task.image_size}x3"


def values_of(factor: Factor) -> str:
    """The values that a factor takes, as words."""
    if factor.choices:
        return ", ".join(map(str, factor.choices))
    return f"{factor.low:g} to {factor.high:g}"


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(run_verb("envs", lambda: main, sys.argv[1:]))
