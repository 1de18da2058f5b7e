"""Speed of reading episode files: random clips beside the same bytes in order, and beside another package's loaders.

The same recorded frames lie in a file of each storage, and in the other package's formats, written by its own writers.
Everything is in the page cache (each side runs once before it is timed): what is compared is the software, not the disk.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.peer import write_peer_files
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.collection.speed import Rates, interleave
from worldmodel.datasets.episodes.chunks import locate
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.schema import STORAGES, open_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes

BATCH = 32
BLOCK_BYTES = 8 * 2**20
"""Of a `read` of the bytes in order."""
FRAMES_IN_ORDER = 64
"""Frames decoded at a time where all are decoded in order."""


def write_files(config: CollectConfig, folder: Path) -> dict[str, Path]:
    """Records episodes, and keeps them in a file of each storage: storage -> file."""
    files = {storage: folder / f"{storage}.h5" for storage in STORAGES}
    collect(CollectConfig(**{**vars(config), "out": files["lossless"], "storage": "lossless"}))
    with EpisodeStore(files["lossless"]) as store:
        for storage, path in files.items():
            if storage != "lossless":
                write_episodes(path, (store.episode(i) for i in range(len(store))), store.meta, storage)  # type: ignore[arg-type]
    return files


def stored_bytes(path: Path) -> float:
    """Bytes on the disk per frame: of the frame and the action, as they are coded."""
    with open_file(path) as file:
        columns = locate(file)
        wanted = [column.sizes.sum() for name, column in columns.items() if name.split("/")[0] in ("frames", "actions")]
        return float(sum(wanted)) / columns["success"].num_rows


def reading_rates(path: Path, clip_frames: int, clips: int, repeats: int) -> dict[str, Rates]:
    """Clips per second of one file, three ways that take turns.

    `random`: batches of random clips of `ClipDataset`, as arrays. `in order`: every frame of the file once, front to
    back, coded frames decoded by the same decoder; as many frames count as a clip. `read`: `os.read` in blocks of
    8 MiB of the whole file, front to back, nothing decoded; as many bytes count as a clip as it has in the file.
    """
    dataset = ClipDataset(path, clip_frames - 1)
    clip_bytes = clip_frames * stored_bytes(path)
    sides: dict[str, Callable[[], float]] = {
        "random": functools.partial(_random_rate, dataset, clips),
        "in order": lambda: _in_order_rate(dataset.stores[0]) / clip_frames,
        "read": lambda: _read_rate(path) / clip_bytes,
    }
    return measure(sides, repeats)


def measure(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Rates]:
    """`interleave`, after each side has run once."""
    for side in sides.values():
        side()
    return interleave(sides, repeats)


def _random_rate(dataset: ClipDataset, clips: int) -> float:
    order = np.random.default_rng(0).integers(len(dataset), size=clips)
    start = time.perf_counter()
    for first in range(0, clips, BATCH):
        dataset.batch(order[first : first + BATCH])
    return clips / (time.perf_counter() - start)


def _in_order_rate(store: EpisodeStore) -> float:
    """Frames per second."""
    start = time.perf_counter()
    for first in range(0, store.num_frames, FRAMES_IN_ORDER):
        count = min(FRAMES_IN_ORDER, store.num_frames - first)
        store.windows("frames", np.array([first]), 1, np.empty((1, count, *store.row_shape("frames")), np.uint8))
    return store.num_frames / (time.perf_counter() - start)


def _read_rate(path: Path) -> float:
    """Bytes per second."""
    descriptor, start = os.open(path, os.O_RDONLY), time.perf_counter()
    try:
        while os.read(descriptor, BLOCK_BYTES):
            pass
        return path.stat().st_size / (time.perf_counter() - start)
    finally:
        os.close(descriptor)


def loader_rates(files: dict[str, Path], folder: Path, clip_frames: int, clips: int, workers: int, repeats: int) -> dict[str, Any]:
    """Clips per second of torch's DataLoader, shuffled, in batches of 32, over our files and the other package's.

    Both sides give what their data set gives: frames and actions as uint8 and float32 tensors. The start of the worker
    processes does not count.

    Returns:
        Side -> (its rates, its bytes on the disk per frame). Sides: the storages, and `hdf5` and `lance` of
        stable-worldmodel where that package is installed.
    """
    from torch.utils.data import DataLoader, RandomSampler  # nothing else in this folder needs torch

    datasets: dict[str, tuple[Any, float]] = {
        storage: (ClipDataset(path, clip_frames - 1), stored_bytes(path)) for storage, path in files.items()
    }
    datasets |= write_peer_files(files["raw"], folder, clip_frames)
    settings: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "spawn"} if workers else {}

    def side(dataset: Any) -> Callable[[], float]:
        sampler = RandomSampler(dataset, replacement=True, num_samples=clips)
        loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, **settings)

        def rate() -> float:
            start = time.perf_counter()
            for _ in loader:
                pass
            return clips / (time.perf_counter() - start)

        return rate

    rates = measure({name: side(dataset) for name, (dataset, _) in datasets.items()}, repeats)
    return {name: (rates[name], size) for name, (_, size) in datasets.items()}
