"""Speed of reading episode files: random clips compared with the same bytes in order.

The same recorded frames lie in a file of each storage. Everything is in the page cache (each side runs once before it
is timed): what is compared is the software, not the disk.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from worldmodel.benchmarks.throughput import Rates, interleave
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.chunks import datasets_of
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.loader import ClipLoader
from worldmodel.datasets.episodes.schema import STORAGES, open_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes

BATCH = 32
BLOCK_BYTES = 8 * 2**20
"""Of a `read` of the bytes in order."""
FRAMES_IN_ORDER = 64
"""Frames decoded at a time where all are decoded in order."""


def write_files(config: CollectConfig, folder: Path) -> dict[str, Path]:
    """Record episodes, and keep them in a file of each storage: storage -> file."""
    files = {storage: folder / f"{storage}.h5" for storage in STORAGES}
    collect(CollectConfig(**{**vars(config), "out": files["lossless"], "storage": "lossless"}))
    with EpisodeStore(files["lossless"]) as store:
        for storage, path in files.items():
            if storage != "lossless":
                write_episodes(path, (store.episode(i) for i in range(len(store))), store.meta, storage)  # type: ignore[arg-type]
    return files


def stored_bytes(path: Path) -> float:
    """Compute the bytes on the disk per frame: of the frame and the action, as they are coded."""
    with open_file(path) as file:
        wanted = [column.id.get_storage_size() for name, column in datasets_of(file) if name.split("/")[0] in ("frames", "actions")]
        return sum(wanted) / len(file["success"])


def reading_sides(path: Path, clip_frames: int, clips: int, workers: Sequence[int]) -> dict[str, Callable[[], float]]:
    """Return ways to read one file, each a call that gives its clips per second; see `measure`.

    `in order`: every frame of the file once, front to back, coded frames decoded by the same decoder; as many frames
    count as a clip. `read`: `os.read` in blocks of 8 MiB of the whole file, front to back, nothing decoded; as many bytes
    count as a clip as it has in the file. A number of workers: `ClipLoader`, the start of its threads included.
    """
    dataset, clip_bytes = ClipDataset(path, clip_frames - 1), clip_frames * stored_bytes(path)
    sides = loader_sides(dataset, clips, workers)
    sides["in order"] = lambda: _in_order_rate(dataset.stores[0]) / clip_frames
    sides["read"] = lambda: _read_rate(path) / clip_bytes
    return sides


def loader_sides(dataset: ClipDataset, clips: int, workers: Sequence[int]) -> dict[str, Callable[[], float]]:
    """Return a call for each number of threads that reads clips through `ClipLoader` and gives clips per second."""
    return {str(number): functools.partial(_loader_rate, dataset, clips, number) for number in workers}


def measure(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Rates]:
    """Run `interleave`, after each side has run once."""
    for side in sides.values():
        side()
    return interleave(sides, repeats)


def _loader_rate(dataset: ClipDataset, clips: int, workers: int) -> float:
    start = time.perf_counter()
    loader = ClipLoader(dataset, BATCH, workers=workers, stop=-(-clips // BATCH), drop_last=False)
    found = sum(len(batch["frames"]) for batch in loader)
    return found / (time.perf_counter() - start)


def _in_order_rate(store: EpisodeStore) -> float:
    """Measure frames per second of reading in order."""
    start = time.perf_counter()
    for first in range(0, store.num_frames, FRAMES_IN_ORDER):
        count = min(FRAMES_IN_ORDER, store.num_frames - first)
        store.windows("frames", np.array([first]), 1, np.empty((1, count, *store.row_shape("frames")), np.uint8))
    return store.num_frames / (time.perf_counter() - start)


def _read_rate(path: Path) -> float:
    """Measure bytes per second of reading."""
    descriptor, start = os.open(path, os.O_RDONLY), time.perf_counter()
    try:
        while os.read(descriptor, BLOCK_BYTES):
            pass
        return path.stat().st_size / (time.perf_counter() - start)
    finally:
        os.close(descriptor)
