"""Frames, pictures and true variables of opened files, laid out for the training of a codec."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.codec.data import CodecData
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.episode_choice import open_stores
from worldmodel.datasets.mixture.pair_source import ImagePairSource
from worldmodel.datasets.mixture.source import Opening
from worldmodel.datasets.mixture.training_data import IMAGE_SIZE, MixtureConfig, Pictures, TrainingData, open_entry
from worldmodel.errors import UserError
from worldmodel.unseen import trained_on

MAX_FRAMES, MAX_PICTURES = 131_072, 16_384
"""What a codec is trained on at most: 1.8 GB at 64 pixels."""


def open_frames(paths: Sequence[Path], mixture: MixtureConfig) -> TrainingData:
    """Open what of a mixture has frames, episode files and pictures, with the splits of `open_training_data`; no text, no documents.

    Args:
        paths: episode files; a recipe may name more.
        mixture: what is held out, and which pictures.

    Raises:
        UserError: there is no episode file, files differ in frame size, or a package of pictures is missing.
    """
    entries = mixture.entries()
    stores = open_stores(paths, entries)
    splits = [store.split(mixture.split_seed, mixture.held_out) for store in stores]
    size = stores[0].image_size if stores else IMAGE_SIZE
    opening = Opening([], size, mixture.action_block, mixture.held_out, mixture.split_seed)
    opened = [open_entry(entry, opening) for entry in entries if entry.kind == ImagePairSource.kind]
    pictures = [split for each in opened for split in each.pictures]
    return TrainingData(
        stores,
        [list(train) for train, _ in splits],
        [list(held_out) for _, held_out in splits],
        parts=[],
        corpora=[],
        held_out_texts=[],
        train_pictures=Pictures([train for train, _ in pictures]) if pictures else None,
        held_out_pictures=Pictures([held_out for _, held_out in pictures]) if pictures else None,
        config=mixture,
    )


def codec_data(data: TrainingData, max_frames: int = MAX_FRAMES, max_pictures: int = MAX_PICTURES) -> CodecData:
    """Lay frames and true variables of all stores end to end; a store's variables are zero in the other stores' rows.

    Args:
        data: opened files with their splits.
        max_frames: about how many frames are kept in memory: of a larger set, a seeded choice of whole episodes.
        max_pictures: how many pictures, training and held-out ones each.

    Raises:
        UserError: there is no episode file.
    """
    if not data.stores:
        raise UserError("a codec is trained on frames of episodes; give episode files with --data")
    share = min(1.0, max_frames / sum(store.num_frames for store in data.stores))
    frames, targets, episode, train, held_out, chosen = [], [], [], [], [], []
    names: list[str] = []
    start = first = 0
    for store, to_train, to_hold_out in zip(data.stores, data.train_episodes, data.held_out_episodes, strict=True):
        kept = some_of(to_train, share)
        num_train = int((store.lengths[kept] + 1).sum())
        chosen.append(list(kept))
        kept += some_of(to_hold_out, share)
        rows = store.frame_rows(kept)
        frames.append(store.frames(rows))
        own_names, own = probe_targets(store, kept)
        targets.append(own)
        names += [f"{store.path.stem}.{name}" for name in own_names]
        episode.append(first + np.repeat(kept, store.lengths[kept] + 1))
        train.append(start + np.arange(num_train))
        held_out.append(start + np.arange(num_train, len(rows)))
        start, first = start + len(rows), first + len(store)
    pictures = [
        np.stack([pairs.image(i) for i in some_of(range(len(pairs)), max_pictures / len(pairs))]) if pairs is not None else None
        for pairs in (data.train_pictures, data.held_out_pictures)
    ]
    return CodecData(
        np.concatenate(frames),
        end_to_end(targets),
        np.concatenate(episode),
        np.concatenate(train),
        np.concatenate(held_out),
        tuple(names) or ("nothing recorded",),
        pictures[0],
        pictures[1],
        trained_on=tuple(trained_on(data.stores, chosen)),
    )


def probe_targets(store: EpisodeStore, episodes: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Read what the probe predicts in some episodes, by name: their true variables, float32 (frames of the episodes, f).

    A file of another program may have none: then what the robot felt, or else its physics state, each number with
    deviation 1. With none of them the codec is trained all the same, but no encoder is preferred.
    """
    name = target_column(store)
    if name is None:
        return [], np.zeros((len(store.frame_rows(episodes)), 0), np.float32)
    values = column_of(store, name, episodes)
    if name == "features":
        return list(store.meta["feature_names"]), values
    spread = values.std(axis=0)
    names = [f"{name}_{k}" for k in range(values.shape[1])]
    return names, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)


def target_column(store: EpisodeStore) -> str | None:
    """Name the column that says most of the true state, if any: true variables, what the robot felt, or the physics state."""
    if store.meta.get("feature_names", ()):
        return "features"
    return next((name for name in ("proprio", "state") if store.row_shape(name)[0]), None)


def column_of(store: EpisodeStore, name: str, episodes: Sequence[int]) -> np.ndarray:
    """Read a column of numbers, of some episodes alone: float32 (their frames, width)."""
    parts = []
    for i in episodes:
        part = np.empty((1, int(store.lengths[i]) + 1, *store.row_shape(name)), store.dtype(name))
        store.windows(name, store.offsets[[i]], 1, part)
        parts.append(part[0].astype(np.float32))
    return np.concatenate(parts)


def end_to_end(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Lay blocks (rows, columns) along the diagonal of one array of at least one column, float32, zero elsewhere."""
    whole = np.zeros((sum(map(len, blocks)), max(1, sum(block.shape[1] for block in blocks))), np.float32)
    row = column = 0
    for block in blocks:
        whole[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return whole


def some_of(items: Sequence[int], share: float) -> list[int]:
    """Choose a share of the items by seed, in their order, at least one; all of them for a share of 1 or more."""
    count = min(len(items), max(1, round(share * len(items))))
    return [items[i] for i in np.sort(np.random.default_rng(0).choice(len(items), size=count, replace=False)).tolist()]
