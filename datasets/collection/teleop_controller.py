"""The controller: what keys, words and buttons do to a task that is driven, and what there is to see; knows nothing of the web."""

import base64
import io
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

LITTLE = 0.3
"""Size of an action component while Shift is held; 1 otherwise."""
MAX_SAID_STEPS = 200


class TeleopController:
    """Turns what was pressed or said into actions, one for each `tick`, and into episodes in a file.

    Args:
        session: the task and the recording of the running episode.
        view: the same task in the size of the page, or `session.task` itself; only drawn.
        file: where finished episodes go.
        max_steps: number of actions after which an episode ends by itself.
    """

    def __init__(self, session: TeleopSession, view: "Task", file: TeleopFile, max_steps: int) -> None:
        self.session, self.view, self.file = session, view, file
        self.kept = 0
        """Episodes recorded by this controller, less those undone."""
        self._max_steps = max_steps
        self._camera = session.task.camera
        self._always = False
        self._note, self._failed = "", False
        self._held: set[str] = set()
        self._tapped: set[str] = set()  # pressed since the last action, perhaps let go again already
        self._little = False
        self._said: deque[np.ndarray] = deque()
        self._action_text = ""
        self._set_scene()

    # ---------------------------------------------------------------- Time

    @property
    def moving(self) -> bool:
        """Whether time runs: something is pressed or said, or it always does."""
        return self._always or bool(self._held or self._tapped or self._said)

    def tick(self) -> None:
        """Do one action, `step_seconds` of the world."""
        action = self._next_action()
        try:
            self.session.step(action)
            self._action_text = self.session.task.describe_action(action, "words")
            if self.session.steps >= self._max_steps:
                self._begin(f"the episode ended after {self._max_steps} steps")
            elif self.session.finished:
                self._begin("the environment ended the episode")
        except UserError as error:
            self._say(str(error), failed=True)
        self._mirror()

    def _next_action(self) -> np.ndarray:
        pressed = self._held | self._tapped
        self._tapped = set()
        if pressed or not self._said:
            size = LITTLE if self._little else 1.0
            axes = self.session.task.action_axes
            return np.array([size * ((axis.keys[1] in pressed) - (axis.keys[0] in pressed)) for axis in axes], np.float32)
        return self._said.popleft()

    # ---------------------------------------------------------------- Commands

    def handle_message(self, message: Any) -> None:
        """Do what the page asks for; a mistake becomes its note."""
        commands = {
            "keys": self._press,
            "say": self._queue,
            "new": self._new,
            "discard": self._discard,
            "undo": self._undo,
            "record": self._record,
            "save": self._save,
            "camera": self._look,
            "clock": self._set_clock,
        }
        try:
            if not isinstance(message, dict) or str(message.get("do")) not in commands:
                raise UserError("the page asked for something unknown; reload it")
            if message["do"] != "keys":
                self._say("")
            commands[str(message["do"])](message)
        except UserError as error:
            self._say(str(error), failed=True)

    def _say(self, note: str, failed: bool = False) -> None:
        self._note, self._failed = note, failed

    def release(self) -> None:
        """Let go of everything, as when the page is closed."""
        self._held, self._tapped, self._little = set(), set(), False
        self._said.clear()

    def _press(self, message: dict[str, Any]) -> None:
        known = {key for axis in self.session.task.action_axes for key in axis.keys}
        keys = message.get("keys")
        held = known & set(map(str, keys if isinstance(keys, list | tuple) else ()))
        self._tapped |= held - self._held
        self._held, self._little = held, bool(message.get("little"))
        if held:
            self._said.clear()

    def _queue(self, message: dict[str, Any]) -> None:
        action = self.session.task.parse_action(str(message.get("text", "")))
        steps = message.get("steps", 1)
        if not isinstance(steps, int) or not 1 <= steps <= MAX_SAID_STEPS:
            raise UserError(f"an action can be held for 1 to {MAX_SAID_STEPS} steps")
        self._said = deque([action] * steps)

    def _new(self, message: dict[str, Any]) -> None:
        self._begin("")

    def _begin(self, note: str) -> None:
        number = self.keep()
        self.session.begin()
        self._set_scene()
        parts = [note, f"episode {number} recorded" if number is not None else ""]
        self._say("; ".join(part for part in parts if part))

    def keep(self) -> int | None:
        """Put what was recorded on the disk and return its number in the file; None when there was nothing."""
        episode = self.session.episode()
        if episode is None:
            return None
        self.file.keep(episode)
        self.session.forget()
        self.kept += 1
        return len(self.file) - 1

    def _discard(self, message: dict[str, Any]) -> None:
        self.session.begin()
        self._set_scene()
        self._say("the episode was thrown away")

    def _undo(self, message: dict[str, Any]) -> None:
        if not self.file.undo():
            raise UserError("there is no recorded episode to remove that is not in the file yet")
        self.kept -= 1
        self._say("the last recorded episode was removed")

    def _record(self, message: dict[str, Any]) -> None:
        self.keep()
        self.session.record(bool(message.get("on")))

    def _save(self, message: dict[str, Any]) -> None:
        if self.session.recorded:
            self._begin("")
        self.file.merge()
        if self.file.saved == 0:
            raise UserError("nothing is recorded yet")
        self._say(f"{self.file.path} holds {self.file.saved} episode{'s' * (self.file.saved != 1)}")

    def _look(self, message: dict[str, Any]) -> None:
        self.view.render(str(message.get("name")))  # refuses an unknown one
        self._camera = str(message["name"])
        self._set_goal()

    def _set_clock(self, message: dict[str, Any]) -> None:
        self._always = bool(message.get("always"))

    # ---------------------------------------------------------------- What the page shows

    def _set_scene(self) -> None:
        """Show a new episode."""
        info = self.session.info
        if self.view is not self.session.task:
            self.view.reset(options={"state": info["state"], "goal_state": info["goal_state"], "variation_values": info["variation"]})
        self._said.clear()
        self._action_text = ""
        self._set_goal()

    def _set_goal(self) -> None:
        info = self.session.info
        drawn = self.session.task.restorable and (self.view is not self.session.task or self._camera != self.view.camera)
        self._goal = as_url(self.view.render_state(info["goal_state"], self._camera) if drawn else info["goal"])

    def _mirror(self) -> None:
        if self.view is not self.session.task:
            self.view.set_state(self.session.info["state"])

    def about(self) -> dict[str, Any]:
        """Return what stays the same: the task, its keys, its cameras."""
        task = self.session.task
        return {
            "about": {
                "task": self.file.meta["env_id"],
                "description": (type(task).__doc__ or "").strip().split("\n")[0],
                "axes": [
                    {"keys": axis.keys, "words": (" ".join(axis.negative), " ".join(axis.positive))} for axis in task.action_axes
                ],
                "example": task.describe_action(np.array([0.3] * len(task.action_axes)), "words"),
                "cameras": task.cameras,
                "file": str(self.file.path),
                "rate": round(1 / task.step_seconds, 1),
            }
        }

    def status(self) -> dict[str, Any]:
        """Return what changes; the pictures are data URLs."""
        session = self.session
        return {
            "step": session.steps,
            "success": bool(session.info["success"]),
            "reached": session.reached,
            "caption": session.info["caption"],
            "goal_text": session.goal_text,
            "action": self._action_text,
            "recording": session.recording,
            "recorded": session.recorded,
            "saved": self.file.saved,
            "waiting": len(self.file) - self.file.saved,
            "camera": self._camera,
            "always": self._always,
            "variation": session.info["variation"],
            "note": self._note,
            "failed": self._failed,
            "frame": as_url(self.view.render(self._camera)),
            "goal": self._goal,
        }


def as_url(frame: np.ndarray) -> str:
    """Encode a frame uint8 (H, W, 3) as a JPEG in a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "jpeg", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
