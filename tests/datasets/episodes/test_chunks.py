"""The reader beside HDF5's own, what it makes of damage, and how much memory it takes."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.chunks import datasets_of, fletcher32
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


@pytest.fixture(scope="module", params=STORAGES)
def path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("chunks") / "toy.h5"
    write_episodes(path, (make_episode(i, 60 + i, 32) for i in range(12)), {}, request.param)
    return path


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_reads_what_hdf5_reads(path: Path, data: st.DataObject) -> None:
    with h5py.File(path, "r", locking=False) as file, EpisodeStore(path) as store:
        columns = dict(datasets_of(file))
        name = data.draw(st.sampled_from(sorted(set(columns) - {"meta"})))
        start = data.draw(st.integers(0, len(columns[name]) - 1))
        stop = data.draw(st.integers(start, len(columns[name])))
        step = data.draw(st.integers(1, 7))
        found = store._reader.rows(name, start, stop, step)
        np.testing.assert_array_equal(found, columns[name][start:stop:step])
        assert found.dtype == columns[name].dtype


def test_windows_are_the_rows_one_by_one(path: Path) -> None:
    store = EpisodeStore(path)
    starts = np.random.default_rng(0).integers(store.num_frames - 30, size=40)
    for name, step in (("frames", 1), ("frames", 3), ("state", 1), ("features", 2)):
        out = np.empty((40, 9, *store.row_shape(name)), store.dtype(name))
        store.windows(name, starts, step, out)
        for window, start in zip(out, starts, strict=True):
            np.testing.assert_array_equal(window, store._reader.rows(name, start, start + 8 * step + 1, step))


def test_threads_read_through_one_store(path: Path) -> None:
    store = EpisodeStore(path)
    expected = [store.clip(i, i, 20).frames.sum() for i in range(12)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda k: store.clip(k % 12, k % 12, 20).frames.sum(), range(240))) == expected * 20


def test_a_file_cut_while_it_is_open_is_one_sentence(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes())
    with EpisodeStore(cut) as store:
        os.truncate(cut, 40_000)
        with pytest.raises(UserError, match=r"cut.h5 is damaged \(column .*worldmodel datasets check .*cut.h5 --repair"):
            store.episode(11)


@given(chunk=st.integers(0, 5), place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_no_bit_of_a_compressed_chunk_can_change(lossless: Path, chunk: int, place: int, bit: int) -> None:
    data = bytearray(lossless.read_bytes())
    with h5py.File(lossless, "r", locking=False) as file:
        rows = file["frames"].chunks[0]
        found = file["frames"].id.get_chunk_info_by_coord((chunk * rows, 0, 0, 0))
    data[found.byte_offset + place % found.size] ^= 1 << bit
    changed = lossless.with_name("changed.h5")
    changed.write_bytes(data)
    with EpisodeStore(changed) as store, pytest.raises(UserError, match=r"changed.h5 is damaged \(column frames cannot be read"):
        store.frames(np.arange(6 * rows))


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lossless") / "toy.h5"
    write_episodes(path, [make_episode(i, 60, 16, frames=np.full((61, 16, 16, 3), i, np.uint8)) for i in range(4)], {})
    return path


def test_a_closed_store_says_so(path: Path) -> None:
    store = EpisodeStore(path)
    store.close()
    with pytest.raises(ValueError, match="is closed"):
        store.clip(0, 0, 4)


@given(st.binary(max_size=2000))
@settings(deadline=None, max_examples=40)
def test_fletcher32_is_that_of_hdf5(data: bytes) -> None:
    content = data or b"\0"
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=np.frombuffer(content, np.uint8), chunks=(len(content),), fletcher32=True)
        file.flush()
        _, chunk = dataset.id.read_direct_chunk((0,))
    assert fletcher32(content) == int.from_bytes(chunk[len(content) :], "little")


READ_ALL = """
import sys
from worldmodel.datasets.episodes.clips import ClipDataset
import resource
clips = ClipDataset(sys.argv[1], 3)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 14 * 2**20,) * 2)
print(sum(int(clips.batch(range(i, min(i + 16, len(clips))))["frames"].sum()) for i in range(0, len(clips), 16)))
"""


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_ten_times_larger_than_the_memory_is_read(tmp_path: Path, root: Path, storage: str) -> None:
    """14 MiB of address space beyond what the imports took, 160 MB of frames: neither held nor mapped."""
    path = tmp_path / "big.h5"
    frames = np.random.default_rng(0).integers(0, 256, (51, 128, 128, 3), dtype=np.uint8)
    write_episodes(path, (make_episode(i, 50, 128, frames=frames) for i in range(64)), {}, storage)
    child = subprocess.run([sys.executable, "-c", READ_ALL, path], cwd=root, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    with EpisodeStore(path) as store:
        read = sum(int(store.clip(0, start, 3).frames.sum()) for start in range(48)) * 64
    assert int(child.stdout) == read
