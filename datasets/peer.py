"""stable-worldmodel beside us: the same number of frames of its nearest task through its `World.collect`.

Needs the package `stable_worldmodel` (with its `env` and `data` extras); nothing else imports it.
"""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

from worldmodel.datasets.collect import collect
from worldmodel.datasets.recording import CollectConfig
from worldmodel.datasets.speed import Rates, interleave

PEER_TASKS = {
    "worldmodel/TwoRoom-v0": "swm/TwoRoom-v1",
    "worldmodel/PushT-v0": "swm/PushT-v1",
}
"""Our task -> the peer's nearest one."""
PEER_ENVS = 8
"""Environments of the peer's world, as in its own examples."""


def peer_installed() -> bool:
    """Whether the peer can be measured here."""
    return importlib.util.find_spec("stable_worldmodel") is not None


def peer_rates(config: CollectConfig, repeats: int) -> dict[str, Rates]:
    """Frames per second into a file: ours with `config`, and the peer's with as many episodes and random actions."""
    import stable_worldmodel as swm  # type: ignore[import-not-found]

    size = config.image_size
    world: Any = swm.World(PEER_TASKS[config.env], num_envs=PEER_ENVS, image_shape=(size, size), max_episode_steps=config.max_steps)
    world.set_policy(swm.policy.RandomPolicy())

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = collect(CollectConfig(**{**vars(config), "out": Path(folder) / "episodes.h5"}))
        return result.frames / result.seconds

    def theirs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            world.collect(f"{folder}/episodes.h5", episodes=config.episodes, seed=0, format="hdf5")
            return config.episodes * config.max_steps / (time.perf_counter() - start)

    return interleave({"collect": ours, "peer": theirs}, repeats)
