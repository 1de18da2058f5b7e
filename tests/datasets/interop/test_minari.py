"""Minari data sets, made by hand in the layout of version 0.5.4, read; ours checked key by key."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.counter import (
    assert_counts,
    assert_pays,
    assert_pays_nothing,
    counter_episode,
    draw_number,
    read_numbers,
    write_counter_file,
)
from tests.datasets.refusals import refusal
from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.episode import Episode, not_recorded, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop import minari
from worldmodel.errors import UserError

LENGTHS = (4, 2)
"""Actions of the two episodes; episode i shows 100 i, 100 i + 1, ..."""
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}


def pictures(i: int) -> np.ndarray:
    return np.stack([draw_number(100 * i + t, 64) for t in range(LENGTHS[i] + 1)])


def as_jpeg(frames: np.ndarray) -> list[np.ndarray]:
    def encode(frame: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG")
        return np.frombuffer(buffer.getvalue(), np.uint8)

    return [encode(frame) for frame in frames]


def write_theirs(folder: Path, columns: Any, action_space: dict[str, Any] = BOX, **facts: Any) -> None:
    """A data set; `columns(i)` are the arrays of episode i beside actions and rewards (a list: one row a variable length)."""
    (folder / "data").mkdir(parents=True)
    about = {
        "total_episodes": 2,
        "total_steps": sum(LENGTHS),
        "data_format": "hdf5",
        "dataset_id": "toys/count-v0",
        "minari_version": "0.5.4",
    }
    (folder / "data" / "metadata.json").write_text(json.dumps(about | {"action_space": json.dumps(action_space)} | facts))
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, steps in enumerate(LENGTHS):
            group = file.create_group(f"episode_{i}")
            group.attrs["seed"] = 40 + i
            numbers = np.arange(steps) + 100 * i
            base = {"actions": np.repeat(numbers[:, None], 2, axis=1).astype(np.float32), "rewards": np.zeros(steps)}
            for name, values in (base | columns(i)).items():
                if isinstance(values, list):
                    column = group.create_dataset(name, (len(values),), h5py.vlen_dtype(np.uint8))
                    for row, value in enumerate(values):
                        column[row] = value
                else:
                    group[name] = values


def read_all(path: Path) -> tuple[list[Episode], dict[str, Any]]:
    episodes, meta = minari.read(path)
    return list(episodes), meta


def even(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of one length, as Minari stores JPEG pictures that happen to have one."""
    length = max(map(len, rows))
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


@pytest.mark.parametrize(
    "columns",
    [
        lambda i: {"observations": pictures(i)},
        lambda i: {"observations/image": pictures(i)},
        lambda i: {"observations": np.zeros((LENGTHS[i] + 1, 3)), "infos/rgb": pictures(i)},
        lambda i: {"observations": np.moveaxis(pictures(i), -1, 1)},
        lambda i: {"observations/pixels": as_jpeg(pictures(i))},
        lambda i: {"observations/pixels": even(as_jpeg(pictures(i)))},
        lambda i: {"observations/pixels": pictures(i), "observations/camera": pictures(i)[::-1]},
    ],
)
def test_actions_lie_between_their_frames(tmp_path: Path, columns: Any) -> None:
    write_theirs(tmp_path / "count-v0", columns)
    for path in (tmp_path / "count-v0", tmp_path / "count-v0" / "data"):
        episodes, meta = read_all(path)
        assert [episode.seed for episode in episodes] == [40, 41] and meta["env_id"] == "toys/count-v0"
        for i, episode in enumerate(episodes):
            assert_counts(episode, LENGTHS[i], first=100 * i)


def test_fields_find_their_places_and_the_rest_is_named(tmp_path: Path) -> None:
    def columns(i: int) -> dict[str, Any]:
        rows = np.arange(LENGTHS[i] + 1.0)[:, None]
        return {
            "observations/pixels": pictures(i),
            "observations/side": pictures(i),
            "observations/observation": np.repeat(rows, 4, axis=1),
            "observations/proprio": rows,
            "observations/desired_goal": rows,
            "infos/success": rows[1:, 0] == LENGTHS[i],
        }

    write_theirs(tmp_path / "a-v0", columns, env_spec=json.dumps({"id": "Count-v3"}))
    episodes, meta = read_all(tmp_path / "a-v0")
    assert episodes[0].state[:, 3].tolist() == [0, 1, 2, 3, 4] and episodes[0].proprio.dtype == np.float32
    assert episodes[1].success.tolist() == [False, False, True] and list(episodes[0].views) == ["side"]
    assert meta["dropped"] == ["observations/desired_goal"] and meta["env_id"] == "Count-v3"
    assert meta["source"] == {"format": "minari", "name": "toys/count-v0"} and meta["licence"] == "unknown"


