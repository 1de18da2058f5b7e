"""Processes that work for this one, each with a pipe of its own: spawned, since a context of OpenGL does not survive a fork.

One that is killed takes no lock with it and is noticed at once; one whose pipe closes, or whose parent is killed, ends by itself. They
never hear of Ctrl-C: their parent ends them.
"""

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from worldmodel.errors import UserError


class WorkerPool:
    """Some processes; a context manager, which ends them.

    Args:
        serve: what each of them runs, given the messages that come until the pool is closed, a function to answer with, and its
            arguments. What it raises is raised here, when its next answer is asked for.
        arguments: of each process.
        name: of the processes, which their number follows.
        died: says what the user can do, given a process that ended before its time.
        patience: seconds that they have to end by themselves after an error, what they are at being finished.
    """

    def __init__(
        self, serve: Callable[..., None], arguments: Sequence[tuple[Any, ...]], name: str, died: Callable[[Any], str], patience: float
    ) -> None:
        self.processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._name, self._died, self._patience = name, died, patience
        context = get_context("spawn")
        if not arguments:
            return  # what follows starts a process of Python's own
        with _without_interrupts():
            for number, each in enumerate(arguments):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, serve, each), name=f"{name}-{number}", daemon=True)
                process.start()
                theirs.close()
                self.processes.append(process)
                self._pipes.append(ours)

    def __len__(self) -> int:
        """Return the number of processes that have not been ended."""
        return len(self._pipes)

    def send(self, worker: int, message: Any) -> None:
        """Send a message to a process; UserError where it has died."""
        try:
            self._pipes[worker].send(message)
        except ConnectionError as error:
            raise self._death(worker) from error

    def answers(self, workers: Iterable[int] | None = None, timeout: float | None = None) -> list[tuple[int, Any]]:
        """Wait until some processes (all by default) have answered, and return (process, answer) of these; [] for none in time.

        UserError where one has died or raised one, RuntimeError where it failed.
        """
        asked = {self._pipes[worker]: worker for worker in (range(len(self)) if workers is None else workers)}
        ready: list[Any] = connection.wait(list(asked), timeout)
        return [(asked[pipe], self._receive(asked[pipe])) for pipe in ready]

    def _receive(self, worker: int) -> Any:
        try:
            kind, content = self._pipes[worker].recv()
        except (EOFError, OSError) as error:  # OSError: amid a message
            raise self._death(worker) from error
        if kind == "refused":
            raise UserError(content)
        if kind == "failed":
            raise RuntimeError(f"the worker {self._name}-{worker} failed:\n{content}")
        return content

    def _death(self, worker: int) -> UserError:
        self.processes[worker].join(timeout=10)
        return UserError(self._died(self.processes[worker]))

    def close(self, patience: float | None = None) -> None:
        """End the processes; kill those that do not end by themselves in time, None: as long as it takes."""
        for pipe in self._pipes:
            pipe.close()  # a process ends when its pipe does: at once if it waits, else when it has finished what it is at
        deadline = time.monotonic() + (patience or 0.0)
        for process in self.processes:
            process.join(None if patience is None else max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            process.kill()  # does nothing to those that have ended
            process.join()
        self._pipes = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(None if error is None else self._patience)


def _work(pipe: Connection, serve: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(ConnectionError):  # the pool is gone: there is nobody to report to
        try:
            serve(_messages(pipe), lambda content: pipe.send(("answer", content)), *arguments)
        except UserError as error:
            pipe.send(("refused", str(error)))
        except ConnectionError:
            raise
        except Exception:
            pipe.send(("failed", traceback.format_exc()))


def _messages(pipe: Connection) -> Iterator[Any]:
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        yield message


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has a parent process"
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; processes that start within never hear of it."""
    resource_tracker.ensure_running()  # it lifts the block when it starts, with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
