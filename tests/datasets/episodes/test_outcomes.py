"""Reward, terminated and truncated: those of row t are of action t, whatever is done with the file; schema 3 lacks them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.datasets.counter import assert_counts, assert_pays, assert_pays_nothing, counter_episode, write_counter_file
from tests.datasets.toys import make_episode, make_schema_3
from worldmodel.datasets.episodes.card import card
from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.episodes.combine import merge, split
from worldmodel.datasets.episodes.episode import OUTCOMES, same_episode
from worldmodel.datasets.episodes.inspection import describe, facts
from worldmodel.datasets.episodes.integrity import check, repair
from worldmodel.datasets.episodes.preview import preview
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.episodes.statistics import column_statistics
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.verified_reader import VerifiedStore
from worldmodel.datasets.episodes.writer import EpisodeWriter, write_episodes
from worldmodel.errors import UserError

LENGTHS = (6, 3, 9)
META = {"env_id": "counter", "feature_names": ["nothing"], "action_block": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_counter_file(tmp_path / "count.h5", LENGTHS)
    return tmp_path / "count.h5"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of schema 3."""
    write_counter_file(tmp_path / "old.h5", LENGTHS)
    make_schema_3(tmp_path / "old.h5")
    return tmp_path / "old.h5"


@pytest.mark.parametrize("storage", STORAGES)
def test_they_come_back_with_their_actions(tmp_path: Path, storage: str) -> None:
    episodes = [counter_episode(length, 100 * i) for i, length in enumerate(LENGTHS)]
    write_episodes(tmp_path / "a.h5", episodes, {}, storage)
    for store in (EpisodeStore(tmp_path / "a.h5"), EpisodeStore(tmp_path / "a.h5", in_memory=True), VerifiedStore(tmp_path / "a.h5")):
        for i in range(3):
            assert_pays(store.episode(i))
        assert store.missing_columns == [] and store.has_outcomes
        assert np.array_equal(store.column("reward"), store.column("actions")[:, 0].astype(np.float64) + 0.1)
        assert np.flatnonzero(store.column("terminated")).tolist() == [5, 8, 17]


def test_the_layout_in_the_file(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == 4
        assert [(file[name].dtype, file[name].shape) for name in OUTCOMES] == [(np.float64, (18,)), (bool, (18,)), (bool, (18,))]
        assert file["reward"][6:9].tolist() == [100.1, 101.1, 102.1] and file["terminated"][6:9].tolist() == [False, False, True]


def test_an_episode_checks_them() -> None:
    with pytest.raises(ValueError, match="episode.reward has 5 rows, expected 6"):
        counter_episode(reward=np.zeros(5))
    with pytest.raises(ValueError, match="episode.terminated is int64"):
        counter_episode(terminated=np.zeros(6, np.int64))


def test_they_go_where_their_episodes_go(path: Path, tmp_path: Path) -> None:
    write_episodes(tmp_path / "b.h5", [counter_episode(4, 500), counter_episode(7, 600)], META)
    assert merge([path, tmp_path / "b.h5"], tmp_path / "both.h5") == 5
    parts = split(tmp_path / "both.h5", (0.4, 0.4, 0.2), tmp_path / "parts", seed=3)
    seen = []
    for part in parts:
        with EpisodeStore(part) as store:
            for i in range(len(store)):
                episode = store.episode(i)
                assert_pays(episode)
                seen.append(int(episode.actions[0, 0]))
    assert sorted(seen) == [0, 100, 200, 500, 600]


def test_an_episode_that_pays_otherwise_is_another_one(tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {"reward": np.zeros(6)}), ("c", {"truncated": np.ones(6, np.bool_)})):
        write_episodes(tmp_path / f"{name}.h5", [counter_episode(**changes)], {})
    assert merge([tmp_path / f"{name}.h5" for name in "abc"], tmp_path / "all.h5") == 3
    with EpisodeStore(tmp_path / "all.h5") as store:
        assert len(set(store.identities)) == 1, "what is held out goes by actions and states alone"


