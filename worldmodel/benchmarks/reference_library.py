"""stable-worldmodel (the peer) for comparison: its nearest task in its `World.collect`, and episode files in its readers.

Needs the package `stable_worldmodel` (with its `env` and `data` extras); nothing else imports it.
"""

import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.benchmarks.throughput import Rates, interleave
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.episodes.store import EpisodeStore

REFERENCE_TASKS = {
    "worldmodel/TwoRoom-v0": "swm/TwoRoom-v1",
    "worldmodel/PushT-v0": "swm/PushT-v1",
}
"""Task of this package -> the nearest one of stable-worldmodel."""
REFERENCE_FORMATS = ("hdf5", "lance")
"""Formats of stable-worldmodel whose reading speed is compared with that of episode files."""
REFERENCE_ENVS = 8
"""Environments in the world of stable-worldmodel, as in its own examples."""


def reference_installed() -> bool:
    """Test whether stable-worldmodel is installed and can be measured."""
    return importlib.util.find_spec("stable_worldmodel") is not None


def reference_rates(config: CollectConfig, repeats: int) -> dict[str, Rates]:
    """Measure frames per second into a file: ours with `config`, and the reference's with as many episodes and random actions."""
    import stable_worldmodel as swm

    size = config.image_size
    world: Any = swm.World(
        REFERENCE_TASKS[config.env], num_envs=REFERENCE_ENVS, image_shape=(size, size), max_episode_steps=config.max_steps
    )
    world.set_policy(swm.policy.RandomPolicy())

    def local_rate() -> float:
        with tempfile.TemporaryDirectory() as folder:
            result = collect(CollectConfig(**{**vars(config), "out": Path(folder) / "episodes.h5"}))
        return result.frames / result.seconds

    def reference_rate() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            world.collect(f"{folder}/episodes.h5", episodes=config.episodes, seed=0, format="hdf5")
            return config.episodes * config.max_steps / (time.perf_counter() - start)

    return interleave({"collect": local_rate, "reference": reference_rate}, repeats)


def write_reference_files(path: Path, folder: Path, clip_frames: int) -> dict[str, tuple[Any, float]]:
    """Write the frames and actions of an episode file in the reference's formats, by its own writers; nothing where it is missing.

    Args:
        path: the episode file.
        folder: where to write; what is there already is used again.
        clip_frames: frames in an item of the data sets.

    Returns:
        `hdf5` and `lance` -> (the reference implementation's data set, bytes on the disk per frame).
    """
    if not reference_installed():
        return {}
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset, HDF5Writer
    from stable_worldmodel.data.formats.lance import LanceDataset, LanceWriter

    found: dict[str, tuple[Any, float]] = {}
    with EpisodeStore(path) as store:
        for name, writer, reader in (("hdf5", HDF5Writer, HDF5Dataset), ("lance", LanceWriter, LanceDataset)):
            target = folder / f"reference.{'h5' if name == 'hdf5' else name}"
            if not target.exists():
                with writer(target) as file:
                    file.write_episodes(_reference_episodes(store))
            dataset = reader(path=target, num_steps=clip_frames, keys_to_load=["pixels", "action"])
            files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
            found[name] = (dataset, sum(file.stat().st_size for file in files) / store.num_frames)
    return found


def _reference_episodes(store: EpisodeStore) -> Iterator[dict[str, list[np.ndarray]]]:
    """Make episodes as the reference implementation keeps them: as many actions as frames, the last one of no effect."""
    for i in range(len(store)):
        episode = store.episode(i)
        actions = np.concatenate([episode.actions, np.zeros_like(episode.actions[:1])])
        yield {"pixels": list(episode.frames), "action": list(actions)}
