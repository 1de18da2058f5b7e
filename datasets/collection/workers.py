"""Worker processes of a collection: each owns one task and records the episodes it is sent.

Parent and worker talk over one pipe each, so a worker that is killed takes no lock with it and is noticed at
once; and a worker whose parent is killed ends by itself. When one worker refuses, the others get time to end by
themselves: a process that is killed while a library looks for OpenGL in a child of its own leaves a traceback.
"""

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worldmodel.datasets.atomic import DISK_FULL
from worldmodel.datasets.collection.attempts import LeftOut, Player, save_left_out
from worldmodel.datasets.collection.episode_shards import save_shard, shard_path
from worldmodel.datasets.collection.policies import SB3
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.errors import UserError

SENT_AHEAD = 2
"""Episodes a worker has in hand, so that it never waits for the parent."""
SECONDS_TO_END = 10.0
"""Time that workers have to end by themselves, their episode finished, when the collection cannot go on."""


class WorkerPool:
    """Spawned workers; use as a context manager: `wait_until_ready`, then `record`."""

    def __init__(self, config: CollectConfig, shards: Path, count: int) -> None:
        context = get_context("spawn")
        self._config = config
        self._shards = shards
        self._processes: dict[Connection, Any] = {}
        self._stage: dict[Connection, str] = {}
        with _without_interrupts():
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, config, shards), name=f"collect-{number}", daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
                self._stage[ours] = "starting"

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until every worker has drawn a frame; return facts about the task for the meta data."""
        facts: dict[str, Any] = {}
        waiting = set(self._processes)
        deadline = time.monotonic() + self._config.start_timeout
        while waiting:
            ready: list[Any] = connection.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise UserError(self._hung(next(iter(waiting))))
            for pipe in ready:
                kind, content = self._receive(pipe)
                if kind == "ready":
                    facts = content
                    waiting.remove(pipe)
                else:
                    self._stage[pipe] = content
        return facts

    def record(self, episodes: list[int]) -> Iterator[tuple[int, int]]:
        """Record these episodes in any order; yield (episode, its number of frames) as each shard is written.

        An episode that fails has no frames, and a mark in place of a shard.
        """
        queue = iter(episodes)
        for pipe in list(self._processes) * SENT_AHEAD:
            self._send_next(pipe, queue)
        for _ in episodes:
            ready: list[Any] = connection.wait(self._processes)
            _, recorded = self._receive(ready[0])
            self._send_next(ready[0], queue)
            yield recorded

    def _send_next(self, pipe: Any, queue: Iterator[int]) -> None:
        index = next(queue, None)
        if index is None:
            return
        try:
            pipe.send(index)
        except ConnectionError as error:
            raise UserError(self._died(self._processes[pipe])) from error

    def _receive(self, pipe: Any) -> tuple[str, Any]:
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError) as error:  # OSError: amid a message
            raise UserError(self._died(self._processes[pipe])) from error
        if kind == "refused":
            raise UserError(content)
        if kind == "failed":
            raise RuntimeError(f"a collection worker failed:\n{content}")
        return kind, content

    def _died(self, process: Any) -> str:
        process.join(timeout=10)
        return (
            f"collection worker {process.name} ended with exit code {process.exitcode} (-9: killed, perhaps "
            "for want of memory, try fewer --workers; 1 at once: a script must call collect() under "
            "`if __name__ == '__main__':`); "
            f"finished episodes are kept in {self._shards}, the same command goes on"
        )

    def _hung(self, pipe: Any) -> str:
        backend = os.environ.get("MUJOCO_GL", "unset")
        return (
            f"no first frame of {self._config.env} within {self._config.start_timeout:g} s, a worker hangs "
            f"while {self._stage[pipe]} (MUJOCO_GL is {backend}); try MUJOCO_GL=osmesa or MUJOCO_GL=egl, or "
            "a longer --start-timeout"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in self._processes:
            pipe.close()  # a worker ends when its pipe does: at once if it waits, else when its episode is finished
        deadline = time.monotonic() + SECONDS_TO_END
        for process in self._processes.values():
            process.join(None if error is None else max(0.0, deadline - time.monotonic()))
        for process in self._processes.values():
            process.kill()  # does nothing to those that have ended
            process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; processes that start within never hear of it: their parent ends them."""
    resource_tracker.ensure_running()  # it lifts the block when it starts, with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, config: CollectConfig, shards: Path) -> None:
    """Run a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_process(config)
    with contextlib.suppress(ConnectionError):  # the collection is gone: there is nobody to report to
        try:
            _serve(pipe, config, shards)
        except UserError as error:
            pipe.send(("refused", str(error)))
        except ConnectionError:
            raise
        except OSError as error:
            if error.errno not in DISK_FULL:
                pipe.send(("failed", traceback.format_exc()))
                return
            room = "finished episodes are kept, make room and run the same command"
            pipe.send(("refused", f"{shards}: {error.strerror}; {room}"))
        except Exception:
            pipe.send(("failed", traceback.format_exc()))


def prepare_process(config: CollectConfig) -> None:
    """Make this process one of several: one thread for drawing, one for a trained policy."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # software rendering: one thread per process is fastest
    if any(name.startswith(SB3) for name in config.shares):
        import torch

        torch.set_num_threads(1)  # sums in another order would be other actions


def _serve(pipe: Connection, config: CollectConfig, shards: Path) -> None:
    pipe.send(("stage", "making the task"))
    player = Player(config)
    pipe.send(("stage", "drawing its first frame"))
    pipe.send(("ready", player.warm_up()))
    while True:
        try:
            index = pipe.recv()
        except EOFError:  # all episodes are recorded
            player.close()
            return
        episode = player.record(index)
        if isinstance(episode, LeftOut):
            save_left_out(shards, episode)
            pipe.send(("done", (index, 0)))
        else:
            save_shard(shard_path(shards, index), episode, durable=False)  # a damaged one is noticed and recorded again
            pipe.send(("done", (index, len(episode.frames))))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has a parent process"
    parent.join()
    os._exit(1)
