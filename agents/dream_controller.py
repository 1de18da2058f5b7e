"""The controller of a dream: what keys, words and buttons do to both sides, and what there is to see; knows nothing of the web."""

import contextlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.dream_plan import ImaginedPlan, imagine_plan, ways_to_plan
from worldmodel.agents.dream_session import DreamSession, Moment
from worldmodel.agents.workers import TaskWorkers
from worldmodel.agents.world import from_pretrained
from worldmodel.datasets.collection.page_controller import Command, PageController, as_url
from worldmodel.datasets.films import HOLD, labelled, write_film
from worldmodel.envs import task_of_data
from worldmodel.errors import UserError
from worldmodel.known_tasks import known_task

SPEEDS = (1, 2, 3)
"""How much faster than the world that is simulated one may drive."""
DIGITS = 4
"""Of the distances that are told."""


class DreamController(PageController):
    """Turns what was pressed or said into model steps of both sides, one for each `tick`.

    Args:
        session: both sides.
        workers: of the task, for plans.
    """

    def __init__(self, session: DreamSession, workers: TaskWorkers) -> None:
        super().__init__(session.task)
        self.session, self.workers = session, workers
        self._paused, self._speed = False, 2
        self._ways = ways_to_plan(session.world, workers.env_id)
        self._plan: ImaginedPlan | None = None
        """Imagined from the frame that is shown; while it is carried out, from an earlier one."""
        self._plans, self._way, self._started = 0, self._ways[0], 0
        self._carrying = False
        self._answers: dict[str, Any] | None = None
        self._action_text = ""

    # ---------------------------------------------------------------- Time

    @property
    def tick_seconds(self) -> float:
        """Time from one model step to the next."""
        return self.task.step_seconds * self.session.actions.block / self._speed

    @property
    def moving(self) -> bool:
        """Whether time runs: it is not stopped, and something is pressed or said, or it always does."""
        return not self._paused and super().moving

    def tick(self) -> None:
        """Do one model step: what is pressed is held for all of it."""
        asked = self._next_action()
        actions = asked if asked.ndim == 2 else np.tile(asked, (self.session.actions.block, 1))
        if not self._carrying:
            self._plan = None  # it began somewhere else
        try:
            self.session.step(actions)
            self._action_text = self.task.describe_action(actions.mean(0), "words")
            if self.session.finished:
                self._begin("the environment ended the episode")
        except UserError as error:
            self._say(str(error), failed=True)
        if self._carrying and not self._said:
            self._tell_outcome()

    # ---------------------------------------------------------------- Commands

    @property
    def commands(self) -> Mapping[str, Command]:
        """What the page may ask for, by name."""
        return {
            **super().commands,
            "new": lambda message: self._begin(""),
            "restart": lambda message: self._restart(),
            "pause": lambda message: self._pause(bool(message.get("on"))),
            "step": lambda message: self._step_once(),
            "speed": self._set_speed,
            "goal": self._set_goal,
            "imagine": self._imagine,
            "carry_out": lambda message: self._carry_out(),
            "see": self._see,
        }

    def _forget(self) -> None:
        """Forget what was said of frames that are no longer shown."""
        self._said.clear()
        self._carrying = False
        self._action_text = ""
        self._plan = self._answers = None

    def _begin(self, note: str) -> None:
        self.session.begin()
        self._forget()
        self._say(note)

    def _restart(self) -> None:
        self._carrying = False
        self._said.clear()
        self.session.restart()

    def _press(self, message: dict[str, Any]) -> None:
        super()._press(message)
        if self._held and self._carrying:
            self._carrying = False
            self._say("the plan was given up")

    def _queue(self, message: dict[str, Any]) -> None:
        super()._queue(message)
        self._carrying = False

    def _pause(self, on: bool) -> None:
        self._paused = on

    def _step_once(self) -> None:
        self._paused = True
        self.tick()

    def _set_speed(self, message: dict[str, Any]) -> None:
        if message.get("times") not in SPEEDS:
            raise UserError(f"the speed is one of {', '.join(map(str, SPEEDS))}")
        self._speed = int(message["times"])

    def _set_goal(self, message: dict[str, Any]) -> None:
        if message.get("keep"):
            self.session.keep_goal()
            self._say("what the simulator shows is the goal now: drive on, then imagine the way back")
        else:
            self.session.own_goal()
        self._plan = None

    def _see(self, message: dict[str, Any]) -> None:
        question = str(message.get("question") or "") or None
        truth, dream = self.session.ask(question)
        caption = None if self.session.alone else self.session.caption
        self._answers = {"question": question or "", "truth": truth, "dream": dream, "caption": caption, "step": self.session.steps}

    def release(self) -> None:
        """Let go of the keys; a plan that is being carried out goes on."""
        said = self._said.copy() if self._carrying else deque[np.ndarray]()
        super().release()
        self._said = said

    # ---------------------------------------------------------------- Plans

    def _imagine(self, message: dict[str, Any]) -> None:
        way = message.get("way", self._ways[0])
        if way not in self._ways:
            raise UserError(f"a plan is made by one of {', '.join(self._ways)}")
        if self._carrying:
            raise UserError("a plan is being carried out; wait for its end")
        session = self.session
        seen = session.dream.recent if session.alone else session.seen
        self._plan = imagine_plan(session.world, self.workers, seen, session.goal.frame, way, session.seed)
        self._plans += 1
        self._way = way

    def _carry_out(self) -> None:
        if self._plan is None or self._carrying:
            raise UserError("there is no plan from this frame: imagine one")
        if self.session.alone:
            raise UserError("the dream is driven alone, there is no simulator to carry a plan out in")
        self.session.restart()
        self.session.aim(self.session.goal)
        self._started, self._said, self._carrying = self.session.steps, deque(self._plan.actions), True

    def _tell_outcome(self) -> None:
        self._carrying, session = False, self.session
        if self._failed:
            return
        if session.met is not None:
            self._say(f"the simulator met the goal after {session.met - self._started} of {session.steps - self._started} model steps")
            return
        distance = self.task.goal_distance(self.task.get_state(), session.goal.state)
        self._say(f"the simulator did not meet the goal: distance {distance:.3f}, met up to {self.task.success_threshold:.3f}")

    # ---------------------------------------------------------------- What the page shows

    def about(self) -> dict[str, Any]:
        """Return what stays the same: the task, its keys, the model; and the curve so far."""
        session = self.session
        return {
            "about": {
                **self._about_task(self.workers.env_id),
                "alone": session.alone,
                "block": session.actions.block,
                "rate": round(1 / (self.task.step_seconds * session.actions.block), 1),
                "speeds": SPEEDS,
                "ways": self._ways,
                "curve": [_point(moment) for moment in session.film],
            }
        }

    def status(self) -> dict[str, Any]:
        """Return what changes; the pictures are data URLs."""
        session, now, plan = self.session, self.session.now, self._plan
        steps = len(plan.actions) if plan is not None else 0
        return {
            **_point(now),
            "lost": session.dream.lost,
            "met": session.met,
            "goal_text": session.goal.text,
            "action": self._action_text,
            "always": self._always,
            "paused": self._paused,
            "speed": self._speed,
            "answers": self._answers,
            "plan": {"number": self._plans, "way": self._way, "steps": steps, "to_go": plan.to_go} if plan is not None else None,
            "carrying": self._carrying,
            "note": self._note,
            "failed": self._failed,
            "truth": None if now.truth is None else as_url(now.truth),
            "dream": as_url(now.dream),
            "goal": as_url(session.goal.frame),
        }

    # ---------------------------------------------------------------- Films

    @property
    def downloads(self) -> dict[str, Callable[[], bytes]]:
        """What makes the films, by its path on a server."""
        return {
            "/film.mp4": lambda: self.film(".mp4"),
            "/film.gif": lambda: self.film(".gif"),
            "/plan.gif": self.plan_film,
        }

    def film(self, ending: str) -> bytes:
        """Make a film of what was driven, truth above dream, as .mp4 or .gif; may run in another thread.

        Raises:
            UserError: it cannot be written.
        """
        moments = list(self.session.film)
        return film_bytes(_pictures(moments), ending, 1 / self.tick_seconds)

    def plan_film(self) -> bytes:
        """Make a GIF of the plan that was imagined last; may run in another thread.

        Raises:
            UserError: there is none.
        """
        plan = self._plan
        if plan is None:
            raise UserError("there is no plan from this frame: imagine one")
        labels = [f"imagined, step {i}" if i else "now" for i in range(len(plan.frames))]
        return film_bytes(labelled([plan.frames], [labels]), ".gif")


