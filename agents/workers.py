"""MuJoCo tasks in worker processes: "from this state, do these actions; show me the frames".

The oracle simulator asks it about candidates, the evaluator uses it as the world in which plans are carried
out. Every job names its start state, so a worker holds one task and nothing else, and results do not depend
on which worker did the job or on the number of workers. Workers are spawned (GL contexts do not survive a
fork), never import torch, and hand frames over through shared memory: each has two slots, so it fills one
while the caller reads the other.
"""

import ctypes
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from worldmodel.datasets.worker_pool import WorkerPool
from worldmodel.envs import task_of_data as make_task
from worldmodel.errors import UserError

SLOT_FRAMES = 256
"""Frames that fit into a slot; a job is cut so that it fits."""
SECONDS_TO_END = 2.0
"""Time that workers have to end by themselves: one may hang in the driver."""

OnFrames = Callable[[int, slice, np.ndarray], None]
"""Called with (problem, samples, frames uint8 (s, h, height, width, 3)), valid during the call only."""


@dataclass(frozen=True)
class Job:
    """Sequences of one problem, for one worker."""

    problem: int
    samples: slice
    state: np.ndarray
    variation: dict[str, Any] | None
    goal_state: np.ndarray | None
    actions: np.ndarray | None
    """float32 (s, h, a) with a = block * env action; None: render the state, one frame."""
    render: bool = True
    """Whether frames are wanted; False leaves them as they are."""

    @property
    def frames_shape(self) -> tuple[int, int]:
        """(s, h) of the frames that the job makes."""
        return (1, 1) if self.actions is None else self.actions.shape[:2]


@dataclass(frozen=True)
class RolloutResult:
    """What happened in b problems x s sequences of h model steps, k env steps each."""

    states: np.ndarray
    """float64 (b, s, h, state): true state after each model step."""
    success: np.ndarray
    """bool (b, s, h * k): after each env step; all False without goal states."""
    distance: np.ndarray
    """float64 (b, s, h * k): to the goal state in task units; NaN without goal states."""


