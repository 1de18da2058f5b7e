"""Files in stable-worldmodel's layout, made by hand as version 0.1.1 makes them, read; ours checked column by column."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.counter import (
    assert_counts,
    assert_pays,
    assert_pays_nothing,
    counter_episode,
    draw_number,
    read_numbers,
    write_counter_file,
)
from tests.datasets.refusals import one_line
from tests.datasets.toys import make_episode, make_schema_3
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop import stable_worldmodel
from worldmodel.errors import UserError


def write_theirs(path: Path, lengths: tuple[int, ...] = (5, 3), last: str = "turned", **extra: Any) -> None:
    """A file as `World.collect` leaves it: rows are what followed actions 0, 1, ..., the list of actions turned by one.

    Row t of an episode shows the number t + 1, which follows action t; so action t + 1 leaves it. `last` says what the row
    of the last frame holds: "turned" (the first action), "nan", or "arrived": no turning, the first row is NaN.
    """
    numbers = [np.arange(1, rows + 1) + 100 * i for i, rows in enumerate(lengths)]
    arrived = [(n - 1).astype(np.float32) for n in numbers]
    if last == "arrived":
        actions = [np.concatenate([[np.nan], a[1:]]) for a in arrived]
    else:
        actions = [np.concatenate([a[1:], a[:1] if last == "turned" else [np.nan]]) for a in arrived]
    rows = np.concatenate(numbers)
    columns: dict[str, Any] = {
        "pixels": np.stack([draw_number(n) for n in rows]),
        "action": np.repeat(np.concatenate(actions)[:, None], 2, axis=1).astype(np.float32),
        "state": np.stack([rows] * 3, axis=1).astype(np.float32),
        "proprio": np.stack([rows] * 2, axis=1).astype(np.float64),
        "reward": np.full(len(rows), np.nan),
        "terminated": np.isin(rows, [n[-1] for n in numbers]),
        "step_idx": np.concatenate([np.arange(1, n + 1) for n in lengths]),
        "variation.agent.color": np.tile(np.uint8([255, 0, 7]), (len(rows), 1)),
        "variation.agent.speed": np.full(len(rows), 0.5),
        "goal": np.stack([draw_number(0)] * len(rows)),
        "goal_state": np.full((len(rows), 3), 9.0),
    }
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in (columns | extra).items():
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=(1, *values.shape[1:]))
        file["ep_len"] = np.int32(lengths)
        file["ep_offset"] = np.int64(np.cumsum(lengths) - lengths)


def read_all(path: Path) -> tuple[list[Episode], dict[str, Any]]:
    episodes, meta = stable_worldmodel.read(path)
    return list(episodes), meta


@pytest.mark.parametrize("last", ["turned", "nan", "arrived"])
def test_actions_lie_between_the_frames_they_lie_between(tmp_path: Path, last: str) -> None:
    write_theirs(tmp_path / "a.h5", (5, 3), last)
    episodes, _ = read_all(tmp_path / "a.h5")
    assert [len(episode) for episode in episodes] == [4, 2]
    for i, episode in enumerate(episodes):
        assert_counts(episode, len(episode), first=100 * i + 1)


def test_fields_find_their_places_and_the_rest_is_named(tmp_path: Path) -> None:
    write_theirs(tmp_path / "maze.h5", extra=np.zeros((8, 2)))
    episodes, meta = read_all(tmp_path / "maze.h5")
    first = episodes[0]
    assert np.array_equal(first.state, np.repeat(np.arange(1.0, 6)[:, None], 3, axis=1))
    assert np.array_equal(first.proprio, first.state[:, :2].astype(np.float32))
    assert first.success.tolist() == [False] * 4 + [True]
    assert first.variation == {"agent.color": [255, 0, 7], "agent.speed": 0.5}
    assert first.goal_state.tolist() == [9, 9, 9]
    assert set(first.captions) == {""} and first.action_texts[0] == "action: a0=+1.000, a1=+1.000"
    assert meta["dropped"] == ["extra", "goal"]
    assert np.isnan(first.reward).all() and first.terminated.tolist() == [False, False, False, True] and not first.truncated.any()
    assert (meta["env_id"], meta["licence"], meta["feature_names"]) == ("maze", "unknown", [])
    assert meta["source"] == {"format": "stable-worldmodel", "name": "maze"} and meta["factors"] == ["agent.color", "agent.speed"]


def test_rewards_and_ends_stand_where_their_actions_arrive(tmp_path: Path) -> None:
    arrived = np.concatenate([np.arange(5), 100 + np.arange(3)]) + 0.1  # row t follows action t
    cut = np.array([False] * 7 + [True])
    write_theirs(tmp_path / "a.h5", reward=arrived, terminated=np.arange(8) == 4, truncated=cut)
    episodes, meta = read_all(tmp_path / "a.h5")
    assert "reward" not in meta["dropped"]
    assert_pays(episodes[0])
    assert episodes[1].reward.tolist() == [101.1, 102.1]
    assert episodes[1].truncated.tolist() == [False, True] and not episodes[1].terminated.any()


def test_what_nobody_recorded_is_not_written(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3))
    make_schema_3(tmp_path / "ours.h5")
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5") as file:
        assert not {"reward", "terminated", "truncated"} & set(file)
    for episode in read_all(tmp_path / "theirs.h5")[0]:
        assert_pays_nothing(episode)


def test_pictures_in_other_layouts(tmp_path: Path) -> None:
    numbers = np.arange(1, 9)
    upright = np.stack([draw_number(n) for n in numbers])
    for name, pictures in (("first", np.moveaxis(upright, -1, 1)), ("grey", upright[..., :1]), ("clear", upright[..., [0, 1, 2, 0]])):
        write_theirs(tmp_path / f"{name}.h5", pixels=pictures)
        episodes, _ = read_all(tmp_path / f"{name}.h5")
        assert [read_numbers(episode.frames) for episode in episodes] == [[1, 2, 3, 4, 5], [6, 7, 8]]


def test_additional_cameras(tmp_path: Path) -> None:
    view = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    write_theirs(tmp_path / "a.h5", **{"pixels.side": view, "pixels.small": view[:, :16, :16]})
    episodes, meta = read_all(tmp_path / "a.h5")
    assert list(episodes[1].views) == ["side"] and np.array_equal(episodes[1].views["side"], view[5:])
    assert "pixels.small" in meta["dropped"]


def test_discrete_actions_are_one_of_many(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a.h5", action=np.array([0, 3, 1, 2, 0, 1, 1, 2]))
    episodes, _ = read_all(tmp_path / "a.h5")
    assert episodes[0].actions.argmax(1).tolist() == [0, 3, 1, 2] and episodes[1].actions.argmax(1).tolist() == [1, 1]
    assert all(np.array_equal(episode.actions.sum(1), np.ones(len(episode))) for episode in episodes)


def test_an_episode_of_one_row_is_left_out_and_counted(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a.h5", (1, 3))
    episodes, meta = read_all(tmp_path / "a.h5")
    assert len(episodes) == 1 and meta["skipped_episodes"] == 1
    assert_counts(episodes[0], 2, first=101)


def test_the_way_there_and_back_loses_nothing(tmp_path: Path) -> None:
    size = (8, 12, 12, 3)
    variations = [
        {"color": "red", "wide": 0.5, "n": 3, "mixed": 1, "list": [1, 2]},
        {"color": "blue", "wide": 2, "n": 4, "mixed": "x", "list": [3, 4]},
    ]
    view = {"side": np.random.default_rng(1).integers(0, 256, size, np.uint8)}
    episodes = [make_episode(i, 7, 12, variation=variations[i], views=view) for i in range(2)]
    write_episodes(tmp_path / "ours.h5", episodes, {"env_id": "toy", "seed": 3, "licence": "MIT", "feature_names": ["a", "b"]})
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    back, meta = read_all(tmp_path / "theirs.h5")
    assert all(same_episode(one, other) for one, other in zip(episodes, back, strict=True))
    assert {name: meta[name] for name in ("env_id", "seed", "licence", "feature_names")} == {
        "env_id": "toy", "seed": 3, "licence": "MIT", "feature_names": ["a", "b"]
    }  # fmt: skip
    assert meta["dropped"] == []


def test_notes_of_an_earlier_conversion_give_way_to_new_ones(tmp_path: Path) -> None:
    notes = {"dropped": ["before"], "skipped": {"x": "why"}, "skipped_episodes": 9, "source": {"format": "mp4", "name": "x"}}
    write_episodes(tmp_path / "ours.h5", [counter_episode()], {"env_id": "toy"} | notes)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    _, meta = read_all(tmp_path / "theirs.h5")
    assert meta["env_id"] == "toy" and meta["source"] == {"format": "stable-worldmodel", "name": "theirs"}
    assert meta["dropped"] == [] and "skipped" not in meta and "skipped_episodes" not in meta


def test_what_we_write_has_their_columns(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3))
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5", "r", swmr=True) as file:
        assert file["ep_len"][:].tolist() == [7, 4] and file["ep_len"].dtype == np.int32
        assert file["ep_offset"][:].tolist() == [0, 7] and file["ep_offset"].dtype == np.int64
        assert all(
            isinstance(column, h5py.Dataset) and column.maxshape[0] is None for name, column in file.items() if "ep_" not in name
        )
        assert all(len(file[name]) == 11 for name in file if not name.startswith("ep_"))
        assert file["pixels"].chunks == (1, 32, 32, 3) and file["pixels"].dtype == np.uint8 and file["pixels"].compression is None
        numbers = read_numbers(file["pixels"][:])
        assert numbers == [*range(7), *range(100, 104)]
        action = file["action"][:, 0]
        assert np.isnan(action[[6, 10]]).all() and np.delete(action, [6, 10]).tolist() == [*range(6), *range(100, 103)]
        assert file["step_idx"][:].tolist() == [*range(7), *range(4)]
        assert file["captions"][8].decode() == "the number 101"
        reward = file["reward"][:]
        assert np.isnan(reward[[0, 7]]).all() and reward[[1, 6, 8, 10]].tolist() == [0.1, 5.1, 100.1, 102.1]
        assert np.flatnonzero(file["terminated"][:]).tolist() == [6, 10] and not file["truncated"][:].any()


def test_video_without_actions_has_no_action_column(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (4,), action_size=0)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        stable_worldmodel.write(store, tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5") as file:
        assert "action" not in file
    episodes, _ = read_all(tmp_path / "theirs.h5")
    assert episodes[0].actions.shape == (4, 0) and same_episode(episodes[0], counter_episode(4, action_size=0))


@settings(deadline=None, max_examples=12)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_theirs(folder / "whole.h5")
    data = (folder / "whole.h5").read_bytes()
    (folder / "cut.h5").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError) as error:
        read_all(folder / "cut.h5")
    one_line(error, folder / "cut.h5")
    shutil.rmtree(folder)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UserError) as error:
            read_all(path)
        return one_line(error, path)

    assert "no such file" in refused(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    assert "ep_len" in refused(tmp_path / "other.h5")
    write_theirs(tmp_path / "blind.h5", pixels=np.zeros((8, 4)), goal=np.zeros(8))
    assert "without pictures" in refused(tmp_path / "blind.h5")
    write_theirs(tmp_path / "short.h5", state=np.zeros((6, 3)))
    assert "state does not fit ep_len" in refused(tmp_path / "short.h5")
    hole = np.ones((8, 2), np.float32)
    hole[2] = np.nan
    write_theirs(tmp_path / "hole.h5", action=hole)
    assert "episode 0" in refused(tmp_path / "hole.h5")
    (tmp_path / "table.lance").mkdir()
    assert "dest_format='hdf5'" in refused(tmp_path / "table.lance")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5")
    (tmp_path / "there.h5").write_text("mine")
    with EpisodeStore(tmp_path / "ours.h5") as store, pytest.raises(UserError, match="exists already"):
        stable_worldmodel.write(store, tmp_path / "there.h5")
    assert (tmp_path / "there.h5").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours.h5", "there.h5"]
