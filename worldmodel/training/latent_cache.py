"""Latents of all frames of the data, encoded once and kept on the disk.

    latents.bin     one row per distinct frame, (p, c) float32 or float16, in the order of encoding
    keys.bin        per row: 16 bytes of the frame's hash, 4 of the row's check sum
    cache.json      whose latents, of what shape, how many; written last: without it the cache is not finished

A frame is found by what it shows, not by where it is from, so one cache serves every mixture of the same files. It belongs to one
codec. float32 rows are what the codec gave, so training from them equals encoding on the fly, up to rounding: the last bits may depend
on how many frames are encoded together. float16 rows are rounded to 11 significant bits and take half the room.

Worth it where encoding is slow and frames come often: a frame of 64 pixels is 12 kB and its latents of 16 x 64 are 4 kB, but a frame
of 224 pixels is 150 kB and its latents of 256 x 768 are 786 kB.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import frames_to_float
from worldmodel.datasets.atomic import DISK_FULL, locked_folder, write_atomic
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError
from worldmodel.precision import copied
from worldmodel.serialization import rebuild

LatentType = Literal["float32", "float16"]
SCHEMA_VERSION = 1
ENCODE_FRAMES, ENCODE_FRAMES_GPU = 32, 128  # at once
PART = 256  # frames between two flushes while a cache is built
KEY = np.dtype([("high", ">u8"), ("low", ">u8"), ("check", "<u4")])
HASH_BYTES = 16


@dataclass(frozen=True)
class Contents:
    """What a cache holds."""

    schema_version: int
    codec: str
    frame_tokens: int
    channels: int
    dtype: str
    rows: int


def frame_key(pixels: np.ndarray) -> bytes:
    """Hash a frame (H, W, 3) uint8 to the key of its row."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=HASH_BYTES).digest()