class TaskRunner:
    """One task and the code that does jobs with it; runs in a worker, or in this process."""

    def __init__(self, env_id: str, image_size: int, block: int) -> None:
        self.task = make_task(env_id, image_size=image_size)
        self.block = block
        self.variation: str | None = None

    def run(self, job: Job, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Do a job: fill `frames` (s, h, height, width, 3) and return states, success, distance."""
        self._set_variation(job)
        if job.actions is None:
            frames[0, 0] = self.task.render_state(job.state)
            return None
        samples, horizon = job.actions.shape[:2]
        states = np.empty((samples, horizon, len(job.state)))
        success = np.zeros((samples, horizon * self.block), bool)
        distance = np.full((samples, horizon * self.block), np.nan)
        for s in range(samples):
            self.task.set_state(job.state)
            for i, action in enumerate(job.actions[s].reshape(horizon * self.block, -1)):
                self.task.advance(action)
                if job.goal_state is not None:
                    state = self.task.get_state()
                    success[s, i] = self.task.is_success(state, job.goal_state)
                    distance[s, i] = self.task.goal_distance(state, job.goal_state)
                if (i + 1) % self.block == 0:
                    h = i // self.block
                    states[s, h] = self.task.get_state()
                    if job.render:
                        frames[s, h] = self.task.render()
        return states, success, distance

    def _set_variation(self, job: Job) -> None:
        """Rebuild the scene if the job's factor values differ from the last job's."""
        wanted = repr(sorted((job.variation or {}).items()))
        if wanted != self.variation:
            self.task.reset(seed=0, options={"variation_values": job.variation or {}, "state": job.state})
            self.variation = wanted


class TaskWorkers:
    """A pool of task processes.

    Args:
        env_id: id of the task, e.g. "worldmodel/TwoRoom-v0".
        image_size: side of the square frames, pixels.
        block: env steps per model step.
        workers: number of processes; 0 does the work in this one.
        timeout: seconds without any answer after which the workers are given up (a first render can hang in
            the driver).

    Raises:
        UserError: from the task (unknown id, action out of bounds, no headless GL, ...).
        UserError: a worker died or stopped answering, too.
    """

    def __init__(self, env_id: str, image_size: int = 64, block: int = 1, workers: int = 2, timeout: float = 120.0) -> None:
        self.env_id, self.image_size, self.block, self.timeout = env_id, image_size, block, timeout
        self.processes = workers
        self._frame_shape = (image_size, image_size, 3)
        task = make_task(env_id, image_size=image_size)  # also refuses an unknown id, at once
        self.restorable, space = task.restorable, task.action_space
        task.close()
        assert isinstance(space, spaces.Box), f"{env_id} has the action space {space}, planners need a Box"
        self.action_space = space
        self._runner = TaskRunner(env_id, image_size, block) if workers == 0 else None
        size = SLOT_FRAMES * int(np.prod(self._frame_shape))
        context = multiprocessing.get_context("spawn")
        buffers = [[context.RawArray(ctypes.c_uint8, size) for _ in range(2)] for _ in range(workers)]
        self._slots = [[np.frombuffer(memoryview(buffer), np.uint8) for buffer in of_worker] for of_worker in buffers]
        self._pool = WorkerPool(_serve, [(each, env_id, image_size, block) for each in buffers], "task", self._told, SECONDS_TO_END)

    @property
    def action_dim(self) -> int:
        """Length of a model step's action: `block` env actions."""
        return self.block * len(self.action_space.low)

    def __enter__(self) -> "TaskWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._pool.close(SECONDS_TO_END)

    def render(self, states: np.ndarray, variations: Sequence[dict[str, Any]] | None = None) -> np.ndarray:
        """Frames uint8 (b, height, width, 3) of states (b, state)."""
        frames = np.empty((len(states), *self._frame_shape), np.uint8)

        def keep(problem: int, _: slice, seen: np.ndarray) -> None:
            frames[problem] = seen[0, 0]

        jobs = [Job(b, slice(0, 1), state, _pick(variations, b), None, None) for b, state in enumerate(states)]
        for _ in self._answers(jobs, keep):
            pass
        return frames

    def roll(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        on_frames: OnFrames | None,
        variations: Sequence[dict[str, Any]] | None = None,
        goal_states: np.ndarray | None = None,
    ) -> RolloutResult:
        """Start each of b problems in its state and execute its s action sequences, each from the start.

        Args:
            states: float64 (b, state).
            actions: float32 (b, s, h, block * a) within the task's bounds.
            on_frames: is handed all frames, in any order, while other jobs still run; None: nothing is rendered.
            variations: factor values of each problem; the task's defaults if None.
            goal_states: float64 (b, state) to measure success and distance; not measured if None.
        """
        problems, samples, horizon = actions.shape[:3]
        step = max(1, SLOT_FRAMES // horizon)
        if horizon > SLOT_FRAMES:
            raise UserError(f"a horizon of {horizon} model steps is too long, at most {SLOT_FRAMES}")
        jobs = [
            Job(
                problem=b,
                samples=slice(start, min(start + step, samples)),
                state=states[b],
                variation=_pick(variations, b),
                goal_state=None if goal_states is None else goal_states[b],
                actions=np.ascontiguousarray(actions[b, start : start + step]),
                render=on_frames is not None,
            )
            for b in range(problems)
            for start in range(0, samples, step)
        ]
        rolled = RolloutResult(
            states=np.empty((problems, samples, horizon, states.shape[1])),
            success=np.empty((problems, samples, horizon * self.block), bool),
            distance=np.empty((problems, samples, horizon * self.block)),
        )
        for job, (job_states, success, distance) in self._answers(jobs, on_frames or _ignore):
            rolled.states[job.problem, job.samples] = job_states
            rolled.success[job.problem, job.samples] = success
            rolled.distance[job.problem, job.samples] = distance
        return rolled

    def _answers(self, jobs: list[Job], on_frames: OnFrames) -> Iterator[tuple[Job, Any]]:
        """Yield each job with its result, in the order in which they are done."""
        if self._runner is not None:
            for job in jobs:
                frames = np.empty((*job.frames_shape, *self._frame_shape), np.uint8)
                result = self._runner.run(job, frames)
                on_frames(job.problem, job.samples, frames)
                yield job, result
            return
        if not len(self._pool):
            raise RuntimeError(f"the workers of {self.env_id} are closed")
        todo = deque(jobs)
        running: dict[tuple[int, int], Job] = {}
        try:
            for slot in range(2):
                for worker in range(len(self._pool)):
                    self._send(worker, slot, todo, running)
            while running:
                for worker, (slot, result) in self._received():
                    job = running.pop((worker, slot))
                    count = int(np.prod(job.frames_shape)) * int(np.prod(self._frame_shape))
                    frames = self._slots[worker][slot][:count].reshape(*job.frames_shape, *self._frame_shape)
                    on_frames(job.problem, job.samples, frames)
                    self._send(worker, slot, todo, running)
                    yield job, result
        except (UserError, RuntimeError):
            self.close()
            raise

    def _send(self, worker: int, slot: int, todo: deque[Job], running: dict[tuple[int, int], Job]) -> None:
        """Give the next job, if there is one, to a worker whose slot is free."""
        if todo:
            running[worker, slot] = job = todo.popleft()
            self._pool.send(worker, (slot, job))

    def _received(self) -> list[tuple[int, Any]]:
        answers = self._pool.answers(timeout=self.timeout)
        if not answers:
            raise UserError(
                f"no answer from the {self.env_id} workers for {self.timeout:.0f} s: rendering hangs; "
                "try MUJOCO_GL=osmesa or fewer workers"
            )
        return answers

    def _told(self, process: Any) -> str:
        return (
            f"worker {process.name} of {self.env_id} died (exit code {process.exitcode}), perhaps out of memory: try fewer --workers"
        )


def _ignore(problem: int, samples: slice, frames: np.ndarray) -> None:
    """Drop frames that nobody wants."""


def _pick(variations: Sequence[dict[str, Any]] | None, problem: int) -> dict[str, Any] | None:
    return None if variations is None else variations[problem]


def _serve(
    jobs: Iterator[tuple[int, Job]], answer: Callable[[Any], None], buffers: list[Any], env_id: str, image_size: int, block: int
) -> None:
    """Do jobs: slot and job in, slot and result out."""
    slots = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
    runner = TaskRunner(env_id, image_size, block)
    for slot, job in jobs:
        count = int(np.prod(job.frames_shape)) * image_size * image_size * 3
        answer((slot, runner.run(job, slots[slot][:count].reshape(*job.frames_shape, image_size, image_size, 3))))