@pytest.mark.parametrize("storage", STORAGES)
def test_a_damaged_column_is_found_and_the_rest_is_saved(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "a.h5"
    write_episodes(path, [counter_episode(300, 1000 * i, 8) for i in range(3)], {}, storage)
    with h5py.File(path) as file:
        place = file["reward"].id.get_chunk_info(3).byte_offset  # rows 768 to 899, the last episode's
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 0xFF
    path.write_bytes(content)
    report = check(path)
    assert not report.whole and "column reward cannot be read, first in episode 2 of 3" in str(report.problem)
    assert repair(path) == 2
    with EpisodeStore(tmp_path / "a.repaired.h5") as store:
        assert_pays(store.episode(0))
        assert_pays(store.episode(1))


def test_clips_sum_the_rewards_of_a_model_step(path: Path) -> None:
    clips = ClipDataset(path, num_steps=2, action_block=3, columns=("actions", *OUTCOMES))
    assert len(clips) == 1 + 0 + 4
    batch = clips.batch([0, 2, 4])
    assert batch["reward"].dtype == np.float64 and batch["terminated"].dtype == np.bool_
    np.testing.assert_allclose(batch["reward"], batch["actions"].sum(axis=2) + 3 * 0.1)
    assert batch["terminated"].tolist() == [[False, True], [False, False], [False, True]] and not batch["truncated"].any()


def test_info_card_and_sheet_tell_them(path: Path, tmp_path: Path) -> None:
    with EpisodeStore(path) as store:
        said = dict(facts(store))["reward"]
        found = column_statistics(store)
    assert said == (
        "15.6 to 1837 in an episode, 718.6 on average; 100% of the episodes are terminated at some step; "
        "0% of the episodes are truncated at some step"
    )
    assert found["reward"]["max"] == [208.1] and found["terminated"]["mean"] == [3 / 18]
    preview(path, tmp_path / "sheet.png")


# Schema 3


def test_a_file_of_schema_3_is_read_as_not_recorded(old: Path) -> None:
    for store in (EpisodeStore(old), EpisodeStore(old, in_memory=True), VerifiedStore(old)):
        for i, length in enumerate(LENGTHS):
            assert_counts(store.episode(i), length, 100 * i)
            assert_pays_nothing(store.episode(i))
        assert store.missing_columns == list(OUTCOMES) and not store.has_outcomes
        assert np.isnan(store.column("reward")).sum() == 18 and store.rows("terminated", 2, 5).tolist() == [False] * 3
    batch = ClipDataset(old, 2, 2, OUTCOMES).batch([0, 1])
    assert np.isnan(batch["reward"]).all() and batch["truncated"].tolist() == [[False] * 2] * 2
    assert check(old).whole


def test_info_and_card_say_what_schema_3_lacks(old: Path, tmp_path: Path) -> None:
    words = "not recorded, the file is of schema 3: rewards read as NaN, terminated and truncated as False"
    assert words in describe(old)
    with EpisodeStore(old) as store:
        assert words in card(store)
        found = column_statistics(store)["reward"]
        assert found["count"] == [0] and np.isnan(found["mean"]).all()
    preview(old, tmp_path / "sheet.png")


def test_schema_3_merges_with_schema_4(old: Path, tmp_path: Path) -> None:
    write_episodes(
        tmp_path / "new.h5", [counter_episode(4, 500)], {"env_id": "counter", "feature_names": ["nothing"], "action_block": 1}
    )
    assert merge([old, tmp_path / "new.h5"], tmp_path / "both.h5") == 4
    with EpisodeStore(tmp_path / "both.h5") as store:
        assert store.missing_columns == []
        for i in range(3):
            assert_pays_nothing(store.episode(i))
        assert_pays(store.episode(3))
        assert dict(facts(store))["reward"].endswith("not recorded in 3 of the episodes (NaN)")
    merge([old, tmp_path / "both.h5"], tmp_path / "again.h5")
    with EpisodeStore(tmp_path / "again.h5") as store:
        assert len(store) == 4, "what schema 3 lacks reads the same wherever it is copied to"


@pytest.mark.parametrize("storage", STORAGES)
def test_appending_to_schema_3_makes_it_schema_4(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "a.h5"
    write_episodes(path, [make_episode(i, 200) for i in range(3)], {}, storage)
    make_schema_3(path)
    with EpisodeStore(path) as store:
        before = [store.episode(i) for i in range(3)]
    with EpisodeWriter(path, {}, append=True) as writer:
        writer.append(make_episode(3, 40))
    with VerifiedStore(path) as store:
        assert store.missing_columns == [] and all(same_episode(store.episode(i), before[i]) for i in range(3))
        assert np.array_equal(store.episode(3).reward, make_episode(3, 40).reward)
    assert check(path).whole


def test_a_cut_file_of_schema_3_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_episodes(path, [counter_episode(60, 1000 * i) for i in range(12)], {}, "raw")
    make_schema_3(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    saved = repair(path)
    assert 0 < saved < 12
    with EpisodeStore(tmp_path / "a.repaired.h5") as store:
        for i in range(saved):
            assert_counts(store.episode(i), 60, 1000 * i)
            assert_pays_nothing(store.episode(i))


def test_schema_4_without_a_column_is_not_whole(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["reward"]
    with pytest.raises(UserError, match="reward has no rows, expected 18"):
        EpisodeStore(path)
