"""Train a codec and a tiny model on the episodes of 02_collect.py: the task alone, without text corpora and pictures.

Writes the folders codec and run; the same command goes on where it was stopped.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import worldmodel
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.codec.training_frames import codec_data
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.presets import tiny
from worldmodel.training.pretrain import PretrainConfig

FILE = Path("rooms.h5")


def main(steps: int = 600, vocab_size: int = 512) -> None:
    """Train.

    Args:
        steps: of the model; its full number is that of the preset.
        vocab_size: largest vocabulary of the tokenizer.
    """
    mixture = MixtureConfig(text=0, pictures=0)
    data = open_training_data([FILE], mixture)
    print(f"{len(data.train_episodes[0])} episodes to train on, {len(data.held_out_episodes[0])} held out")
    codec, report = train_codec(CodecConfig(kind="pixels"), codec_data(data), "codec")
    print(f"codec: {codec.num_tokens} tokens x {codec.channels}, {report['reconstruction']['psnr']:.1f} dB on held-out frames")

    preset = tiny()
    preset = replace(preset, train=replace(preset.train, steps=steps))
    result = worldmodel.pretrain(PretrainConfig(preset, vocab_size, mixture), [FILE], "codec", "run")
    print(f"{result.checkpoint}: the model after {result.step} steps")


if __name__ == "__main__":
    tyro.cli(main)
