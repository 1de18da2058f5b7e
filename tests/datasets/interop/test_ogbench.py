"""OGBench's three layouts, made by hand; ours read back, and column by column."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.counter import assert_counts, assert_pays_nothing, draw_number, read_numbers, write_counter_file
from tests.datasets.refusals import refusal
from tests.datasets.toys import make_schema_3, write_toy_file
from worldmodel.datasets.episodes.episode import OUTCOMES, Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop import ogbench
from worldmodel.errors import UserError

LENGTHS = (4, 2)
"""Actions of the two trajectories; trajectory i shows 100 i, 100 i + 1, ..."""


def published(**extra: Any) -> dict[str, np.ndarray]:
    """Columns as they are published: T + 1 rows a trajectory, the last action leads nowhere."""
    numbers = np.concatenate([np.arange(length + 1) + 100 * i for i, length in enumerate(LENGTHS)])
    last = np.concatenate([np.arange(length + 1) == length for length in LENGTHS])
    columns: dict[str, Any] = {
        "observations": np.stack([draw_number(n) for n in numbers]),
        "actions": np.repeat(np.where(last, -5.0, numbers)[:, None], 3, axis=1).astype(np.float32),
        "terminals": last.astype(np.float32),
        "qpos": np.repeat(numbers[:, None], 2, axis=1).astype(np.float64),
        "qvel": numbers[:, None].astype(np.float64),
    }
    return columns | extra


def compact(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ends = columns["terminals"]
    return columns | {"valids": 1 - ends, "terminals": np.minimum(ends + np.append(ends[1:], 1), 1)}


def regular(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    stay = columns["terminals"] == 0
    following = {"next_observations": columns["observations"][np.append(False, stay[:-1])]}
    return {
        name: values[stay] for name, values in (columns | {"terminals": np.append(columns["terminals"][1:], 1)}).items()
    } | following


def read_all(path: Path) -> tuple[list[Episode], dict[str, Any]]:
    episodes, meta = ogbench.read(path)
    return list(episodes), meta


@pytest.mark.parametrize("layout", [published, lambda: compact(published()), lambda: regular(published())])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_actions_lie_between_their_frames(tmp_path: Path, layout: Any, save: Any) -> None:
    save(tmp_path / "a.npz", **layout())
    episodes, meta = read_all(tmp_path / "a.npz")
    assert len(episodes) == 2
    for i, episode in enumerate(episodes):
        assert_counts(episode, LENGTHS[i], first=100 * i)
    assert meta["action_names"] == ["a0", "a1", "a2"] and meta["licence"] == "unknown"


def test_state_is_the_physics_and_the_rest_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "visual-cube.npz", **published(masks=np.ones(8), rewards=np.zeros(8)))
    episodes, meta = read_all(tmp_path / "visual-cube.npz")
    assert np.array_equal(episodes[1].state, np.repeat([[100.0], [101.0], [102.0]], 3, axis=1))
    assert meta["dropped"] == ["masks", "rewards"] and meta["env_id"] == "visual-cube"
    np.savez(tmp_path / "r.npz", **regular(published()))
    episodes, meta = read_all(tmp_path / "r.npz")
    assert episodes[0].state.shape == (5, 0) and meta["dropped"] == ["qpos", "qvel"]


def test_discrete_actions_are_one_of_many(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **published(actions=np.array([0, 2, 1, 3, 0, 1, 1, 0], np.int32)))
    episodes, _ = read_all(tmp_path / "a.npz")
    assert episodes[0].actions.shape == (4, 4) and episodes[0].actions.argmax(1).tolist() == [0, 2, 1, 3]


def test_actions_that_cannot_be_learnt_from_are_refused_with_the_episode(tmp_path: Path) -> None:
    hole = np.repeat(np.arange(8.0)[:, None], 3, axis=1)
    hole[6, 1] = np.nan
    np.savez(tmp_path / "hole.npz", **published(actions=hole))
    assert "episode 1 is damaged or not as its format says (action 1 is not a finite number)" in refusal(
        read_all, tmp_path / "hole.npz"
    )
    np.savez(tmp_path / "minus.npz", **published(actions=np.array([0, -1, 1, 3, 0, 1, 1, 0])))
    assert "its discrete actions go from -1 to 3" in refusal(read_all, tmp_path / "minus.npz")


def test_a_trajectory_of_one_frame_is_left_out_and_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **published(terminals=np.array([1, 0, 0, 0, 1, 0, 0, 1.0])))
    episodes, meta = read_all(tmp_path / "a.npz")
    assert [len(episode) for episode in episodes] == [3, 2] and meta["skipped_episodes"] == 1
    assert_counts(episodes[0], 3, first=1)


def test_what_we_write_is_the_published_layout(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3), action_size=2)
    with EpisodeStore(tmp_path / "ours.h5") as store:
        ogbench.write(store, tmp_path / "theirs.npz")
    with np.load(tmp_path / "theirs.npz") as file:
        assert read_numbers(file["observations"]) == [*range(7), *range(100, 104)] and file["observations"].dtype == np.uint8
        assert file["terminals"].tolist() == [0] * 6 + [1] + [0] * 3 + [1] and file["terminals"].dtype == np.float32
        assert file["actions"][:, 1].tolist() == [*range(6), 0, *range(100, 103), 0] and file["actions"].dtype == np.float32
        assert set(file) == {"observations", "actions", "terminals", "state", "proprio", "success", *OUTCOMES}
        assert np.allclose(file["reward"], [*np.arange(6) + 0.1, 0, *np.arange(100, 103) + 0.1, 0])
        assert np.flatnonzero(file["terminated"]).tolist() == [5, 9] and file["truncated"].dtype == np.bool_


def test_the_way_there_and_back_keeps_numbers(tmp_path: Path) -> None:
    before = write_toy_file(tmp_path / "ours.h5", (5, 3, 9))
    with EpisodeStore(tmp_path / "ours.h5") as store:
        ogbench.write(store, tmp_path / "theirs.npz")
    after, meta = read_all(tmp_path / "theirs.npz")
    for one, other in zip(before, after, strict=True):
        for name in ("frames", "actions", "state", "proprio", "success", *OUTCOMES):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert meta["dropped"] == []


def test_what_nobody_recorded_is_not_written_or_made_of_terminals(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", (6, 3))
    make_schema_3(tmp_path / "ours.h5")
    with EpisodeStore(tmp_path / "ours.h5") as store:
        ogbench.write(store, tmp_path / "theirs.npz")
    with np.load(tmp_path / "theirs.npz") as file:
        assert not set(OUTCOMES) & set(file)
    for episode in read_all(tmp_path / "theirs.npz")[0]:
        assert_pays_nothing(episode)


@settings(deadline=None, max_examples=12)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    np.savez_compressed(folder / "whole.npz", **published())
    data = (folder / "whole.npz").read_bytes()
    (folder / "cut.npz").write_bytes(data[: int(share * len(data))])
    refusal(read_all, folder / "cut.npz")
    shutil.rmtree(folder)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    assert "no such file" in refusal(read_all, tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    assert "it has ['numbers']" in refusal(read_all, tmp_path / "other.npz")
    np.savez(tmp_path / "blind.npz", **published(observations=np.zeros((8, 29), np.float32)))
    assert "without pictures" in refusal(read_all, tmp_path / "blind.npz")
    np.savez(tmp_path / "short.npz", **published(actions=np.zeros((7, 3), np.float32)))
    assert "actions ends early" in refusal(read_all, tmp_path / "short.npz")
    np.savez(tmp_path / "open.npz", **published(terminals=np.zeros(8)))
    assert "last trajectory" in refusal(read_all, tmp_path / "open.npz")
    with zipfile.ZipFile(tmp_path / "flipped.npz", "w") as archive:
        for name in ("observations", "actions", "terminals"):
            archive.writestr(f"{name}.npy", b"no array")
    assert "damaged" in refusal(read_all, tmp_path / "flipped.npz")


def test_nothing_is_overwritten_and_video_alone_has_no_place(tmp_path: Path) -> None:
    write_counter_file(tmp_path / "ours.h5", action_size=0)
    write_counter_file(tmp_path / "acting.h5")
    (tmp_path / "there.npz").write_text("mine")
    with EpisodeStore(tmp_path / "acting.h5") as store, pytest.raises(UserError, match="exists already"):
        ogbench.write(store, tmp_path / "there.npz")
    with EpisodeStore(tmp_path / "ours.h5") as store, pytest.raises(UserError, match="no actions"):
        ogbench.write(store, tmp_path / "new.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["acting.h5", "ours.h5", "there.npz"]


def test_a_column_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **published())
    for shape in (2**62, 10**12, -4):
        with zipfile.ZipFile(tmp_path / "a.npz") as whole, zipfile.ZipFile(tmp_path / "b.npz", "w") as other:
            for name in whole.namelist():
                other.writestr(name, whole.read(name) if name != "terminals.npy" else huge(shape))
        with pytest.raises(UserError, match="b.npz is truncated, damaged"):
            read_all(tmp_path / "b.npz")


def huge(shape: int) -> bytes:
    """The head of an npy file of this many numbers, and four of them."""
    head = str({"descr": "<f4", "fortran_order": False, "shape": (shape,)}).encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(16)
