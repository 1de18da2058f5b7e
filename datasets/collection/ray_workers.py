"""Recording with Ray: actors, on this machine or on a cluster, play the episodes; this process writes their shards.

The interface is that of `workers.CollectionWorkers`, and the same shards come out. Only bytes of finished shards travel, so
the machines of a cluster need no common folder (but a file of `sb3:<file>` must be at the same path on each).
"""

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

try:
    import ray
except ImportError:
    ray = None  # an optional extra

from worldmodel.datasets.collection.attempts import Player
from worldmodel.datasets.collection.episode_shards import write_part
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.collection.workers import SENT_AHEAD, prepare_process
from worldmodel.errors import UserError, first_line

SECONDS_TO_CONNECT = 5.0

Reply = tuple[str, Any]
"""("done", value) or ("refused", sentence): a mistake that the user can mend needs no trace of a remote call."""


class RayWorker:
    """One actor: owns a task, and records the episodes it is asked for."""

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        prepare_process(config)

    def start(self) -> Reply:
        """Make the task, draw its first frame, and return facts about it."""
        try:
            self._player = Player(self._config)
            return "done", self._player.warm_up()
        except UserError as error:
            return "refused", str(error)

    def record(self, index: int) -> Reply:
        """Record one episode; return its number and its `Player.part`."""
        try:
            return "done", (index, *self._player.part(index))
        except UserError as error:
            return "refused", str(error)


def check_reachable(address: str) -> None:
    """Refuse an address, host:port or ray://host:port, where nobody listens: Ray itself waits for minutes in silence."""
    if address in ("auto", "local"):
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if place.hostname is None or place.port is None:
            raise ValueError("expected host:port")
        socket.create_connection((place.hostname, place.port), SECONDS_TO_CONNECT).close()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot reach the Ray cluster at --ray-address {address}: {error}") from error


class RayPool:
    """Actors that record episodes; use as a context manager: `wait_until_ready`, then `record`.

    There are `count` of them, or as many as the cluster has CPUs; UserError where Ray is not installed, or the cluster not there.
    """

    def __init__(self, config: CollectConfig, shards: Path, count: int) -> None:
        if ray is None:
            raise UserError("--ray needs the package ray: pip install 'worldmodel[ray]', or leave --ray out")
        self._config, self._shards = config, shards
        self._owned = not ray.is_initialized()
        if self._owned:
            if config.ray_address:
                check_reachable(config.ray_address)
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
            local = {} if config.ray_address else {"num_cpus": count, "include_dashboard": False}
            try:
                ray.init(address=config.ray_address, **quiet, **local)
            except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
                cluster = config.ray_address or "of this machine"
                raise UserError(f"cannot use the Ray cluster {cluster}: {first_line(error)}") from error
        room = int(ray.cluster_resources().get("CPU", 1))
        remote = ray.remote(num_cpus=1)(RayWorker)
        self._actors = [remote.remote(config) for _ in range(max(1, min(count, room)))]

    def wait_until_ready(self) -> dict[str, Any]:
        """Wait until every actor has drawn a frame; return facts about the task for the meta data."""
        first, *others = self._actors
        facts = self._start([first])[0]
        self._start(others)
        return facts

    def _start(self, actors: list[Any]) -> list[Any]:
        waiting = [actor.start.remote() for actor in actors]
        _, late = ray.wait(waiting, num_returns=len(waiting), timeout=self._config.start_timeout) if waiting else ([], [])
        if late:
            raise UserError(
                f"no first frame of {self._config.env} within {self._config.start_timeout:g} s from {len(late)} of "
                f"{len(actors)} Ray actors; look at `ray status`, or try a longer --start-timeout"
            )
        return [self._value(reply) for reply in waiting]

    def _value(self, reference: Any) -> Any:
        try:
            kind, value = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            kept = f"finished episodes are kept in {self._shards}, the same command goes on"
            raise UserError(f"a Ray actor ended ({first_line(error)}); {kept}") from error
        if kind == "refused":
            raise UserError(value)
        return value

    def record(self, episodes: list[int]) -> Iterator[tuple[int, int]]:
        """Record these episodes in any order; yield (episode, its number of frames) as each shard is written.

        An episode that fails has no frames, and a mark in place of a shard.
        """
        queue = iter(episodes)
        running = {
            actor.record.remote(index): actor for actor, index in zip(self._actors * SENT_AHEAD, queue, strict=False)
        }  # reply to come -> actor
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready[0])
            index, name, content, num_frames = self._value(ready[0])
            following = next(queue, None)
            if following is not None:
                running[actor.record.remote(following)] = actor
            write_part(self._shards, name, content)
            yield index, num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for actor in self._actors:
            with contextlib.suppress(Exception):  # it may be gone with its machine
                ray.kill(actor)
        if self._owned:
            ray.shutdown()
