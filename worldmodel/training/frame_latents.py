"""The latents of all frames and pictures of the training data, in the cache of WORLDMODEL_HOME."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from worldmodel.codec.codec import Codec
from worldmodel.datasets.mixture.training_data import TrainingData
from worldmodel.home import cache_dir
from worldmodel.precision import choose_device
from worldmodel.training.config import TrainConfig
from worldmodel.training.latent_cache import LatentCache, build_latent_cache, cache_bytes, codec_key


def latent_cache(
    data: TrainingData, codec: Codec, config: TrainConfig, device: torch.device | None = None, tell: bool = True
) -> LatentCache:
    """Open the latents of all frames and training pictures of the data, in the cache of WORLDMODEL_HOME; encode them if need be.

    Several processes make them once: those that come later wait for the first.
    """
    pictures = len(data.train_pictures) if data.train_pictures else 0
    count = sum(store.num_frames for store in data.stores) + pictures
    origin = hashlib.blake2b(repr((codec_key(codec), config.cache_dtype)).encode(), digest_size=12)
    for store in data.stores:
        about = store.path.stat()
        origin.update(repr((str(store.path.resolve()), about.st_size, about.st_mtime_ns)).encode())
    for part in data.train_pictures.parts if data.train_pictures else []:
        origin.update(repr((part.name, len(part), part.transform, data.config.split_seed, data.config.held_out)).encode())
    folder = cache_dir() / "latents" / origin.hexdigest()
    size = cache_bytes(codec, count, config.cache_dtype)
    if tell:
        print(f"latents of {count:,} frames take up to {size / 2**20:,.0f} MiB in {folder}")
    codec = codec.to(device or choose_device(config.device)).eval()
    return build_latent_cache(folder, codec, every_frame(data), count, config.cache_dtype)


def every_frame(data: TrainingData) -> Iterator[np.ndarray]:
    """Yield all frames of the episode files, then all pictures that are trained on: uint8 (H, W, 3) each."""
    for store in data.stores:
        for start in range(0, store.num_frames, 256):
            yield from store.frames(np.arange(start, min(start + 256, store.num_frames)))
    pictures = data.train_pictures
    yield from (pictures.image(i) for i in range(len(pictures))) if pictures else ()
