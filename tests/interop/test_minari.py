"""Minari itself: what `create_dataset_from_buffers` makes is read here, what is written here its `load_dataset` reads."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.datasets.counter import assert_counts, draw_number, read_numbers, write_counter_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop import minari as ours

LENGTHS = (5, 3)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with a root folder of its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("minari")


def create(minari: Any, observed: str, discrete: bool = False, **options: Any) -> Any:
    """A data set of counters; `observed`: "pixels" alone, in a "dict", or in the "infos" beside numbers."""
    from minari.data_collector import EpisodeBuffer

    box = gymnasium.spaces.Box
    picture, numbers = box(0, 255, (64, 64, 3), np.uint8), box(-1e3, 1e3, (2,), np.float64)
    space = {"pixels": picture, "dict": gymnasium.spaces.Dict({"rgb": picture, "proprio": numbers}), "infos": numbers}[observed]
    buffers = []
    for i, steps in enumerate(LENGTHS):
        counted = np.arange(steps + 1) + 100 * i
        frames = np.stack([draw_number(int(n), 64) for n in counted])
        felt = np.repeat(counted[:, None], 2, axis=1).astype(np.float64)
        actions = np.arange(steps) % 4 if discrete else felt[:-1].astype(np.float32)
        last = np.arange(1, steps + 1) == steps
        buffers.append(
            EpisodeBuffer(
                seed=7 + i,
                observations={"pixels": frames, "dict": {"rgb": frames, "proprio": felt}, "infos": felt}[observed],
                actions=actions,
                rewards=np.zeros(steps).tolist(),
                terminations=[False] * steps,
                truncations=last.tolist(),
                infos={"rgb_array": frames, "success": np.append(False, last)[:, None]} if observed == "infos" else None,
            )
        )
    return minari.create_dataset_from_buffers(
        "count-v0",
        buffers,
        observation_space=space,
        action_space=gymnasium.spaces.Discrete(4) if discrete else box(-1e3, 1e3, (2,), np.float32),
        **options,
    )


@pytest.mark.parametrize("observed", ["pixels", "dict", "infos"])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("jpeg", [True, False])
def test_what_it_creates_is_read_with_actions_between_their_frames(
    minari: Any, tmp_path: Path, observed: str, data_format: str, jpeg: bool
) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    create(minari, observed, data_format=data_format, jpeg_encoding=jpeg)
    episodes, meta = ours.read(tmp_path / "root" / "count-v0")
    found = list(episodes)
    for i, episode in enumerate(found):
        assert_counts(episode, LENGTHS[i], first=100 * i)
        assert episode.seed == 7 + i
        if observed == "dict":
            assert episode.proprio[:, 1].tolist() == [*range(100 * i, 100 * i + LENGTHS[i] + 1)]
        if observed == "infos":
            assert episode.success.tolist() == [False] * LENGTHS[i] + [True]
    assert meta["source"]["name"] == "count-v0" and "rewards" in meta["dropped"]
    write_episodes(tmp_path / "ours.h5", found, meta)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        assert store.lengths.tolist() == list(LENGTHS) and store.has_actions and not store.has_text("captions")


def test_discrete_actions(minari: Any, tmp_path: Path) -> None:
    create(minari, "pixels", discrete=True)
    episodes, _ = ours.read(tmp_path / "root" / "count-v0")
    assert next(episodes).actions.tolist() == np.eye(4)[[0, 1, 2, 3, 0]].tolist()


def test_what_we_write_it_loads(minari: Any, tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3), action_size=2)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        ours.write(store, tmp_path / "root" / "counted-v3")
        data = minari.load_dataset("counted-v3")
        assert (data.total_episodes, data.total_steps) == (2, 9)
        assert data.action_space.shape == (2,) and data.observation_space["pixels"].dtype == np.uint8
        for i, theirs in enumerate(data):
            mine = store.episode(i)
            assert np.array_equal(theirs.observations["pixels"], mine.frames)
            assert read_numbers(theirs.observations["pixels"][:-1]) == theirs.actions[:, 0].tolist()
            for name in ("state", "proprio", "features"):
                assert np.array_equal(theirs.observations[name], getattr(mine, name))
            assert np.array_equal(theirs.actions, mine.actions) and theirs.rewards.tolist() == mine.success[1:].tolist()
            assert theirs.truncations.tolist() == [False] * (len(mine) - 1) + [True]
            assert data.observation_space.contains({name: rows[0] for name, rows in theirs.observations.items()})
        assert [int(about["seed"]) for about in data.storage.get_episode_metadata(range(2))] == [0, 100]
