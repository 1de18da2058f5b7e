"""The controller: what keys, words and buttons do to a task that is driven, and what there is to see; knows nothing of the web."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worldmodel.datasets.collection.page_controller import Command, PageController, as_url
from worldmodel.datasets.collection.teleop_session import TeleopFile, TeleopSession
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.envs.task import Task


class TeleopController(PageController):
    """Turns what was pressed or said into actions, one for each `tick`, and into episodes in a file.

    Args:
        session: the task and the recording of the running episode.
        view: the same task in the size of the page, or `session.task` itself; only drawn.
        file: where finished episodes go.
        max_steps: number of actions after which an episode ends by itself.
    """

    def __init__(self, session: TeleopSession, view: "Task", file: TeleopFile, max_steps: int) -> None:
        super().__init__(session.task)
        self.session, self.view, self.file = session, view, file
        self.kept = 0
        """Episodes recorded by this controller, less those undone."""
        self._max_steps = max_steps
        self._camera = session.task.camera
        self._action_text = ""
        self._set_scene()

    @property
    def tick_seconds(self) -> float:
        """Time from one action to the next: that of the world that is simulated."""
        return self.task.step_seconds

    def tick(self) -> None:
        """Do one action, `step_seconds` of the world."""
        action = self._next_action()
        try:
            self.session.step(action)
            self._action_text = self.task.describe_action(action, "words")
            if self.session.steps >= self._max_steps:
                self._begin(f"the episode ended after {self._max_steps} steps")
            elif self.session.finished:
                self._begin("the environment ended the episode")
        except UserError as error:
            self._say(str(error), failed=True)
        self._mirror()

    # ---------------------------------------------------------------- Commands

    @property
    def commands(self) -> Mapping[str, Command]:
        """What the page may ask for, by name."""
        return {
            **super().commands,
            "new": self._new,
            "discard": self._discard,
            "undo": self._undo,
            "record": self._record,
            "save": self._save,
            "camera": self._look,
        }

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

    # ---------------------------------------------------------------- What the page shows

    def _set_scene(self) -> None:
        """Show a new episode."""
        info = self.session.info
        if self.view is not self.task:
            self.view.reset(options={"state": info["state"], "goal_state": info["goal_state"], "variation_values": info["variation"]})
        self._said.clear()
        self._action_text = ""
        self._set_goal()

    def _set_goal(self) -> None:
        info = self.session.info
        drawn = self.task.restorable and (self.view is not self.task or self._camera != self.view.camera)
        self._goal = as_url(self.view.render_state(info["goal_state"], self._camera) if drawn else info["goal"])

    def _mirror(self) -> None:
        if self.view is not self.task:
            self.view.set_state(self.session.info["state"])

    def about(self) -> dict[str, Any]:
        """Return what stays the same: the task, its keys, its cameras."""
        return {
            "about": {
                **self._about_task(self.file.meta["env_id"]),
                "cameras": self.task.cameras,
                "file": str(self.file.path),
                "rate": round(1 / self.task.step_seconds, 1),
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
