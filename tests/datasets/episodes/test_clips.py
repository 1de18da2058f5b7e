from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError

COLUMNS = ("frames", "actions", "reward", "terminated", "truncated", "state", "proprio", "features", "success")


@pytest.fixture(params=["lossless", "raw"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    write_episodes(tmp_path / "toy.h5", [make_episode(i, n) for i, n in enumerate((5, 3, 40, 7))], {}, request.param)
    return tmp_path / "toy.h5"


def all_windows(episodes: list[Episode], steps: int, block: int) -> list[dict[str, np.ndarray]]:
    """The windows, the plain way."""
    windows = []
    for episode in episodes:
        for start in range(len(episode) - steps * block + 1):
            rows = slice(start, start + steps * block + 1, block)
            done = slice(start, start + steps * block)
            window = {name: getattr(episode, name)[rows] for name in ("frames", "state", "proprio", "features", "success")}
            window |= {name: getattr(episode, name)[done].reshape(steps, -1).any(axis=1) for name in ("terminated", "truncated")}
            window |= {"reward": episode.reward[done].reshape(steps, -1).sum(axis=1)}
            windows.append(window | {"actions": episode.actions[done].reshape(steps, -1)})
    return windows


@pytest.mark.parametrize(("steps", "block"), [(1, 1), (4, 1), (2, 3), (20, 2)])
def test_every_window_once(path: Path, steps: int, block: int) -> None:
    with EpisodeStore(path) as store:
        expected = all_windows([store.episode(i) for i in range(len(store))], steps, block)
    clips = ClipDataset(path, steps, block, COLUMNS)
    assert len(clips) == len(expected)
    order = np.random.default_rng(0).permutation(len(clips))
    batch = clips.batch(order)
    for place, i in enumerate(order):
        for name, rows in expected[i].items():
            assert batch[name].dtype == rows.dtype
            np.testing.assert_array_equal(batch[name][place], rows)
            np.testing.assert_array_equal(clips[i][name], rows)


def test_place_tells_where_a_window_is(path: Path) -> None:
    clips = ClipDataset([path, path], num_steps=4)
    assert [clips.place(i) for i in (0, 1, 2, 39)] == [(0, 0, 0), (0, 0, 1), (0, 2, 0), (0, 3, 0)]
    file, episode, start = clips.place(len(clips) - 1)
    assert (file, episode, start) == (1, 3, 3)
    with EpisodeStore(path) as store:
        np.testing.assert_array_equal(clips[-1]["frames"], store.clip(episode, start, 4).frames)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")  # of Python 3.12 on
@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_a_loader_of_torch_gives_every_window(tmp_path: Path, context: str | None) -> None:
    write_toy_file(tmp_path / "toy.h5")
    clips = ClipDataset(tmp_path / "toy.h5", num_steps=3)
    loader = DataLoader(clips, batch_size=8, shuffle=True, num_workers=2 if context else 0, multiprocessing_context=context)
    batches = list(loader)
    found = sorted(bytes(frames.numpy()) for batch in batches for frames in batch["frames"])
    assert found == sorted(clips[i]["frames"].tobytes() for i in range(len(clips)))
    assert batches[0]["actions"].shape == (8, 3, 2)


def test_chosen_episodes_of_several_files(tmp_path: Path) -> None:
    episodes = write_toy_file(tmp_path / "a.h5")
    write_toy_file(tmp_path / "b.h5", lengths=(6, 9))
    clips = ClipDataset([tmp_path / "a.h5", tmp_path / "b.h5"], num_steps=5, episodes=[[0], [1, 0]])
    assert [clips.place(i) for i in (0, 1, 5, 6)] == [(0, 0, 0), (1, 1, 0), (1, 1, 4), (1, 0, 0)]
    np.testing.assert_array_equal(clips[0]["frames"], episodes[0].frames)
    assert len(ClipDataset(tmp_path / "a.h5", 5, episodes=[3])) == 3
    assert len(clips.__getitems__([3, 0])) == 2


def test_views_and_recorded_blocks(tmp_path: Path) -> None:
    views = {"side": np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)}
    episode = make_episode(0, 6, actions=np.arange(36, dtype=np.float32).reshape(6, 6), views=views)
    write_episodes(tmp_path / "a.h5", [episode], {"action_block": 3})
    clips = ClipDataset(tmp_path / "a.h5", 2, 6, ("views/side", "actions"))
    assert len(clips) == 3 and clips.place(1) == (0, 0, 3)
    np.testing.assert_array_equal(clips[1]["views/side"], views["side"][[1, 3, 5]])
    np.testing.assert_array_equal(clips[1]["actions"], episode.actions[1:5].reshape(2, 12))
    with pytest.raises(UserError, match="multiple of 3"):
        ClipDataset(tmp_path / "a.h5", 2, 4)


def test_what_cannot_be_is_refused(path: Path, tmp_path: Path) -> None:
    write_toy_file(tmp_path / "small.h5", size=8)
    for arguments, words in (
        ((path, 41), "none of 4 episodes holds a clip of 41 steps"),
        ((path, 0), "at least 1 step"),
        ((path, 2, 1, ("captions",)), "no column 'captions'"),
        (([path, tmp_path / "small.h5"], 2), r"frames rows of .*small.h5 have shape \(8, 8, 3\)"),
        (([], 2), "at least one"),
        ((path, 2, 1, ("frames",), [4]), "episodes 0 to 3"),
        (([path, path], 2, 1, ("frames",), [1, 2]), "1 lists of episodes for 2 files"),
    ):
        with pytest.raises(UserError, match=words):
            ClipDataset(*arguments)
    with pytest.raises(IndexError, match="clip 99 asked of"):
        ClipDataset(path, 2)[99]
