"""About how long a quickstart takes here: episodes are timed, the rest is scaled from one machine by the rate of a matrix product."""

import time
from collections.abc import Mapping

import torch

from worldmodel.codec.config import CodecConfig
from worldmodel.codec.kinds import KINDS
from worldmodel.datasets.collection.attempts import Player
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.flops import matmul_rate
from worldmodel.presets import Preset

TIMED_EPISODES = 3
RATE = 1.9e11
"""Operations per second of a float32 matrix product on the machine of the seconds below: two cores of an AMD EPYC."""
CODEC_STEP, MEASURING_CODEC = 0.076, 25.0
"""Seconds of an average step of the codec, and of measuring it."""
TRAINING_STEP = 0.35
"""Seconds of a training step of the preset tiny."""
TINY_WORK = 8 * 152 * 4 * 192**2
"""Positions in its batch, times depth, times width squared: what a step's work grows with."""
LOOKING = 8.0
"""Seconds of dreaming, writing and drawing."""
PROBLEM_STEP = 0.035
"""Seconds that all controllers together spend on one env step of one problem."""
READING, RUNGS = 30.0, 0.006
"""Seconds of reading the true state and dreaming, and of the other rungs for one env step of one problem."""


def estimate(collection: CollectConfig, codec: CodecConfig, preset: Preset, problem_steps: int) -> dict[str, float]:
    """Estimate the seconds of each stage here; right to a factor of two at best.

    Args:
        collection: what will be recorded; a few of its episodes are recorded here, and forgotten.
        codec: the codec and its training.
        preset: the model and its training.
        problem_steps: env steps in which all problems together are to be solved.
    """
    player = Player(collection)
    player.warm_up()
    start = time.perf_counter()
    for index in range(TIMED_EPISODES):
        player.record(index)
    episode = (time.perf_counter() - start) / TIMED_EPISODES
    player.close()
    slower = RATE / matmul_rate(torch.device("cpu"), torch.float32, 0.2, 1024)
    trunk, packing = preset.model.trunk, preset.train.packing
    work = packing.rows * packing.length * trunk.depth * trunk.width**2 / TINY_WORK
    return {
        "collect": episode * collection.episodes / collection.workers,
        "codec": slower * (MEASURING_CODEC + CODEC_STEP * KINDS[codec.kind].training_steps(codec)),
        "pretrain": slower * TRAINING_STEP * work * preset.train.steps,
        "dream, write, draw": slower * LOOKING,
        "plan": slower * PROBLEM_STEP * problem_steps,
        "diagnose": slower * (READING + RUNGS * problem_steps),
    }


def as_sentence(seconds: Mapping[str, float]) -> str:
    """Format e.g. "about 12 minutes on this machine's CPU, a rough estimate (minutes: collect 1.0; codec 2.0; pretrain 9.0)"."""
    stages = "; ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    return f"about {max(1, round(sum(seconds.values()) / 60))} minutes on this machine's CPU, a rough estimate (minutes: {stages})"
