"""Worker processes of a collection: each owns one task and records the episodes it is sent."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worldmodel.datasets.collection.attempts import Player
from worldmodel.datasets.collection.episode_shards import write_part
from worldmodel.datasets.collection.policies import SB3
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.worker_pool import WorkerPool
from worldmodel.errors import UserError

SENT_AHEAD = 2
"""Episodes a worker has in hand, so that it never waits for the parent."""
SECONDS_TO_END = 10.0
"""Time that workers have to end by themselves, their episode finished, when the collection cannot go on."""


class CollectionWorkers(WorkerPool):
    """Workers of a collection; a context manager: `wait_until_ready`, then `record`."""

    def __init__(self, config: CollectConfig, shards: Path, count: int) -> None:
        self._config, self._shards = config, shards
        super().__init__(_serve, [(config, shards)] * count, "collect", self._told, SECONDS_TO_END)

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until every worker has drawn a frame; return facts about the task for the meta data."""
        facts: dict[str, Any] = {}
        stages = dict.fromkeys(range(len(self)), "starting")
        deadline = time.monotonic() + self._config.start_timeout
        while stages:
            answers = self.answers(stages, max(0.0, deadline - time.monotonic()))
            if not answers:
                raise UserError(self._hung(next(iter(stages.values()))))
            for worker, answer in answers:
                if isinstance(answer, str):
                    stages[worker] = answer
                else:
                    facts = answer
                    del stages[worker]
        return facts

    def record(self, episodes: list[int]) -> Iterator[tuple[int, int]]:
        """Record these episodes in any order; yield (episode, its number of frames) as each shard is written.

        An episode that fails has no frames, and a mark in place of a shard.
        """
        queue = iter(episodes)
        running = 0
        for worker, index in zip(list(range(len(self))) * SENT_AHEAD, queue, strict=False):
            self.send(worker, index)
            running += 1
        while running:
            for worker, recorded in self.answers():
                following = next(queue, None)
                if following is None:
                    running -= 1
                else:
                    self.send(worker, following)
                yield recorded

    def _told(self, process: Any) -> str:
        return (
            f"collection worker {process.name} ended with exit code {process.exitcode} (-9: killed, perhaps "
            "for want of memory, try fewer --workers; 1 at once: a script must call collect() under "
            "`if __name__ == '__main__':`); "
            f"finished episodes are kept in {self._shards}, the same command goes on"
        )

    def _hung(self, stage: str) -> str:
        backend = os.environ.get("MUJOCO_GL", "unset")
        return (
            f"no first frame of {self._config.env} within {self._config.start_timeout:g} s, a worker hangs "
            f"while {stage} (MUJOCO_GL is {backend}); try MUJOCO_GL=osmesa or MUJOCO_GL=egl, or "
            "a longer --start-timeout"
        )


def _serve(episodes: Iterator[int], answer: Callable[[Any], None], config: CollectConfig, shards: Path) -> None:
    prepare_process(config)
    answer("making the task")
    with contextlib.closing(Player(config)) as player:
        answer("drawing its first frame")
        answer(player.warm_up())
        for index in episodes:
            name, content, frames = player.part(index)
            write_part(shards, name, content)
            answer((index, frames))


def prepare_process(config: CollectConfig) -> None:
    """Make this process one of several: one thread for drawing, one for a trained policy."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # software rendering: one thread per process is fastest
    if any(name.startswith(SB3) for name in config.shares):
        import torch

        torch.set_num_threads(1)  # sums in another order would be other actions
