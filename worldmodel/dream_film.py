"""Dreams for people to look at: a film of truth above dream, and the errors by horizon as a table."""

import numpy as np

from worldmodel.datasets.films import labelled
from worldmodel.evaluation import DreamErrors

WIDTH = 768
"""Pixels that a film of dreams is wide at least: several clips stand side by side."""


def film(truth: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Stack truth (b, t + h, height, width, 3) above dream (b, h, ...), clips side by side, with words for what is given and dreamed.

    Pixels are enlarged by a whole number until the film is `WIDTH` wide.
    """
    context, length = truth.shape[1] - dream.shape[1], truth.shape[1]
    below = np.concatenate([truth[:, :context], dream], axis=1)
    rows = [np.concatenate(list(video), axis=2) for video in (truth, below)]
    steps = [f"dream, {i - context + 1} steps ahead" if i >= context else "given" for i in range(length)]
    return labelled(rows, [[f"truth, frame {i}" for i in range(length)], steps], WIDTH)


NAMES = {
    "learned": "dream",
    "shuffled_actions": "shuffled actions",
    "copy_last_frame": "copy last frame",
    "true_frames": "read off true frames",
}
"""Titles of the columns."""


def table(errors: DreamErrors) -> str:
    """Format the errors by horizon as lines of text."""
    parts = [("mean squared error of the latents", errors.latent)]
    if errors.state:
        parts.append(("error of the true state as a probe reads it off the latents, in its standard deviations", errors.state))
    lines = []
    for title, columns in parts:
        lines += [f"{title} (+- half of the 95 % interval over {errors.episodes} episodes)"]
        lines.append("horizon  " + "".join(f"{NAMES[name]:>22}" for name in columns))
        for h in range(len(errors.latent["learned"])):
            cells = [values[h] for values in columns.values()]
            lines.append(f"{h + 1:>7}  " + "".join(f"{f'{mean:.4f} +- {half:.4f}':>22}" for mean, half in cells))
        lines.append("")
    lines.append(f"shuffled / true actions one step ahead: {errors.shuffled_over_true:.2f} (1: the actions do not matter)")
    return "\n".join(lines)
