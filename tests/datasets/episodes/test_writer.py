import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.chunks import datasets_of
from worldmodel.datasets.episodes.episode import FRAME_FIELDS, Episode, same_episode
from worldmodel.datasets.episodes.schema import STORAGES, expected_rows
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import EpisodeWriter, write_episodes
from worldmodel.errors import UserError


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    write_toy_file(tmp_path / "a.h5")
    write_toy_file(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write_toy_file(path)
    assert path.read_text() == "precious"


def test_error_in_between_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), EpisodeWriter(tmp_path / "a.h5", {}) as writer:
        writer.append(make_episode())
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        write_episodes(tmp_path / "a.h5", [], {})
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    episodes = [make_episode(0), make_episode(1, size=8)]
    with pytest.raises(ValueError, match=r"episode 1: frames rows have shape \(8, 8, 3\)"):
        write_episodes(tmp_path / "a.h5", episodes, {})
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import sys
from pathlib import Path
from tests.datasets.toys import write_toy_file
from worldmodel.errors import UserError
try:
    write_toy_file(Path(sys.argv[1]), lengths=(30,) * 40)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [5_000, 60_000, 700_000])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, root: Path, room: int) -> None:
    """A limit on the size of files stands for the full disk: the same error from the same system call."""
    path = tmp_path / "a.h5"
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        cwd=root,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert process.returncode == 0, process.stderr  # HDF5 crashes at exit after a failed write unless it is kept from it
    assert process.stdout == f"cannot write {path}: File too large; make room and try again\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("lengths", [(5, 3), (40, 7, 90, 300)])