def test_discrete_actions_are_one_of_many_and_parts_lie_side_by_side(tmp_path: Path) -> None:
    def discrete(i: int) -> dict[str, Any]:
        return {"observations": pictures(i), "actions": np.arange(LENGTHS[i]) % 3 + 5}

    write_theirs(tmp_path / "d-v0", discrete, {"type": "Discrete", "dtype": "int64", "start": 5, "n": 4})
    episodes, _ = read_all(tmp_path / "d-v0")
    assert episodes[0].actions.argmax(1).tolist() == [0, 1, 2, 0] and episodes[0].actions.shape == (4, 4)


def test_the_way_there_and_back_loses_nothing(tmp_path: Path) -> None:
    view = {"side": np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), np.uint8)}
    episodes = [make_episode(i, 7, views=view) for i in range(2)]
    write_episodes(tmp_path / "ours.h5", episodes, {"env_id": "toy", "seed": 3, "licence": "MIT"})
    with EpisodeStore(tmp_path / "ours.h5") as store:
        minari.write(store, tmp_path / "toy-v1")
    back, meta = read_all(tmp_path / "toy-v1")
    assert all(same_episode(one, other) for one, other in zip(episodes, back, strict=True))
    assert (meta["env_id"], meta["seed"], meta["licence"]) == ("toy", 3, "MIT")
    assert meta["dropped"] == []


def test_rewards_and_ends_are_those_of_their_actions(tmp_path: Path) -> None:
    def columns(i: int) -> dict[str, Any]:
        last = np.arange(LENGTHS[i]) == LENGTHS[i] - 1
        ends = {"terminations": last & (i == 0), "truncations": last & (i == 1)}
        return {"observations": pictures(i), "rewards": np.arange(LENGTHS[i]) + 100 * i + 0.1} | ends

    write_theirs(tmp_path / "a-v0", columns)
    episodes, meta = read_all(tmp_path / "a-v0")
    assert meta["dropped"] == [] and episodes[0].reward.tolist() == [0.1, 1.1, 2.1, 3.1]
    assert_pays(episodes[0])
    assert episodes[1].truncated.tolist() == [False, True] and not episodes[1].terminated.any()
    write_theirs(tmp_path / "b-v0", lambda i: {"observations": pictures(i), "rewards": np.zeros((LENGTHS[i], 3))})
    episodes, meta = read_all(tmp_path / "b-v0")
    assert_pays_nothing(episodes[0])
    assert meta["dropped"] == ["rewards"], "several rewards a step have no place"


def test_a_recording_that_stops_is_truncated_there_alone(tmp_path: Path) -> None:
    """As Minari's own collector has it; on the way back it is what the environment said again."""
    stopped = counter_episode(3, terminated=np.array([False, True, False]))
    unknown = counter_episode(3, **not_recorded(3))
    write_episodes(tmp_path / "ours.h5", [stopped, unknown], {"env_id": "counter"})
    with EpisodeStore(tmp_path / "ours.h5") as store:
        minari.write(store, tmp_path / "count-v0")
    with h5py.File(tmp_path / "count-v0" / "data" / "main_data.hdf5") as file:
        assert file["episode_0/truncations"][:].tolist() == file["episode_1/truncations"][:].tolist() == [False, False, True]
        assert file["episode_0/terminations"][:].tolist() == [False, True, False] and np.isnan(file["episode_1/rewards"][:]).all()
    back, _ = read_all(tmp_path / "count-v0")
    assert same_episode(back[0], stopped) and same_episode(back[1], unknown)


def test_notes_of_an_earlier_conversion_give_way_to_new_ones(tmp_path: Path) -> None:
    write_theirs(tmp_path / "a-v0", lambda i: {"observations": pictures(i)}, worldmodel_meta={"dropped": ["x"], "licence": "MIT"})
    _, meta = read_all(tmp_path / "a-v0")
    assert (meta["dropped"], meta["licence"], meta["source"]["format"]) == ([], "MIT", "minari")
    write_theirs(tmp_path / "b-v0", lambda i: {"observations": pictures(i)}, worldmodel_meta=["no meta data"])
    assert read_all(tmp_path / "b-v0")[1]["licence"] == "unknown"


