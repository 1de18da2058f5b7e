"""Several processes of one machine that train together, started from within a program: what torchrun does, for the CPUs.

A small model gains little from a second thread: its products are short, and whoever is done waits for the slower one. Two processes
with one thread each share a step's rows and wait once, at its end.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

import torch
from torch.distributed import TCPStore

from worldmodel.errors import UserError
from worldmodel.precision import choose_device
from worldmodel.training.config import TrainConfig

HOST = "127.0.0.1"
SECONDS_TO_END, SECONDS_AFTER_AN_ERROR = 60.0, 10.0
"""How long the others may take to end when this process is done, or has failed, before they are ended."""
Result = TypeVar("Result")


def number_of_processes(config: TrainConfig) -> int:
    """Choose how many processes train: what is asked for; by default one on a GPU, and on CPUs as many as torch has threads.

    Lanes have to divide among them. 1 where torchrun has started this process: there are others already.
    """
    if "WORLD_SIZE" in os.environ or choose_device(config.device).type != "cpu":
        return 1
    if config.processes != "auto":
        return config.processes
    shards, parts, threads = config.packing.data_shards, config.packing.rows // config.accumulation, torch.get_num_threads()
    return max(n for n in range(1, max(1, threads) + 1) if shards % n == 0 and parts % n == 0)


def launch(work: Callable[[], Result], count: int) -> Result:
    """Run `work` in `count` processes of this machine at once, of which this one is the first; returns what it returns here.

    In each of them `worldmodel.training.distributed.processes("cpu")` finds the others. The threads of this process are shared out. A
    program that is not started by the `worldmodel` command guards its entry by `if __name__ == "__main__"`.

    Ctrl-C and SIGTERM: `train(stop=...)` needs the wish of one process to stop all of them after the same step, so a signal need not
    be passed on. Without `stop_on_signals` the others do not hear Ctrl-C; they end with this process, whatever ends it.

    Args:
        work: what pickle takes, such as a `functools.partial` of a function of a module.
        count: of processes; with 1 nothing is started.

    Raises:
        UserError: another process could not begin.
    """
    if count == 1:
        return work()
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    with contextlib.ExitStack() as opened:
        opened.callback(torch.set_num_threads, threads)
        others = [opened.enter_context(_other(rank, count, store.port, share, work)) for rank in range(1, count)]
        for ready in others:
            _wait_for(*ready)
        opened.enter_context(_environment(0, count, store.port))
        torch.set_num_threads(share)
        return work()


@contextlib.contextmanager
def _other(rank: int, count: int, port: int, threads: int, work: Callable[[], object]) -> Iterator[tuple[SpawnProcess, Connection]]:
    """Start one of the other processes; it has ended when the block has."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(rank, count, port, threads, work, theirs), name=f"process {rank}")
    process.start()
    theirs.close()
    patience = SECONDS_AFTER_AN_ERROR
    try:
        yield process, ours
        patience = SECONDS_TO_END
    finally:
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()


def _wait_for(process: SpawnProcess, ready: Connection) -> None:
    """Wait until a process has all it needs to begin.

    Raises:
        UserError: it ended before; it has said why.
    """
    wait([ready, process.sentinel])
    if not ready.poll():
        raise UserError(f"{process.name} could not begin; its own output says why")
    with contextlib.suppress(EOFError):
        if ready.recv():
            return
    raise UserError(f"{process.name} could not begin; its own output says why")


def _run(rank: int, count: int, port: int, threads: int, work: Callable[[], object], ready: Connection) -> None:
    """Run the work of another process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until `stop_on_signals`
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    torch.set_num_threads(threads)
    ready.send(True)
    status = 0
    try:
        with _environment(rank, count, port):
            work()
    except UserError:
        status = 2  # the first process says it, too, or that this one lost it
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in the others alone"
    parent.join()
    os._exit(1)  # nothing can be saved without it


@contextlib.contextmanager
def _environment(rank: int, count: int, port: int) -> Iterator[None]:
    """Set the variables that torchrun sets, while the block lasts."""
    ours = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    ours |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}  # the store is there already
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= {name: str(value) for name, value in ours.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