def test_appending_gives_the_file_that_one_writer_would(tmp_path: Path, storage: str, lengths: tuple[int, ...]) -> None:
    episodes = [make_episode(i, n, 8) for i, n in enumerate((*lengths, 17, 30))]
    write_episodes(tmp_path / "whole.h5", episodes, {"seed": 3}, storage)
    write_episodes(tmp_path / "grown.h5", episodes[:-2], {"seed": 3}, storage)
    for episode in episodes[-2:]:
        with EpisodeWriter(tmp_path / "grown.h5", {"seed": 4}, append=True) as writer:
            writer.append(episode)
    with EpisodeStore(tmp_path / "whole.h5") as whole, EpisodeStore(tmp_path / "grown.h5") as grown:
        assert grown.meta == {"seed": 3} and grown.storage == storage and len(grown) == len(episodes)
        assert all(same_episode(grown.episode(i), whole.episode(i)) for i in range(len(episodes)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown.h5", "whole.h5"]


def test_appending_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_toy_file(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="at least one"), EpisodeWriter(path, {}, append=True):
        pass
    with pytest.raises(KeyError), EpisodeWriter(path, {}, append=True) as writer:
        writer.append(make_episode(9, 600))
        raise KeyError
    with pytest.raises(UserError, match=r"episode 4 does not fit .*a.h5: frames rows"), EpisodeWriter(path, {}, append=True) as writer:
        writer.append(make_episode(9, size=8))
    with pytest.raises(UserError, match=r"episode 4 does not fit .*a.h5: views"), EpisodeWriter(path, {}, append=True) as writer:
        writer.append(make_episode(9, views={"side": make_episode(9).frames}))
    with pytest.raises(UserError, match=r"b.h5: no such file"):
        EpisodeWriter(tmp_path / "b.h5", {}, append=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_full_disk_while_appending_leaves_the_old_file(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.h5"
    write_toy_file(path)
    before = path.read_bytes()
    append = FULL_DISK.replace("write_toy_file(Path(sys.argv[1]), lengths=(30,) * 40)", "append()").replace(
        "try:",
        "from tests.datasets.toys import make_episode\nfrom worldmodel.datasets.episodes.writer import EpisodeWriter\n"
        "def append():\n with EpisodeWriter(Path(sys.argv[1]), {}, append=True) as writer:\n"
        "  for i in range(40): writer.append(make_episode(i, 30))\ntry:",
    )
    for room in (10_000, len(before) + 50_000):
        process = subprocess.run(
            [sys.executable, "-c", append, path],
            cwd=root,
            capture_output=True,
            text=True,
            preexec_fn=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout == f"cannot write {path}: File too large; make room and try again\n"
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def bare_episode(index: int, **changes: np.ndarray) -> Episode:
    """Of foreign data: frames, and nothing else."""
    empty = {"proprio": np.zeros((6, 0), np.float32), "state": np.zeros((6, 0)), "features": np.zeros((6, 0), np.float32)}
    texts = {name: [""] * 6 for name in ("captions", "questions", "answers")}
    texts |= {name: [""] * 5 for name in ("action_texts", "action_words", "changes")}
    others = {"actions": np.zeros((5, 0), np.float32), "goal_state": np.zeros(0), "goal_text": "", "policy": "", "variation": {}}
    return make_episode(index, 5, **(empty | texts | others | changes))


@pytest.mark.parametrize("storage", STORAGES)
def test_columns_of_no_width_and_empty_texts(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "a.h5"
    write_episodes(path, [bare_episode(0), bare_episode(1)], {}, storage)
    with EpisodeWriter(path, {}, append=True) as writer:
        writer.append(bare_episode(2))
    for in_memory in (False, True):
        with EpisodeStore(path, in_memory) as store:
            assert not store.has_actions and store.action_size == 0
            assert not any(store.has_text(name) for name in ("captions", "action_texts", "goal_text"))
            clip = store.clip(1, 1, 2, action_block=2)
            assert clip.actions.shape == (2, 0) and clip.action_texts == ["", ""] and len(clip.frames) == 3
            episode = store.episode(2)
            assert (episode.state.shape, episode.goal_state.shape, episode.captions) == ((6, 0), (0,), [""] * 6)
    assert len(FRAME_FIELDS) == 8


@pytest.mark.parametrize("quality", ["flat", "shaded"])
def test_jpeg_frames_are_close_and_small(tmp_path: Path, quality: str) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], np.full((64, 64), 90)], -1).astype(np.uint8)
    frames = np.repeat((picture if quality == "shaded" else picture // 128 * 200)[None], 6, 0)
    write_episodes(tmp_path / "a.h5", [make_episode(0, 5, 64, frames=frames, views={"side": frames[::-1].copy()})], {}, "jpeg")
    for in_memory in (False, True):
        with EpisodeStore(tmp_path / "a.h5", in_memory) as store:
            assert store.storage == "jpeg" and store.image_size == 64
            assert np.abs(store.episode(0).frames.astype(int) - frames).mean() < 3
            assert np.abs(store.view(0, "side").astype(int) - frames[::-1]).mean() < 3
            np.testing.assert_array_equal(store.frames(np.array([4, 1])), store.episode(0).frames[[4, 1]])
            np.testing.assert_array_equal(store.clip(0, 0, 2, 2).frames, store.episode(0).frames[[0, 2, 4]])


def test_unknown_storage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no storage 'png'; there are lossless, raw, jpeg"):
        EpisodeWriter(tmp_path / "a.h5", {}, "png")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_long_meta_changed_on_the_way_is_read_back(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.h5", {"first": "x" * 100_000}) as writer:
        writer.append(make_episode())
        writer.meta["last"] = "é" * 50_000
    with EpisodeStore(tmp_path / "a.h5") as store:
        assert store.meta == {"first": "x" * 100_000, "last": "é" * 50_000}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_cut_off_keeps_its_first_episodes(tmp_path: Path, storage: str) -> None:
    """What finds the chunks lies in front of them, so HDF5 itself reads the start of a file that was cut and filled up."""
    path, cut = tmp_path / "a.h5", tmp_path / "cut.h5"
    write_episodes(path, (make_episode(i, 50, 24) for i in range(60)), {"seed": 7}, storage)
    content = path.read_bytes()
    for share in (0.3, 0.7, 0.95):
        cut.write_bytes(content[: int(len(content) * share)])
        os.truncate(cut, len(content))
        kept = int(60 * share) - 25  # of 60
        rows = expected_rows(np.full(max(kept, 0), 50), [], storage)
        with h5py.File(cut, "r") as file:
            columns = dict(datasets_of(file))
            assert file.attrs["meta"] == b'{"seed": 7}' and columns["ep_len"][: int(60 * share) - 15].tolist() == [50] * (
                int(60 * share) - 15
            )
            for name, count in rows.items():
                assert len(columns[name][:count]) == count


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with EpisodeWriter(path, {"env_id": "toy"}) as writer:
        writer.append(make_episode(0))
        with pytest.raises(UserError, match="written by another process"):
            EpisodeWriter(path, {"env_id": "toy"})
    assert len(EpisodeStore(path)) == 1 and [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_a_file_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(UserError, match="meanwhile"), EpisodeWriter(path, {"env_id": "toy"}) as writer:
        writer.append(make_episode(0))
        path.write_text("somebody's")
    assert path.read_text() == "somebody's" and [file.name for file in tmp_path.iterdir()] == ["a.h5"]
