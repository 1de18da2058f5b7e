"""Ways to read frames of one task, in turn: `ClipLoader`, torch's DataLoader, all in order; our files, plain ones, a reference's."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from worldmodel.benchmarks.loading_speed import BATCH, loader_sides, measure, reading_sides, stored_bytes, write_files
from worldmodel.benchmarks.plain_readers import H5pyClips, MemmapClips
from worldmodel.benchmarks.reference_library import REFERENCE_FORMATS, write_reference_files
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.clips import ClipDataset

BenchmarkRow = dict[str, Any]
REFERENCE = "stable-worldmodel "


def reading_rows(plan: CollectConfig, folder: Path, clip_frames: int, clips: int, repeats: int) -> list[BenchmarkRow]:
    """Record episodes and read them in every way.

    Returns:
        A row for each way: what is read, by what and with how many threads or processes, clips per second, and how many times as
        fast that is as the same file in order, as its bytes alone, as tuned h5py and a memory map by as many threads, and as the
        reference implementation's formats by as many processes.
    """
    files = write_files(plan, folder)
    datasets: dict[str, tuple[Any, float]] = {}
    datasets |= {name: (ClipDataset(path, clip_frames - 1), stored_bytes(path)) for name, path in files.items()}
    datasets |= {f"{REFERENCE}{name}": found for name, found in write_reference_files(files["raw"], folder, clip_frames).items()}
    ways: dict[tuple[str, str, int], Callable[[], float]] = {}
    for name, path in files.items():
        for how, side in reading_sides(path, clip_frames, clips, sorted({0, 1, plan.workers})).items():
            ways[(name, "ClipLoader", int(how)) if how.isdigit() else (name, how, 0)] = side
    plain = {"tuned h5py": H5pyClips, "memmap": MemmapClips}
    for name, plain_reader in plain.items():
        clips_of = plain_reader(files["lossless"], clip_frames, folder / "plain.h5")
        datasets[name] = clips_of, clips_of.frame_bytes
        for how, side in loader_sides(clips_of, clips, sorted({0, 1, plan.workers})).items():
            ways[name, "ClipLoader", int(how)] = side
    for name, (dataset, _) in datasets.items():
        if name in plain:  # open HDF5 files go to no other process
            continue
        ways |= {(name, "DataLoader", workers): torch_loader(dataset, clips, workers) for workers in (0, plan.workers)}
    rates = measure({" ".join(map(str, way)): side for way, side in ways.items()}, repeats)
    found = {way: rates[" ".join(map(str, way))] for way in ways}

    def times(way: tuple[str, str, int], other: tuple[str, str, int]) -> float | None:
        return found[way].median / found[other].median if other in found and way != other else None

    rows: list[BenchmarkRow] = []
    for way in ways:
        name, reader, workers = way
        row: BenchmarkRow = {"file": name, "reader": reader, "workers": workers, "bytes/clip": clip_frames * datasets[name][1]}
        row |= {"clips/s": found[way].median, "range": found[way].spread}
        row |= {f"x {other}": times(way, (name, other, 0)) for other in ("in order", "read")}
        references = {name: (name, "ClipLoader", workers) for name in plain}
        references |= {reference: (REFERENCE + reference, "DataLoader", workers) for reference in REFERENCE_FORMATS}
        rows.append(
            row | {f"x {reference}": times(way, side) if "Loader" in reader else None for reference, side in references.items()}
        )
    return rows


def torch_loader(dataset: Any, clips: int, workers: int) -> Callable[[], float]:
    """Make a function that reads random clips through torch's DataLoader and returns clips/s, the start of processes left out."""
    from torch.utils.data import DataLoader, RandomSampler  # seconds, which the other benchmarks need not wait

    settings: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "spawn"} if workers else {}
    sampler = RandomSampler(dataset, replacement=True, num_samples=clips)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, **settings)

    def rate() -> float:
        start = time.perf_counter()
        for _ in loader:
            pass
        return clips / (time.perf_counter() - start)

    return rate


def torchvision_decodes() -> bool:
    """Tell whether torchvision's JPEG decoder works here; without it the reference's Lance reader takes a slower one."""
    try:
        import torch
        from torchvision.io import decode_jpeg  # type: ignore[import-not-found]

        data = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
        return bool(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).shape == (3, 8, 8))
    except (ImportError, RuntimeError, AttributeError):
        return False
