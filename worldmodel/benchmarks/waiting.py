"""How much of a training step is spent waiting for data, and how full its rows are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.training import CodecConfig
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.presets import Preset
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.pretrain import pretrain_on_data

ENV = "worldmodel/TwoRoom-v0"
MAX_STEPS = 40
VOCABULARY = 1024
FIRST = 10
"""Steps that are reported apart: the first batches are packed, and worker processes start, while nothing can be trained on."""


def waiting_rows(folder: Path, episodes: int, steps: int, data_workers: list[int], preset: Preset) -> list[dict[str, Any]]:
    """Train a preset on the standard mixture from fresh weights, once for each number of worker processes (0: a thread).

    The codec is as large as a trained one, and each frame is encoded when it first comes, as in any run.

    Returns:
        A row each: share of the time that was spent waiting, in the first ten steps and after them; share of positions that
        are filled; milliseconds a step.
    """
    collected = collect(CollectConfig(ENV, folder / "episodes.h5", episodes, max_steps=MAX_STEPS))
    data = open_training_data([collected.path], MixtureConfig())
    codec = RAE(RAEConfig(CodecConfig().encoder, CodecConfig().decoder)).eval()
    rows = []
    for workers in data_workers:
        train = replace(preset.train, steps=steps, log_every=FIRST, checkpoint_every=steps, data_workers=workers)
        train = replace(train, sample_every=0, validate_every=0)
        out = folder / f"run-{workers}"
        pretrain_on_data(data, codec, replace(preset, train=train), VOCABULARY, out)
        logged = [row for row in read_rows(out / "metrics.jsonl") if "data/wait_share" in row]
        later = logged[1:] or logged
        positions = train.packing.rows * train.packing.length
        seconds = np.mean([row["data/filled"] * positions / row["tokens_per_second"] for row in later])
        rows.append(
            {
                "data workers": workers,
                "steps": steps,
                f"waiting, first {FIRST} steps": logged[0]["data/wait_share"],
                "waiting, later": float(np.mean([row["data/wait_share"] for row in later])),
                "filled": float(np.mean([row["data/filled"] for row in logged])),
                "ms/step": float(1000 * seconds),
            }
        )
    return rows
