"""What anybody reads clips with, tuned to the clips: h5py with zstd, a memory map of raw frames; neither verifies what it reads."""

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.column_writer import ZSTD_LEVEL

CACHE_SHARE, CACHE_SLOTS = 1 / 8, 100_003
"""Of h5py's cache of decoded chunks: the share of all frames that fits. Were it all of them, memory would be read, not the file."""


class H5pyClips(ClipDataset):
    """The clips of an episode file, read from a plain HDF5 file with chunks as long as a clip.

    Args:
        path: the episode file.
        clip_frames: frames of a clip.
        target: the plain file, made where it is not there.
    """

    def __init__(self, path: Path, clip_frames: int, target: Path) -> None:
        super().__init__(path, clip_frames - 1)
        if not target.exists():
            _write_plain(self, clip_frames, target)
        frames = self.stores[0].num_frames * int(np.prod(self.stores[0].row_shape("frames")))
        cache = {"rdcc_nbytes": int(CACHE_SHARE * frames), "rdcc_nslots": CACHE_SLOTS}
        self._plain = h5py.File(target, "r", locking=False, **cache)
        self._columns: dict[str, Any] = {"frames": self._plain["frames"], "actions": self._plain["actions"][:]}
        self.frame_bytes = target.stat().st_size / len(self._plain["frames"])
        """Bytes on the disk per frame."""

    def _read(self, name: str, files: np.ndarray, rows: np.ndarray) -> np.ndarray:
        column = self._columns[name]
        count = self.num_steps + (name == "frames")
        out = np.empty((len(rows), count, *column.shape[1:]), column.dtype)
        for place in np.argsort(rows).tolist():
            out[place] = column[rows[place] : rows[place] + count]
        return out


class MemmapClips(H5pyClips):
    """The same with the frames in a memory map."""

    def __init__(self, path: Path, clip_frames: int, target: Path) -> None:
        super().__init__(path, clip_frames, target)
        raw = target.with_suffix(".npy")
        if not raw.exists():
            np.save(raw, self.stores[0].frames(np.arange(self.stores[0].num_frames)))
        self._columns["frames"] = np.load(raw, mmap_mode="r")
        self.frame_bytes = raw.stat().st_size / len(self._columns["frames"])


def _write_plain(clips: ClipDataset, clip_frames: int, target: Path) -> None:
    store = clips.stores[0]
    frames, actions = store.frames(np.arange(store.num_frames)), store.column("actions")
    chunks = {"frames": (clip_frames, *frames.shape[1:]), "actions": actions.shape}
    with h5py.File(target, "w", libver="latest") as file:
        for name, rows in (("frames", frames), ("actions", actions)):
            file.create_dataset(name, data=rows, chunks=chunks[name], **hdf5plugin.Zstd(clevel=ZSTD_LEVEL))
