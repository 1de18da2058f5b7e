"""What the codec is trained on: frames, their episodes, the true variables, and seeded draws from them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.codec.frames import check_frames, frames_to_float
from worldmodel.codec.ssl import FrameBatch
from worldmodel.errors import UserError

LATENT_BYTES = 2**31
"""Latents kept in memory for the decoder at most; 256 tokens of 768 channels reach it after 2,730 frames."""


@dataclass(frozen=True)
class CodecData:
    """Frames of episodes laid end to end, and pictures that belong to no episode."""

    frames: np.ndarray
    """uint8 (M, h, w, 3), in time order within an episode."""
    features: np.ndarray
    """float (M, f): the true variables that the probe predicts."""
    episode: np.ndarray
    """int (M,): episode of each frame."""
    train: np.ndarray
    """int: frames to train on; whole episodes."""
    validation: np.ndarray
    """int: held-out frames; whole episodes."""
    feature_names: tuple[str, ...] = ()
    """f names; numbered when empty."""
    extra: np.ndarray | None = None
    """uint8 (E, h, w, 3): pictures without an episode (icons), trained on together with the frames."""
    extra_validation: np.ndarray | None = None
    """uint8 (K, h, w, 3): held-out pictures of the same kind."""
    trained_on: tuple[str, ...] = ()
    """Digests of the training episodes, which the codec remembers."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        if not len(self.features) == len(self.episode) == count:
            raise UserError(
                f"{count} frames, {len(self.features)} rows of features and {len(self.episode)} episodes "
                "were given, but there must be one of each for every frame"
            )
        for name, index in (("train", self.train), ("validation", self.validation)):
            if len(index) == 0 or index.min() < 0 or index.max() >= count:
                raise UserError(f"the {name} split must hold at least one index, all below the {count} frames")
        shared = np.intersect1d(self.episode[self.train], self.episode[self.validation])
        if len(shared):
            raise UserError(f"episode {shared[0]} is in the train and the validation split; split by episodes")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.feature_names or tuple(f"feature_{i}" for i in range(self.features.shape[1]))

    def check(self, image_size: int) -> None:
        """Refuse frames or pictures that are not uint8 of this size.

        Raises:
            UserError: naming shape and type.
        """
        for frames in (self.frames, self.extra, self.extra_validation):
            if frames is not None:
                check_frames(frames, image_size)

    def fingerprint(self) -> str:
        """Hash the shapes, the splits and a sample of the frames: a run that is continued must have the same data."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.frames, self.features, self.extra):
            if array is not None:
                digest.update(repr(array.shape).encode())
                digest.update(np.ascontiguousarray(array[:: max(1, len(array) // 64)]).tobytes())
        for array in (self.episode, self.train, self.validation):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return digest.hexdigest()


class FrameBatchSampler:
    """Draws batches: frames with a neighbor from the same episode, and a share of extra pictures."""

    def __init__(self, data: CodecData, batch_size: int, extra_share: float, neighbour_steps: int = 0) -> None:
        self.data = data
        self.neighbour_steps = neighbour_steps
        self.num_extra = extra_count(data, batch_size, extra_share)
        self.num_frames = batch_size - self.num_extra
        scales = [mean_picture(data.frames[subset(data.train, 1024, 0)])[1].expand(self.num_frames, 2)]
        if data.extra is not None and self.num_extra:
            scales.append(mean_picture(data.extra)[1].expand(self.num_extra, 2))
        self.scale = torch.cat(scales)  # (b, 2)

    def draw(self, generator: torch.Generator) -> FrameBatch:
        """Draw one batch on the generator's device; a pure function of the generator's state."""
        data, device = self.data, generator.device
        index = data.train[randint(len(data.train), self.num_frames, generator)]
        offset = randint(2 * self.neighbour_steps + 1, self.num_frames, generator) - self.neighbour_steps
        other = np.clip(index + offset, 0, len(data.frames) - 1)
        other = np.where(data.episode[other] == data.episode[index], other, index)
        frames, neighbours = data.frames[index], data.frames[other]
        if self.num_extra and data.extra is not None:
            extra = data.extra[randint(len(data.extra), self.num_extra, generator)]
            frames, neighbours = np.concatenate([frames, extra]), np.concatenate([neighbours, extra])
        scale = self.scale.to(device)
        return FrameBatch(frames_to_float(frames, device), frames_to_float(neighbours, device), scale)


class LatentSampler:
    """Draws latents and their frames for the decoder; every frame is encoded once, ahead, where the latents fit into memory."""

    def __init__(self, sources: list[tuple[np.ndarray, int]], encode: Callable[[np.ndarray], Tensor], latent_bytes: int) -> None:
        """Prepare the draws.

        Args:
            sources: uint8 frames (P, h, w, 3), and how many of them go in a batch.
            encode: frames to latents (P, n, c).
            latent_bytes: of the latents of one frame; beyond `LATENT_BYTES` in all, frames are encoded when they are drawn.
        """
        self.encode = encode
        self.sources = [source for source in sources if source[1] > 0]
        ahead = latent_bytes * sum(len(frames) for frames, _ in self.sources) <= LATENT_BYTES
        self.latents = [encode(frames) if ahead else None for frames, _ in self.sources]
        scales = [mean_picture(frames)[1].expand(count, 2) for frames, count in self.sources]
        self.scale = torch.cat(scales)  # (b, 2)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents (b, n, c), frames (b, 3, h, w) and scale (b, 2) on the generator's device."""
        latents, frames = [], []
        for (pictures, count), codes in zip(self.sources, self.latents, strict=True):
            index = randint(len(pictures), count, generator)
            chosen = pictures[index]
            latents.append(self.encode(chosen) if codes is None else codes[torch.from_numpy(index).to(codes.device)])
            frames.append(frames_to_float(chosen, generator.device))
        return torch.cat(latents), torch.cat(frames), self.scale.to(generator.device)