def codec_key(codec: Codec) -> str:
    """Hash everything that latents depend on, to tell codecs apart."""
    digest = hashlib.blake2b(repr((codec.kind, asdict(codec.config))).encode(), digest_size=HASH_BYTES)
    for name, tensor in sorted(codec.encoding_state().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_frames(codec: Codec, frames: Tensor, device: torch.device) -> Tensor:
    """Encode frames (f, h, w, 3) uint8 to latents (f, p, c) float32 on the device, a few at a time."""
    at_once = ENCODE_FRAMES_GPU if device.type == "cuda" else ENCODE_FRAMES
    parts = [codec.encode(frames_to_float(part, device)) for part in copied(frames, device).split(at_once) if len(part)]
    return torch.cat(parts) if parts else torch.zeros(0, codec.num_tokens, codec.channels, device=device)


def cache_bytes(codec: Codec, frames: int, dtype: LatentType = "float32") -> int:
    """Compute the size of a cache of so many frames, if no two are equal."""
    return frames * (codec.num_tokens * codec.channels * np.dtype(dtype).itemsize + KEY.itemsize)


def build_latent_cache(
    folder: Path | str, codec: Codec, frames: Iterable[np.ndarray], count: int, dtype: LatentType = "float32"
) -> "LatentCache":
    """Encode all frames into `folder`, or go on where that was stopped; at once if it is finished already.

    Args:
        folder: of this cache alone; made if need be.
        codec: in evaluation mode, on the device to encode on.
        frames: uint8 (H, W, 3) each; the same ones in the same order when it goes on. Equal frames are kept once.
        count: how many there are, for the size and the progress.
        dtype: float32 keeps what the codec gives, float16 takes half the room.

    Raises:
        UserError: the disk has too little room; another process builds this cache; the folder holds the cache of another codec.
    """
    folder = Path(folder)
    if (folder / "cache.json").exists():
        return LatentCache(folder, codec, dtype)
    with locked_folder(folder):
        try:
            if not (folder / "cache.json").exists():
                _build(folder, codec, frames, count, dtype)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(f"the disk of {folder} is full; make room, and the same command goes on") from error
    return LatentCache(folder, codec, dtype)


def _build(folder: Path, codec: Codec, frames: Iterable[np.ndarray], count: int, dtype: LatentType) -> None:
    owner = codec_key(codec) + " " + dtype
    if (folder / "owner").exists() and (folder / "owner").read_text() != owner:
        raise UserError(f"{folder} holds an unfinished latent cache of another codec: remove the folder, or name another")
    write_atomic(folder / "owner", owner.encode())
    device = codec.mean.device
    shape = (codec.num_tokens, codec.channels)
    with (folder / "latents.bin").open("ab+") as latents, (folder / "keys.bin").open("ab+") as keys:
        known = _whole_rows(latents, keys, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        size = cache_bytes(codec, count, dtype)
        needed, free = size - latents.tell() - keys.tell(), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"the latents of {count} frames take {size / 1e9:.1f} GB ({dtype}), and {folder} has {free / 1e9:.1f} GB left; "
                "cache in memory, take float16, or name a folder on a larger disk"
            )
        stream = iter(frames)
        with tqdm(total=count, unit="frame", desc="cache latents", disable=None) as bar:
            while part := list(islice(stream, PART)):
                new = {key: frame for frame in part if (key := frame_key(frame)) not in known}
                if new:
                    pixels = torch.from_numpy(np.stack(list(new.values())))
                    encoded = encode_frames(codec, pixels, device).cpu().numpy().astype(dtype)
                    rows = [row.tobytes() for row in encoded]
                    latents.write(b"".join(rows))
                    keys.write(b"".join(key + zlib.crc32(row).to_bytes(4, "little") for key, row in zip(new, rows, strict=True)))
                    latents.flush()
                    keys.flush()
                    known |= new.keys()
                bar.update(len(part))
        os.fsync(latents.fileno())
        os.fsync(keys.fileno())
    contents = Contents(SCHEMA_VERSION, codec_key(codec), *shape, dtype, len(known))
    write_atomic(folder / "cache.json", json.dumps(asdict(contents)).encode())


def _whole_rows(latents: BinaryIO, keys: BinaryIO, row_bytes: int) -> set[bytes]:
    """Find the keys of the rows that an interrupted build left whole; both files are cut after them."""
    latents.seek(0)
    keys.seek(0)
    known: set[bytes] = set()
    while len(entry := keys.read(KEY.itemsize)) == KEY.itemsize and len(row := latents.read(row_bytes)) == row_bytes:
        if zlib.crc32(row) != int.from_bytes(entry[HASH_BYTES:], "little"):
            break
        known.add(entry[:HASH_BYTES])
    latents.truncate(len(known) * row_bytes)
    keys.truncate(len(known) * KEY.itemsize)
    latents.seek(0, os.SEEK_END)
    keys.seek(0, os.SEEK_END)
    return known


class LatentCache:
    """A finished cache, opened for reading; holds 36 bytes of memory per row.

    Raises:
        UserError: it is unfinished or damaged, or of another codec or number type.
    """

    def __init__(self, folder: Path | str, codec: Codec, dtype: LatentType = "float32") -> None:
        self.folder = Path(folder)
        try:
            self.contents = rebuild(Contents, parse_json((self.folder / "cache.json").read_bytes()), "it")
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no finished latent cache") from None
        except ValueError as error:
            raise self._damaged(f"cache.json: {error}") from None
        c = self.contents
        if c.schema_version != SCHEMA_VERSION or c.codec != codec_key(codec) or c.dtype != dtype:
            raise UserError(f"{self.folder} holds {c.dtype} latents of another codec or version: remove it, or name another folder")
        self._shape = (c.frame_tokens, c.channels)
        self._row_bytes = c.frame_tokens * c.channels * np.dtype(dtype).itemsize
        keys = np.fromfile(self.folder / "keys.bin", KEY) if (self.folder / "keys.bin").exists() else np.zeros(0, KEY)
        sizes = [(self.folder / name).stat().st_size for name in ("keys.bin", "latents.bin") if (self.folder / name).exists()]
        if sizes != [c.rows * KEY.itemsize, c.rows * self._row_bytes]:
            raise self._damaged("files of the wrong size")
        self._order = np.lexsort((keys["low"], keys["high"]))
        self._high = keys["high"][self._order].astype(np.uint64)
        self._keys = keys
        self._file = os.open(self.folder / "latents.bin", os.O_RDONLY)

    def __len__(self) -> int:
        return self.contents.rows

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Read the latents (p, c) float32 of the frames that are cached, by key.

        Raises:
            UserError: a row is damaged.
        """
        found: dict[bytes, np.ndarray] = {}
        for key in set(keys):
            row = self._row(key)
            if row is None:
                continue
            data = os.pread(self._file, self._row_bytes, row * self._row_bytes)
            if len(data) != self._row_bytes or zlib.crc32(data) != self._keys["check"][row]:
                raise self._damaged(f"row {row}")
            found[key] = np.frombuffer(data, self.contents.dtype).reshape(self._shape).astype(np.float32)
        return found

    def _row(self, key: bytes) -> int | None:
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        at = int(np.searchsorted(self._high, np.uint64(high)))
        while at < len(self._high) and int(self._high[at]) == high:
            row = int(self._order[at])
            if int(self._keys["low"][row]) == low:
                return row
            at += 1
        return None

    def _damaged(self, what: str) -> UserError:
        return UserError(f"the latent cache {self.folder} is damaged ({what}): remove the folder, and it is built again")