def test_what_does_not_fit_is_refused_with_the_episode(tmp_path: Path) -> None:
    write_theirs(tmp_path / "lost-v0", lambda i: {"observations" if i == 0 else "other": pictures(i)})
    assert "episode 1" in refusal(read_all, tmp_path / "lost-v0")
    write_theirs(tmp_path / "short-v0", lambda i: {"observations": pictures(i)[: (5, 2)[i]]})
    assert "episode 1" in refusal(read_all, tmp_path / "short-v0")
    high = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 2}
    write_theirs(tmp_path / "high-v0", lambda i: {"observations": pictures(i), "actions": np.arange(LENGTHS[i])}, high)
    assert "discrete actions go from 0 to 3" in refusal(read_all, tmp_path / "high-v0")
    write_theirs(tmp_path / "idle-v0", lambda i: {"observations": pictures(i)})
    with h5py.File(tmp_path / "idle-v0" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
    assert "it has no actions" in refusal(read_all, tmp_path / "idle-v0")


def test_what_we_write_is_their_layout(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3))
    with EpisodeStore(tmp_path / "ours.h5") as store:
        minari.write(store, tmp_path / "count-v2")
    about = json.loads((tmp_path / "count-v2" / "data" / "metadata.json").read_text())
    assert (about["dataset_id"], about["total_episodes"], about["total_steps"], about["jpeg_encoding"]) == ("count-v2", 2, 9, False)
    spaces = json.loads(about["observation_space"])["subspaces"]
    assert set(spaces) == {"pixels", "state", "proprio", "features"} and spaces["pixels"]["shape"] == [32, 32, 3]
    with h5py.File(tmp_path / "count-v2" / "data" / "main_data.hdf5") as file:
        group = file["episode_1"]
        assert read_numbers(group["observations/pixels"][:]) == [100, 101, 102, 103]
        assert group["actions"][:, 0].tolist() == [100, 101, 102] and group["rewards"][:].tolist() == [100.1, 101.1, 102.1]
        assert group["terminations"][:].tolist() == [False, False, True] and not group["truncations"][:].any()
        assert group["infos/captions"][2].decode() == "the number 102"
        assert dict(group.attrs) == {"id": 1, "total_steps": 3, "seed": 100}


@settings(deadline=None, max_examples=10)
@given(share=st.floats(0, 0.999), name=st.sampled_from(["main_data.hdf5", "metadata.json"]))
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, share: float, name: str) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_theirs(folder / "a-v0", lambda i: {"observations": pictures(i)})
    path = folder / "a-v0" / "data" / name
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refusal(read_all, folder / "a-v0")
    shutil.rmtree(folder)


def test_other_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    assert "no Minari data set" in refusal(read_all, tmp_path)
    write_theirs(tmp_path / "blind-v0", lambda i: {"observations": np.zeros((LENGTHS[i] + 1, 3))})
    assert "without pictures" in refusal(read_all, tmp_path / "blind-v0")
    write_theirs(tmp_path / "short-v0", lambda i: {"observations": pictures(i)}, total_episodes=3)
    assert "truncated" in refusal(read_all, tmp_path / "short-v0")
    write_theirs(tmp_path / "empty-v0", lambda i: {"observations": pictures(i)}, total_episodes=0)
    assert "no episodes" in refusal(read_all, tmp_path / "empty-v0")


def test_nothing_is_overwritten_and_video_alone_has_no_place(tmp_path: Path) -> None:
    write_episodes(tmp_path / "ours.h5", [counter_episode(action_size=0)], {"env_id": "counter", "seed": 0})
    write_counter_file(tmp_path / "acting.h5")
    (tmp_path / "there").mkdir()
    with EpisodeStore(tmp_path / "ours.h5") as store, pytest.raises(UserError, match="no actions"):
        minari.write(store, tmp_path / "new-v0")
    with EpisodeStore(tmp_path / "acting.h5") as store, pytest.raises(UserError, match="exists already"):
        minari.write(store, tmp_path / "there")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["acting.h5", "ours.h5", "there"]