def _point(moment: Moment) -> dict[str, Any]:
    """Return the numbers of a moment."""
    numbers = {"distance": moment.distance, "still": moment.still}
    return {"step": moment.step, "dreamt": moment.dreamt} | {k: None if v is None else round(v, DIGITS) for k, v in numbers.items()}


def _pictures(moments: Sequence[Moment]) -> Iterator[np.ndarray]:
    """Draw truth above dream, one moment after the other: uint8 (height, width, 3)."""
    for moment in moments:
        rows = [(moment.dream, f"dream, {moment.dreamt} steps after its last real frame")]
        if moment.truth is not None:
            rows.insert(0, (moment.truth, f"truth, step {moment.step}"))
        yield labelled([frame[None] for frame, _ in rows], [[text] for _, text in rows])[0]


def film_bytes(frames: Iterator[np.ndarray] | np.ndarray, ending: str, fps: float | None = None) -> bytes:
    """Write a film, whose frames are uint8 (height, width, 3), at a rate or one that can be followed; return the bytes of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film{ending}"
        write_film(path, frames, fps, HOLD if fps else None)  # the rate of a film of unknown length is given
        return path.read_bytes()


@contextlib.contextmanager
def open_dream(
    checkpoint: Path | str,
    task: str | None = None,
    seed: int = 0,
    variation: Sequence[str] = (),
    alone: bool = False,
    device: str = "auto",
) -> Iterator[DreamController]:
    """Open a `DreamController` of a checkpoint and one of its tasks, by default the first.

    Raises:
        UserError: as of `from_pretrained`; the model knows no task, or not this one.
    """
    world = from_pretrained(checkpoint, device)
    if not world.tasks:
        raise UserError(f"the model of {checkpoint} was trained on no task with actions, so nobody can drive its dream")
    env_id = known_task(world.card, task or next(iter(world.tasks)))
    with contextlib.closing(task_of_data(env_id, image_size=world.image_size)) as made:
        session = DreamSession(world, made, env_id, seed, variation, alone)
        with TaskWorkers(env_id, world.image_size, session.actions.block, workers=0) as workers:
            yield DreamController(session, workers)
