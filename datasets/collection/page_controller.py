"""What every page has in common from which a task is driven: keys and words become actions, messages commands, mistakes notes."""

import base64
import io
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

LITTLE = 0.3
"""Size of an action component while Shift is held; 1 otherwise."""
MAX_SAID_STEPS = 200
SMALL = 128
"""Height of the largest frame, in pixels, that a page gets without loss."""
Command = Callable[[dict[str, Any]], None]
"""Does what a message of the page asks for."""


class PageController(ABC):
    """Turns what was pressed or said into actions, one for each `tick`; knows nothing of the web.

    A subclass adds commands to `commands` and says what the page shows.

    Args:
        task: what is driven.
    """

    def __init__(self, task: "Task") -> None:
        self.task = task
        self._always = False
        self._note, self._failed = "", False
        self._held: set[str] = set()
        self._tapped: set[str] = set()  # pressed since the last action, perhaps let go again already
        self._little = False
        self._said: deque[np.ndarray] = deque()

    @property
    @abstractmethod
    def tick_seconds(self) -> float:
        """Time from one `tick` to the next while time runs."""

    @abstractmethod
    def tick(self) -> None:
        """Do one action."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what stays the same, under the key `about`, as JSON values."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return what changes, as JSON values; the pictures are data URLs."""

    # ---------------------------------------------------------------- Actions

    @property
    def moving(self) -> bool:
        """Whether time runs: something is pressed or said, or it always does."""
        return self._always or bool(self._held or self._tapped or self._said)

    def release(self) -> None:
        """Let go of everything, as when the page is closed."""
        self._held, self._tapped, self._little = set(), set(), False
        self._said.clear()

    def _next_action(self) -> np.ndarray:
        pressed = self._held | self._tapped
        self._tapped = set()
        if pressed or not self._said:
            size = LITTLE if self._little else 1.0
            axes = self.task.action_axes
            return np.array([size * ((axis.keys[1] in pressed) - (axis.keys[0] in pressed)) for axis in axes], np.float32)
        return self._said.popleft()

    # ---------------------------------------------------------------- Commands

    @property
    def commands(self) -> Mapping[str, Command]:
        """What the page may ask for, by name."""
        return {"keys": self._press, "say": self._queue, "clock": self._set_clock}

    def handle_message(self, message: Any) -> None:
        """Do what the page asks for; a mistake becomes its note."""
        try:
            if not isinstance(message, dict) or str(message.get("do")) not in self.commands:
                raise UserError("the page asked for something unknown; reload it")
            if message["do"] != "keys":
                self._say("")
            self.commands[str(message["do"])](message)
        except UserError as error:
            self._say(str(error), failed=True)

    def _say(self, note: str, failed: bool = False) -> None:
        self._note, self._failed = note, failed

    def _press(self, message: dict[str, Any]) -> None:
        known = {key for axis in self.task.action_axes for key in axis.keys}
        keys = message.get("keys")
        held = known & set(map(str, keys if isinstance(keys, list | tuple) else ()))
        self._tapped |= held - self._held
        self._held, self._little = held, bool(message.get("little"))
        if held:
            self._said.clear()

    def _queue(self, message: dict[str, Any]) -> None:
        action = self.task.parse_action(str(message.get("text", "")))
        steps = message.get("steps", 1)
        if not isinstance(steps, int) or not 1 <= steps <= MAX_SAID_STEPS:
            raise UserError(f"an action can be held for 1 to {MAX_SAID_STEPS} steps")
        self._said = deque([action] * steps)

    def _set_clock(self, message: dict[str, Any]) -> None:
        self._always = bool(message.get("always"))

    # ---------------------------------------------------------------- What the page shows

    def _about_task(self, env_id: str) -> dict[str, Any]:
        """Describe the task and its keys."""
        return {
            "task": env_id,
            "description": (type(self.task).__doc__ or "").strip().split("\n")[0],
            "axes": [
                {"keys": axis.keys, "words": (" ".join(axis.negative), " ".join(axis.positive))} for axis in self.task.action_axes
            ],
            "example": self.task.describe_action(np.array([0.3] * len(self.task.action_axes)), "words"),
        }


def as_url(frame: np.ndarray) -> str:
    """Encode a frame uint8 (H, W, 3) in a data URL: a small one, whose pixels one sees, as a PNG, a larger one as a JPEG."""
    buffer, kind = io.BytesIO(), "png" if len(frame) <= SMALL else "jpeg"
    Image.fromarray(frame).save(buffer, kind, **({} if kind == "png" else {"quality": 92, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
