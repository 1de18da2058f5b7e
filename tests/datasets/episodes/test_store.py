import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.datasets.toys import make_episode, write_toy_file
from tests.waiting import PATIENCE
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy.h5"


@pytest.fixture
def episodes(path: Path) -> list[Episode]:
    return write_toy_file(path)


@pytest.fixture(params=[False, True], ids=["on disk", "in memory"])
def store(path: Path, episodes: list[Episode], request: pytest.FixtureRequest) -> EpisodeStore:
    return EpisodeStore(path, in_memory=request.param)


def test_gives_back_what_was_written(store: EpisodeStore, episodes: list[Episode]) -> None:
    assert len(store) == len(episodes)
    assert all(same_episode(store.episode(i), episode) for i, episode in enumerate(episodes))
    assert store.meta == {"env_id": "toy", "seed": 0}
    assert store.lengths.tolist() == [5, 3, 40, 7]
    assert (store.num_frames, store.image_size, store.action_size) == (59, 16, 2)


def test_clip_action_leaves_its_frame_and_arrives_at_the_next(store: EpisodeStore, episodes: list[Episode]) -> None:
    clip = store.clip(2, start=13, length=4)
    np.testing.assert_array_equal(clip.frames, episodes[2].frames[13:18])
    np.testing.assert_array_equal(clip.actions, episodes[2].actions[13:17])
    assert clip.action_texts == episodes[2].action_texts[13:17]
    assert (clip.episode, clip.start) == (2, 13)


def test_clip_of_action_blocks_joins_the_actions_between_its_frames(store: EpisodeStore, episodes: list[Episode]) -> None:
    clip = store.clip(3, start=1, length=2, action_block=3)
    np.testing.assert_array_equal(clip.frames, episodes[3].frames[[1, 4, 7]])
    np.testing.assert_array_equal(clip.actions[1], np.concatenate(episodes[3].actions[4:7]))
    assert clip.action_texts[0] == "action: 3 1; action: 3 2; action: 3 3"


@pytest.mark.parametrize("arguments", [(1, 0, 4), (1, -1, 2), (1, 0, 0), (1, 2, 1, 2)])
def test_clip_that_leaves_its_episode_is_refused(store: EpisodeStore, arguments: tuple[int, ...]) -> None:
    store.clip(1, 0, 3)  # the whole episode fits
    with pytest.raises(ValueError, match="3 actions"):
        store.clip(*arguments)


def test_single_frames_with_their_texts(store: EpisodeStore, episodes: list[Episode]) -> None:
    for i, t in [(0, 0), (1, 3), (2, 17), (3, 7)]:
        np.testing.assert_array_equal(store.frame(i, t), episodes[i].frames[t])
        assert store.caption(i, t) == episodes[i].captions[t]
        assert store.question(i, t) == (episodes[i].questions[t], episodes[i].answers[t])
    with pytest.raises(IndexError, match="frame 4"):
        store.frame(1, 4)
    with pytest.raises(IndexError, match="episode 4"):
        store.caption(4, 0)


def test_rows_pick_the_same_frames_and_features(store: EpisodeStore, episodes: list[Episode]) -> None:
    rows = np.random.default_rng(0).permutation(store.frame_rows([1, 2]))
    joined = np.concatenate([episodes[1].frames, episodes[2].frames])
    np.testing.assert_array_equal(store.frames(rows), joined[rows - 6])
    np.testing.assert_array_equal(
        store.column("features")[rows[0]],
        np.concatenate([episodes[1].features, episodes[2].features])[rows[0] - 6],
    )
    assert store.texts("captions")[6:10] == episodes[1].captions
    assert store.texts("policy") == ["random"] * 4


def test_changing_what_was_read_changes_nothing(store: EpisodeStore, episodes: list[Episode]) -> None:
    store.clip(0, 0, 2).frames[:] = 0
    store.column("actions")[:] = 0
    assert same_episode(store.episode(0), episodes[0])


def test_split_is_seeded_disjoint_and_complete(store: EpisodeStore) -> None:
    train, validation = store.split(seed=3, validation=0.25)
    assert len(validation) == 1 and sorted(train + validation) == [0, 1, 2, 3]
    assert store.split(seed=3, validation=0.25) == (train, validation)
    assert len({tuple(store.split(seed, 0.25)[1]) for seed in range(20)}) > 1


def test_no_split_of_one_episode(path: Path) -> None:
    write_toy_file(path, lengths=(3,))
    with pytest.raises(UserError, match="1 episode"):
        EpisodeStore(path).split(0)


