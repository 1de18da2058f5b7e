"""Train the visual codec on episode files: encoders by self-supervision, the better one frozen, then its decoder."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.codec.data import CodecData
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.datasets.standard import MixtureConfig, StandardData, open_standard
from worldmodel.home import checkpoints_dir
from worldmodel.precision import choose_device
from worldmodel.scripts.console import run_verb


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


def codec_data(data: StandardData) -> CodecData:
    """Frames and true variables of all stores, end to end; a store's variables are zero in the other stores' rows."""
    frames, features, episode, names = [], [], [], []
    splits: dict[str, list[np.ndarray]] = {"train": [], "held_out": []}
    width = sum(len(store.meta["feature_names"]) for store in data.stores)
    start = first = column = 0
    for store, train, held in zip(data.stores, data.train_episodes, data.held_out_episodes, strict=True):
        every = range(len(store))
        frames.append(store.frames(store.frame_rows(every)))
        own = store.column("features")
        padded = np.zeros((len(own), width), np.float32)
        padded[:, column : column + own.shape[1]] = own
        features.append(padded)
        names += [f"{store.path.stem}.{name}" for name in store.meta["feature_names"]]
        episode.append(first + np.repeat(np.arange(len(store)), store.lengths + 1))
        splits["train"].append(start + store.frame_rows(train))
        splits["held_out"].append(start + store.frame_rows(held))
        start, first, column = start + store.num_frames, first + len(store), column + own.shape[1]
    pictures = [
        np.stack([pairs.image(i) for i in range(len(pairs))]) if pairs is not None and len(pairs) else None
        for pairs in (data.train_pictures, data.held_out_pictures)
    ]
    return CodecData(
        np.concatenate(frames),
        np.concatenate(features),
        np.concatenate(episode),
        np.concatenate(splits["train"]),
        np.concatenate(splits["held_out"]),
        tuple(names),
        *pictures,
    )


if __name__ == "__main__":
    sys.exit(run_verb("codec", lambda: main, sys.argv[1:]))