def extra_count(data: CodecData, batch_size: int, extra_share: float) -> int:
    """Count the extra pictures of a batch: none when there are none, else at least one."""
    if data.extra is None or len(data.extra) == 0 or extra_share == 0:
        return 0
    return min(batch_size - 1, max(1, round(batch_size * extra_share)))


def mean_picture(frames: np.ndarray) -> tuple[Tensor, Tensor]:
    """Compute the mean of about 1024 of the uint8 frames (M, h, w, 3), and the error of decoding every frame to that mean.

    Returns:
        (3, h, w) mean picture in [0, 1], and (2,) its mean absolute and mean squared error over the frames,
        at least 1e-3 and 1e-5, so that frames which are all equal do no harm.
    """
    pictures = frames_to_float(frames[:: max(1, len(frames) // 1024)])
    mean = pictures.mean(dim=0)
    absolute, squared = (pictures - mean).abs().mean(), (pictures - mean).square().mean()
    return mean, torch.stack([absolute.clamp_min(1e-3), squared.clamp_min(1e-5)])


def randint(high: int, count: int, generator: torch.Generator) -> np.ndarray:
    """Draw (count,) int64 in 0..high-1."""
    return torch.randint(high, (count,), generator=generator, device=generator.device).cpu().numpy()


def subset(index: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose at most `count` of the indices by seed, in rising order."""
    if len(index) <= count:
        return np.sort(index)
    return np.sort(np.random.default_rng(seed).choice(index, size=count, replace=False))


def whole_episodes(index: np.ndarray, episode: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose frames of whole episodes by seed, in rising order: what fits into `count`, at least one episode."""
    names, lengths = np.unique(episode[index], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    kept = names[order[: max(1, int((np.cumsum(lengths[order]) <= count).sum()))]]
    return np.sort(index[np.isin(episode[index], kept)])