def _read_in_child(store: EpisodeStore, results: multiprocessing.Queue) -> None:
    results.put((store.clip(2, 7, 3).frames.sum(), store.caption(3, 1)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")  # of Python 3.12 on
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_while_this_one_does(store: EpisodeStore, method: str) -> None:
    context = multiprocessing.get_context(method)
    results: multiprocessing.Queue = context.Queue()
    expected = (store.clip(2, 7, 3).frames.sum(), store.caption(3, 1))
    children = [context.Process(target=_read_in_child, args=(store, results)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert results.get(timeout=PATIENCE) == expected
    for child in children:
        child.join()
    assert store.caption(3, 1) == expected[1]


def test_pickles_as_a_path(store: EpisodeStore, episodes: list[Episode]) -> None:
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert same_episode(pickle.loads(pickled).episode(1), episodes[1])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.h5: no such file"):
        EpisodeStore(tmp_path / "nowhere.h5")
    with pytest.raises(UserError, match="is a folder: name an episode file in it"):
        EpisodeStore(tmp_path)


def test_truncated_anywhere_is_refused(path: Path, episodes: list[Episode]) -> None:
    content = path.read_bytes()
    cut = path.with_name("cut.h5")
    places = {0, 1, 8, 47, 48, 100, 512, 2048, len(content) // 2, len(content) - 512, len(content) - 1}
    places |= set(np.random.default_rng(0).integers(0, len(content), 60).tolist())
    for place in places:
        cut.write_bytes(content[:place])
        with pytest.raises(UserError, match="cut.h5 is truncated, damaged or not HDF5; `worldmodel datasets check .*cut.h5 --repair`"):
            EpisodeStore(cut)


def test_damage_is_noticed_or_harmless(path: Path, episodes: list[Episode]) -> None:
    content = path.read_bytes()
    bad = path.with_name("bad.h5")
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(content), 40).tolist():
        bad.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            with EpisodeStore(bad) as store:
                assert all(same_episode(store.episode(i), episode) for i, episode in enumerate(episodes))
        except UserError as error:
            assert "bad.h5" in str(error)
            noticed += 1
    assert noticed > 20


def test_foreign_hdf5_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(UserError, match="another program; `worldmodel datasets convert "):
        EpisodeStore(path)


def test_other_schema_version_is_refused(path: Path, episodes: list[Episode]) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 1
    with pytest.raises(UserError, match="schema version 1, this version reads 3 and 4"):
        EpisodeStore(path)


@pytest.mark.parametrize("column", ["actions", "captions/end", "ep_len", "variation"])
def test_missing_column_is_refused(path: Path, episodes: list[Episode], column: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[column]
    with pytest.raises(UserError, match="toy.h5"):
        EpisodeStore(path)


def test_rows_that_do_not_fit_the_lengths_are_refused(path: Path, episodes: list[Episode]) -> None:
    with h5py.File(path, "r+") as file:
        file["actions"].resize(10, axis=0)
    with pytest.raises(UserError, match="actions has 10 rows, expected 55"):
        EpisodeStore(path)


def test_long_file_survives_many_writes(path: Path) -> None:
    lengths = tuple(int(n) for n in np.random.default_rng(0).integers(1, 90, 40))
    episodes = write_toy_file(path, lengths, size=4)
    with EpisodeStore(path) as store:
        assert all(same_episode(store.episode(i), episode) for i, episode in enumerate(episodes))
        assert same_episode(store.episode(39), make_episode(39, lengths[39], 4))


def test_words_and_changes_of_single_steps(store: EpisodeStore, episodes: list[Episode]) -> None:
    for i, t in [(0, 0), (1, 2), (2, 17), (3, 6)]:
        assert store.action_words(i, t) == episodes[i].action_words[t]
        assert store.change(i, t) == episodes[i].changes[t]
        assert store.goal_text(i) == episodes[i].goal_text
    assert store.clip(2, 3, 2, action_block=2).changes[1] == "; ".join(episodes[2].changes[5:7])
    assert store.clip(2, 3, 2).action_words == episodes[2].action_words[3:5]
    with pytest.raises(IndexError, match="action 3"):
        store.change(1, 3)


def views_of(index: int, rows: int) -> dict[str, np.ndarray]:
    return {camera: np.full((rows, 16, 16, 3), 10 * index + k, np.uint8) for k, camera in enumerate(("side", "back"))}


@pytest.mark.parametrize("in_memory", [False, True])
def test_views_of_additional_cameras(path: Path, in_memory: bool) -> None:
    episodes = [make_episode(i, 4 + i, views=views_of(i, 5 + i)) for i in range(3)]
    write_episodes(path, episodes, {})
    with EpisodeStore(path, in_memory) as store:
        assert store.cameras == ["back", "side"]
        assert all(same_episode(store.episode(i), episode) for i, episode in enumerate(episodes))
        np.testing.assert_array_equal(store.view(2, "back"), episodes[2].views["back"])
        with pytest.raises(UserError, match="no additional camera 'front'; there are: back, side"):
            store.view(0, "front")
    with pytest.raises(ValueError, match="views of"):
        write_episodes(path.with_name("b.h5"), [episodes[0], make_episode(1)], {})


def test_clips_of_a_file_recorded_in_blocks(path: Path) -> None:
    episode = make_episode(0, 6, actions=np.arange(36, dtype=np.float32).reshape(6, 6))
    write_episodes(path, [episode], {"action_block": 3})
    with EpisodeStore(path) as store:
        assert (store.action_block, store.action_size) == (3, 2)
        clip = store.clip(0, start=3, length=2, action_block=6)
        np.testing.assert_array_equal(clip.frames, episode.frames[[1, 3, 5]])
        np.testing.assert_array_equal(clip.actions, episode.actions[1:5].reshape(2, 12))
        assert clip.action_texts[0] == "; ".join(episode.action_texts[1:3]) and clip.start == 3
        for start, block in ((0, 4), (1, 3)):
            with pytest.raises(UserError, match="recorded in blocks of 3 actions"):
                store.clip(0, start, 1, block)
        with pytest.raises(ValueError, match="has 18 actions"):
            store.clip(0, 6, 3, 6)
        sampler = ClipSampler(store, [0], length=2, action_block=6)
        rng = np.random.default_rng(0)
        assert {sampler.draw(rng).start for _ in range(40)} == {0, 3, 6}
        with pytest.raises(UserError, match="multiple of 3"):
            ClipSampler(store, [0], length=1, action_block=4)


def test_clip_without_texts_and_what_is_there(store: EpisodeStore, episodes: list[Episode]) -> None:
    clip = store.clip(2, 3, 2, action_block=2, texts=False)
    np.testing.assert_array_equal(clip.frames, episodes[2].frames[[3, 5, 7]])
    assert clip.action_texts == clip.action_words == clip.changes == ["", ""]
    assert store.has_actions and store.has_text("captions") and store.storage == "lossless"
    with pytest.raises(ValueError, match="no text column 'frames'"):
        store.has_text("frames")
