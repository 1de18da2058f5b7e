"""Tasks in pictures: one with its factors of variation, or all of them."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.description import STEPS, describe

if TYPE_CHECKING:  # a machine without OpenGL hears of it from make_task, not from an import of mujoco
    from worldmodel.envs.task import Task

COLUMNS = 6
LABEL_HEIGHT = 16
VARIED = 5
"""Pictures with varied factors in a row of the gallery."""
MARGIN, GAP, TITLE_HEIGHT, CORNER = 24, 8, 26, 6
"""Of the gallery, in pixels."""


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
