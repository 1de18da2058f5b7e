"""Feeding: the same batches whoever packs them, mistakes in one sentence, processes that end; frames encoded once."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.waiting import PATIENCE, is_running, wait_for
from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.datasets.mixture.documents import Document
from worldmodel.errors import UserError
from worldmodel.packing import Packer
from worldmodel.training import prefetching
from worldmodel.training.latent_cache import build_latent_cache
from worldmodel.training.prefetching import FrameEncoder, PrefetchingLoader


def same(a: PackedBatch, b: PackedBatch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_stream_is_the_packer_from_any_step_on(workers: int) -> None:
    plain = toys.packer()
    last = plain.steps_per_group + 8
    for start in (0, 5, plain.steps_per_group + 2) if workers == 0 else (5,):
        with PrefetchingLoader(toys.packer(), start, last, workers) as loader:
            for step in range(start, last):
                assert same(loader.next(), plain.batch(step))


class Spoilt(toys.Sentences):
    name = "spoilt"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def document(self, item: int, rng: np.random.Generator) -> Document:
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.error  # type: ignore[misc]


def spoilt(error: Exception | None) -> Packer:
    packer = toys.packer()
    packer.mixture.sources[1] = Spoilt(error)  # its lengths were measured on the whole one
    return packer


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_data_reaches_the_loop_as_it_is(workers: int) -> None:
    with PrefetchingLoader(spoilt(UserError("frame 3 of a.png is broken")), 0, 50, workers) as loader:
        with pytest.raises(UserError, match="^frame 3 of a.png is broken$"):
            loader.next()


def test_other_failures_of_a_worker_are_one_sentence() -> None:
    with PrefetchingLoader(spoilt(KeyError("colour")), 0, 50, 1) as loader:
        with pytest.raises(RuntimeError, match="^a data worker failed: KeyError: 'colour'$"):
            loader.next()


def test_a_worker_that_was_killed_is_noticed() -> None:
    with PrefetchingLoader(spoilt(None), 0, 50, 1) as loader:
        with pytest.raises(UserError, match=r"^a data worker ended without a word.*exited unexpectedly\)$"):
            loader.next()
    assert not multiprocessing.active_children()


def send(number: signal.Signals, pid: int) -> None:
    """By a third process, as a terminal or a cluster does."""
    subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_the_workers_to_the_training_process(number: signal.Signals) -> None:
    with PrefetchingLoader(toys.packer(), 0, 200, 1) as loader:
        wait_for(multiprocessing.active_children, "a worker")
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        send(number, worker.pid)  # while it starts
        loader.next()
        send(number, worker.pid)
        for _ in range(60):
            loader.next()
        assert worker.is_alive()
    wait_for(lambda: not worker.is_alive(), "the end of the worker")
    assert worker.exitcode == 0


def test_the_training_process_ends_its_workers_at_once() -> None:
    with PrefetchingLoader(toys.packer(), 0, 200, 1) as loader:
        loader.next()
        (worker,) = multiprocessing.active_children()
        worker.terminate()
        worker.join(PATIENCE)
        assert worker.exitcode == 0


def test_a_worker_that_a_cluster_ends_goes_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetching, "SECONDS_TO_SAVE", 0.0)
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        prefetching._end_after_sigterm()
    send(signal.SIGTERM, pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (1, -signal.SIGTERM)  # the latter before it has begun to listen


FIRST_STREAM = """
import multiprocessing, time
from tests.worldmodel import toys
from worldmodel.training.prefetching import PrefetchingLoader
with PrefetchingLoader(toys.packer(), 0, 200, 1) as stream:
    while not (workers := multiprocessing.active_children()):
        time.sleep(0.01)
    print(workers[0].pid, flush=True)
    stream.next()
    print("fed", flush=True)
    time.sleep(600)
"""


def test_workers_of_a_fresh_process_hear_no_ctrl_c_and_end_with_it(root: Path) -> None:
    """Fresh: with the first worker starts a helper of multiprocessing, which changes the signal mask."""
    with subprocess.Popen([sys.executable, "-c", FIRST_STREAM], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, signal.SIGINT)
        said = process.stdout.readline()
        process.kill()
    assert said == "fed\n"
    wait_for(lambda: not is_running(worker), "the end of the worker")


def test_frames_are_encoded_once_until_forgotten() -> None:
    codec, sizes = toys.codec(), []
    original = codec.encode
    codec.encode = lambda frames: sizes.append(len(frames)) or original(frames)  # type: ignore[method-assign, func-returns-value]
    frames = torch.randint(0, 256, (5, toys.IMAGE, toys.IMAGE, 3), dtype=torch.uint8)
    repeated = frames[[0, 1, 0, 2]]
    encoder, plain = (FrameEncoder(codec, torch.device("cpu"), remember) for remember in (True, False))
    expected = plain.encode(repeated)
    sizes.clear()
    torch.testing.assert_close(encoder.encode(repeated), expected)
    assert sizes == [3]
    torch.testing.assert_close(encoder.encode(frames), plain.encode(frames))
    assert sizes == [3, 2, 5]
    encoder.encode(frames)
    assert sizes == [3, 2, 5]
    encoder.forget()
    encoder.encode(frames)
    assert sizes == [3, 2, 5, 5]
    assert encoder.encode(frames[:0]).shape == (0, 4, toys.CHANNELS)


def test_frames_in_a_cache_are_not_encoded(tmp_path: Path) -> None:
    codec = toys.codec()
    frames = torch.randint(0, 256, (40, toys.IMAGE, toys.IMAGE, 3), dtype=torch.uint8)
    cache = build_latent_cache(tmp_path, codec, frames[:30].numpy(), 30)
    expected, sizes, original = FrameEncoder(codec, torch.device("cpu"), False).encode(frames), [], codec.encode
    codec.encode = lambda frames: sizes.append(len(frames)) or original(frames)  # type: ignore[method-assign, func-returns-value]
    encoder = FrameEncoder(codec, torch.device("cpu"), False, cache)
    torch.testing.assert_close(encoder.encode(frames), expected)
    assert sizes == [10]
