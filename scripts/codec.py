"""Train the visual codec on episode files: encoders by self-supervision, the better one frozen, then its decoder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.codec.data import CodecData
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.standard import MixtureConfig, StandardData, open_standard
from worldmodel.home import checkpoints_dir
from worldmodel.precision import choose_device
from worldmodel.scripts.console import run_verb

MAX_FRAMES, MAX_PICTURES = 131_072, 16_384
"""What a codec is trained on at most: 1.8 GB at 64 pixels."""


@dataclass(frozen=True)
class CodecVerbConfig:
    """What to train a codec on, and where to put it."""

    data: tuple[Path, ...]
    """Episode files, from worldmodel collect."""
    out: Path | None = None
    """Folder of the codec; by default `codec` in the checkpoints folder of WORLDMODEL_HOME."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Sizes, steps and seed."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """What is held out, and whether pictures are used beside the frames."""
    device: str = "cpu"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""


def main(config: CodecVerbConfig) -> None:
    """Train or continue, then say how good it is."""
    out = config.out or checkpoints_dir() / "codec"
    data = codec_data(open_standard(config.data, config.mixture))
    _, report = train_codec(config.codec, data, out, choose_device(config.device))
    for name, candidate in report["objectives"].items():
        print(f"{name}: probe R^2 {candidate['probe']['r2']:.3f}")
    print(f"chosen: {report['chosen']}, PSNR {report['reconstruction']['psnr']:.1f} dB on held-out frames")
    print(f"{out}: codec written; its report is {out / 'report.json'}")
    print(f"next: worldmodel pretrain --data {' '.join(map(str, config.data))} --codec {out}")


def codec_data(data: StandardData, max_frames: int = MAX_FRAMES, max_pictures: int = MAX_PICTURES) -> CodecData:
    """Frames and true variables of all stores, end to end; a store's variables are zero in the other stores' rows.

    Args:
        data: opened files with their splits.
        max_frames: about how many frames are kept in memory: of a larger set, a seeded choice of whole episodes.
        max_pictures: how many pictures, training and held-out ones each.
    """
    frames, features, episode, names = [], [], [], []
    splits: dict[str, list[np.ndarray]] = {"train": [], "held_out": []}
    targets = [probe_targets(store) for store in data.stores]
    width = max(1, sum(values.shape[1] for _, values in targets))
    share = min(1.0, max_frames / sum(store.num_frames for store in data.stores))
    start = first = column = 0
    for store, train, held, (own_names, own) in zip(data.stores, data.train_episodes, data.held_out_episodes, targets, strict=True):
        chosen = {"train": some_of(train, share), "held_out": some_of(held, share)}
        for split, episodes in chosen.items():
            rows = store.frame_rows(episodes)
            frames.append(store.frames(rows))
            padded = np.zeros((len(rows), width), np.float32)
            padded[:, column : column + own.shape[1]] = own[rows]
            features.append(padded)
            episode.append(first + np.repeat(episodes, store.lengths[episodes] + 1))
            splits[split].append(start + np.arange(len(rows)))
            start += len(rows)
        names += [f"{store.path.stem}.{name}" for name in own_names]
        first, column = first + len(store), column + own.shape[1]
    pictures = [
        np.stack([pairs.image(i) for i in some_of(range(len(pairs)), max_pictures / len(pairs))]) if pairs is not None else None
        for pairs in (data.train_pictures, data.held_out_pictures)
    ]
    return CodecData(
        np.concatenate(frames),
        np.concatenate(features),
        np.concatenate(episode),
        np.concatenate(splits["train"]),
        np.concatenate(splits["held_out"]),
        tuple(names) or ("nothing recorded",),
        *pictures,
    )


def probe_targets(store: EpisodeStore) -> tuple[list[str], np.ndarray]:
    """What the probe looks for in a file, by name: its true variables, (frames, f) float32.

    A file of another program may have none: then what the robot felt, or else its physics state, each number with
    deviation 1. With none of them the codec is trained all the same, but no encoder is preferred.
    """
    names = list(store.meta["feature_names"])
    if names:
        return names, store.column("features")
    for name in ("proprio", "state"):
        values = store.column(name).astype(np.float32)
        if values.shape[1]:
            spread = values.std(axis=0)
            return [f"{name}_{k}" for k in range(values.shape[1])], (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return [], np.zeros((store.num_frames, 0), np.float32)


def some_of(items: Sequence[int], share: float) -> list[int]:
    """A seeded choice of a share of the items in their order, at least one; all of them for a share of 1 or more."""
    count = min(len(items), max(1, round(share * len(items))))
    return sorted(np.random.default_rng(0).choice(np.asarray(items), size=count, replace=False).tolist())


if __name__ == "__main__":
    sys.exit(run_verb("codec", lambda: main, sys.argv[1:]))
