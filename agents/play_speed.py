"""How fast a dream can be driven beside its simulator: from a key to the frames that it leads to, and what memory that takes."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.dream_controller import DreamController, open_dream

WARM_UP = 5
"""Model steps that are not measured."""
PAGES = Path("/proc/self/statm")
"""Where Linux counts the pages of memory that a process holds."""


def playing(checkpoint: Path, task: str | None, steps: int, device: str) -> dict[str, Any]:
    """Drive a dream beside its simulator, another key at each model step, and measure.

    Args:
        checkpoint: as of `from_pretrained`.
        task: that the model was trained on; None: its first one.
        steps: model steps; the memory is measured after a tenth of them, too.
        device: of the model.

    Returns:
        A row: the task, the time from a key to what the page is told of both frames, in ms (median and 95th percentile), model steps a
        second, and the memory of the process, in MiB.

    Raises:
        UserError: as of `open_dream`; the model predicts NaN.
    """
    with open_dream(checkpoint, task, device=device) as controller:
        seconds, memory = [], {}
        for step in range(WARM_UP + steps):
            seconds.append(_press(controller, step))
            if step + 1 - WARM_UP in (steps // 10, steps):
                memory[f"MiB after {step + 1 - WARM_UP}"] = round(_memory() / 2**20)
        measured = np.array(seconds[WARM_UP:])
        median, late = np.percentile(1000 * measured, [50, 95])
        row = {
            "task": controller.workers.env_id,
            "px": controller.session.world.image_size,
            "key to frames, ms": round(float(median), 1),
        }
        return row | {"95 %": round(float(late), 1), "steps/s": round(float(1 / measured.mean()), 1)} | memory


def _press(controller: DreamController, step: int) -> float:
    """Press a key for one model step and return the seconds until the page would be told."""
    keys = [key for axis in controller.task.action_axes for key in axis.keys]
    start = time.perf_counter()
    controller.handle_message({"do": "keys", "keys": [keys[step // 4 % len(keys)]]})
    controller.tick()
    json.dumps(controller.status())
    return time.perf_counter() - start


def _memory() -> int:
    """Return the bytes of memory that this process holds; where the system does not say, the most that it has held."""
    if PAGES.is_file():
        return int(PAGES.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
