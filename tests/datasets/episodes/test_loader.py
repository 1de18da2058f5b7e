"""Batches read ahead by threads: the same whoever reads them, wherever reading starts, and nothing left behind."""

import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.loader import ClipLoader
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    path = tmp_path_factory.mktemp("loader") / "toy.h5"
    write_toy_file(path, lengths=(5, 3, 40, 7), size=8)
    return ClipDataset(path, num_steps=3)


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


@given(
    batch_size=st.integers(1, 47),
    seed=st.integers(0, 2**70),
    workers=st.integers(0, 3),
    start=st.integers(0, 200),
    count=st.integers(0, 12),
    drop_last=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_the_same_batches_for_any_workers_and_start(
    clips: ClipDataset, batch_size: int, seed: int, workers: int, start: int, count: int, drop_last: bool
) -> None:
    loader = ClipLoader(clips, batch_size, seed, workers, start, start + count, drop_last)
    found = list(loader)
    assert len(found) == count
    alone = ClipLoader(clips, batch_size, seed, drop_last=drop_last)
    for number, batch in enumerate(found, start):
        expected = clips.batch(alone.indices(number))
        assert batch.keys() == expected.keys()
        for name, rows in batch.items():
            np.testing.assert_array_equal(rows, expected[name])
    assert not reading_threads()


@pytest.mark.parametrize(("batch_size", "drop_last", "sizes"), [(8, True, [8] * 5), (8, False, [8] * 5 + [7]), (50, False, [47])])
def test_an_epoch_has_every_clip_once(clips: ClipDataset, batch_size: int, drop_last: bool, sizes: list[int]) -> None:
    loader = ClipLoader(clips, batch_size, seed=3, drop_last=drop_last)
    assert (len(clips), loader.batches_per_epoch) == (47, len(sizes))
    epochs = [[loader.indices(epoch * len(sizes) + i) for i in range(len(sizes))] for epoch in range(3)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == sizes
        numbers = np.concatenate(batches).tolist()
        assert len(set(numbers)) == len(numbers) and set(numbers) <= set(range(47))
    orders = [tuple(np.concatenate(batches)) for batches in epochs]
    assert len(set(orders)) == 3, "each epoch has an order of its own"
    other = ClipLoader(clips, batch_size, seed=4, drop_last=drop_last)
    assert tuple(np.concatenate([other.indices(i) for i in range(len(sizes))])) != orders[0]


def test_leaving_the_loop_ends_the_threads_and_few_batches_are_ahead(clips: ClipDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    batch = clips.batch
    monkeypatch.setattr(clips, "batch", lambda indices: read.append(1) or batch(indices))
    batches = iter(ClipLoader(clips, 4, workers=2))
    for _ in itertools.islice(batches, 10):
        assert 0 < len(reading_threads()) <= 2
    batches.close()  # type: ignore[attr-defined]  (a generator)
    assert not reading_threads()
    assert 10 <= len(read) <= 10 + 2 * 2
    for _ in ClipLoader(clips, 4, workers=2):
        break
    assert not reading_threads()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_damage_reaches_the_loop_as_one_sentence(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "toy.h5"
    write_episodes(path, (make_episode(i, 60, 32) for i in range(8)), {})
    clips = ClipDataset(path, num_steps=3)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"toy.h5 is damaged \(column .*--repair"):
        list(ClipLoader(clips, 8, workers=workers, stop=50))
    assert not reading_threads()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 8, "workers": -1}, "workers -1"),
        ({"batch_size": 8, "start": -1}, "start -1"),
        ({"batch_size": 8, "seed": -1}, "seed -1"),
        ({"batch_size": 48}, "47 clips do not fill a batch of 48"),
    ],
)
def test_what_makes_no_batch_is_refused(clips: ClipDataset, arguments: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ClipLoader(clips, **arguments)
