"""Folders of videos and of pictures: what lies beside them, what is left out, and both ways."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.counter import assert_counts, counter_episode, draw_number, read_numbers, write_counter_file
from tests.datasets.toys import write_toy_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.interop import folders
from worldmodel.datasets.video import VideoWriter
from worldmodel.errors import UserError


def write_video(path: Path, numbers: range, size: int = 32, fps: float = 10, crf: int = 18) -> None:
    with VideoWriter(path, fps, crf) as video:
        for number in numbers:
            video.add(draw_number(number, size))


def write_actions(path: Path, rows: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".csv":
        np.savetxt(path, rows, delimiter=",", header="push", comments="", fmt="%.8g")
    else:
        path.write_text("".join(json.dumps({"action": row} if i % 2 else row) + "\n" for i, row in enumerate(rows.tolist())))


@pytest.mark.parametrize("ending", [".npy", ".csv", ".jsonl"])
@pytest.mark.parametrize("surplus", [0, 1])
def test_actions_beside_a_video_lead_from_frame_to_frame(tmp_path: Path, ending: str, surplus: int) -> None:
    for i in (0, 1):
        write_video(tmp_path / f"{i}.mp4", range(100 * i, 100 * i + 6))
        write_actions(tmp_path / f"{i}.actions{ending}", np.arange(100 * i, 100 * i + 5 + surplus)[:, None].astype(float))
    (tmp_path / "0.txt").write_text("\n".join(f"number {t}" for t in range(6)) + "\n")
    (tmp_path / "1.txt").write_text("somebody counts")
    read, meta = folders.read(tmp_path)
    first, second = read
    assert_counts(first, 5)
    assert_counts(second, 5, 100)
    assert first.captions == [f"number {t}" for t in range(6)]
    assert second.captions == ["somebody counts"] * 6
    assert (meta["fps"], meta["skipped"], meta["action_names"]) == (10, {}, ["a0"])


def test_video_without_actions(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", range(4))
    (episode,) = folders.read(tmp_path / "a.mp4")[0]
    assert episode.actions.shape == (3, 0) and read_numbers(episode.frames) == [0, 1, 2, 3]
    assert set(episode.captions + episode.action_texts) == {""}


def test_pictures_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for t in range(12):
        Image.fromarray(draw_number(t)).save(tmp_path / f"frame_{t}.png")
    (tmp_path / "._frame_0.png").write_bytes(b"what a Mac leaves behind")
    np.save(tmp_path / "actions.npy", np.arange(11))
    (episode,) = folders.read(tmp_path)[0]
    assert_counts(episode, 11)


def test_a_folder_of_folders_of_pictures_and_a_folder_of_pictures(tmp_path: Path) -> None:
    for name, ending in (("b", "jpg"), ("a", "png")):
        (tmp_path / name).mkdir()
        for t in range(12):
            Image.fromarray(draw_number(t)).save(tmp_path / name / f"{t:06d}.{ending}")
        np.save(tmp_path / name / "actions.npy", np.arange(11))
        (tmp_path / name / "captions.txt").write_text(f"folder {name}")
    read, meta = folders.read(tmp_path)
    first, second = read
    assert_counts(first, 11)
    assert_counts(second, 11)
    assert (first.captions[0], second.captions[0], meta["source"]["format"]) == ("folder a", "folder b", "frames")
    (alone,) = folders.read(tmp_path / "b", fps=3)[0]
    assert_counts(alone, 11)


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_video(tmp_path / "good.mp4", range(5))
    np.save(tmp_path / "good.actions.npy", np.arange(4.0))
    whole = (tmp_path / "good.mp4").read_bytes()
    bad = {"empty": b"", "cut": whole[: len(whole) * 2 // 3], "text": b"no video at all", "end": whole[:-1]}
    for name, data in bad.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
        np.save(tmp_path / f"{name}.actions.npy", np.arange(4.0))
    others: dict[str, Any] = {"short": np.arange(2.0), "long": np.arange(9.0), "nan": np.full(4, np.nan)}
    others["object"] = np.array([{"a": 1}] * 4, dtype=object)
    for name, actions in others.items():
        (tmp_path / f"{name}.mp4").write_bytes(whole)
        np.save(tmp_path / f"{name}.actions.npy", actions)
    (tmp_path / "none.mp4").write_bytes(whole)
    write_video(tmp_path / "one.mp4", range(1))
    np.save(tmp_path / "one.actions.npy", np.zeros((0, 1)))
    with caplog.at_level(logging.WARNING):
        read, meta = folders.read(tmp_path)
        (episode,) = read
    assert_counts(episode, 4)
    assert set(meta["skipped"]) == {f"{name}.mp4" for name in (*bad, *others, "none", "one")}
    assert all(name in caplog.text for name in meta["skipped"])
    assert "2 rows of actions for 5 frames" in meta["skipped"]["short.mp4"] and "1 frames" in meta["skipped"]["one.mp4"]


@settings(deadline=None, max_examples=15)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_video_cut_off_anywhere_is_never_taken_for_whole(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_video(folder / "a.mp4", range(5), crf=30)
    whole = (folder / "a.mp4").read_bytes()
    (folder / "a.mp4").write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(UserError, match="nothing in .* can be used"):
        list(folders.read(folder)[0])


def test_pictures_that_are_damaged_or_of_several_sizes(tmp_path: Path) -> None:
    for name in ("bad", "good", "mixed"):
        (tmp_path / name).mkdir()
        for t in range(3):
            Image.fromarray(draw_number(t, 64 if name == "mixed" and t == 2 else 32)).save(tmp_path / name / f"{t}.png")
    (tmp_path / "bad" / "1.png").write_bytes((tmp_path / "bad" / "1.png").read_bytes()[:60])
    (tmp_path / "none").mkdir()
    read, meta = folders.read(tmp_path)
    assert len(list(read)) == 1 and set(meta["skipped"]) == {"bad", "mixed", "none"}
    read, meta = folders.read(tmp_path, size=16)
    assert [read_numbers(episode.frames) for episode in read] == [[0, 1, 2]] * 2 and set(meta["skipped"]) == {"bad", "none"}


def test_sizes(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "wide.mp4", 10) as video:
        for number in range(3):
            video.add(np.pad(draw_number(number), ((0, 0), (16, 16), (0, 0)), constant_values=128))
    write_video(tmp_path / "z.mp4", range(3))
    with pytest.raises(UserError, match="z.mp4 has frames of 32x32 pixels, those before it 32x64; give --size"):
        list(folders.read(tmp_path)[0])
    cropped = list(folders.read(tmp_path, size=32)[0])
    assert all(read_numbers(episode.frames) == [0, 1, 2] for episode in cropped)
    padded, _ = folders.read(tmp_path, size=32, fit="pad")[0]
    assert padded.frames.shape == (3, 32, 32, 3) and padded.frames[:, :7].max() < 20  # a bar above


def test_a_long_video_becomes_several_episodes_that_lose_no_transition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", range(20))
    np.save(tmp_path / "a.actions.npy", np.arange(19))
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(20))))
    monkeypatch.setattr(folders, "EPISODE_BYTES", 8 * 32 * 32 * 3)
    episodes = list(folders.read(tmp_path)[0])
    assert [episode.actions[:, 0].tolist() for episode in episodes] == [list(range(7)), list(range(7, 14)), list(range(14, 19))]
    for episode in episodes:
        assert_counts(episode, len(episode), int(episode.actions[0, 0]))
        assert episode.captions == [str(number) for number in read_numbers(episode.frames)]


def test_a_long_video_whose_actions_do_not_fit_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "EPISODE_BYTES", 8 * 32 * 32 * 3)
    for name, rows in (("fits", 19), ("long", 40), ("short", 15)):
        write_video(tmp_path / f"{name}.mp4", range(20))
        np.save(tmp_path / f"{name}.actions.npy", np.arange(rows))
    (tmp_path / "fits.txt").write_text("\n".join(f"line {i}" for i in range(30)))  # not a line per frame: of all frames
    read, meta = folders.read(tmp_path)
    episodes = list(read)
    assert sum(map(len, episodes)) == 19 and set(meta["skipped"]) == {"long.mp4", "short.mp4"}
    assert all(caption.startswith("line 0 line 1 ") for episode in episodes for caption in episode.captions)
    assert "40 rows of actions for 20 frames" in meta["skipped"]["long.mp4"]


def test_a_row_of_a_csv_file_is_never_taken_for_its_head(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", range(4))
    tables = {"nan,0\n1,1\n2,2\n3,3\n": "not finite", "": "as a table", "x,y\n": "0 rows", "1,2\n3\n": "as a table"}
    tables |= {"0,1\n.1,.2\n.3,.4\n.5,.6\n": "may number its columns", ",x\n0,.1\n1,.2\n2,.3\n": "may number its columns"}
    for text, reason in tables.items():
        (tmp_path / "a.actions.csv").write_text(text)
        with pytest.raises(UserError, match=reason):
            list(folders.read(tmp_path)[0])
    (tmp_path / "a.actions.csv").unlink()
    np.save(tmp_path / "a.actions.npy", np.float32(1))
    with pytest.raises(UserError, match="as a table"):
        list(folders.read(tmp_path)[0])


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("12:30.mp4"), range(3), fps=5)
    read, meta = folders.read(Path("12:30.mp4"))
    assert [read_numbers(episode.frames) for episode in read] == [[0, 1, 2]] and meta["fps"] == 5


def test_pictures_keep_frames_actions_and_captions_exactly(tmp_path: Path) -> None:
    wanted = write_toy_file(tmp_path / "a.h5", (5, 3))
    folders.write_pictures(EpisodeStore(tmp_path / "a.h5"), tmp_path / "b")
    for before, after in zip(wanted, folders.read(tmp_path / "b")[0], strict=True):
        assert np.array_equal(before.frames, after.frames) and np.array_equal(before.actions, after.actions)
        assert before.captions == after.captions


@settings(deadline=None, max_examples=4)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3), action_size=st.integers(0, 2), crf=st.sampled_from([0, 18]))
def test_videos_keep_actions_and_frames(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], action_size: int, crf: int
) -> None:
    folder = tmp_path_factory.mktemp("videos")
    wanted = write_counter_file(folder / "a.h5", tuple(lengths), action_size=action_size)
    folders.write_videos(EpisodeStore(folder / "a.h5"), folder / "b", fps=5, crf=crf)
    read, meta = folders.read(folder / "b")
    for i, (before, after) in enumerate(zip(wanted, read, strict=True)):
        assert_counts(after, lengths[i], 100 * i)
        assert after.captions == before.captions and after.actions.shape[1] == action_size
        assert crf or np.array_equal(before.frames, after.frames)
    assert meta["fps"] == 5


def test_odd_sizes_can_be_written(tmp_path: Path) -> None:
    frames = np.pad(counter_episode(3).frames, ((0, 0), (0, 1), (0, 1), (0, 0)))
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for frame in frames:
            video.add(frame)
    (episode,) = folders.read(tmp_path / "a.mp4")[0]
    assert episode.frames.shape == (4, 33, 33, 3) and np.abs(episode.frames.astype(int) - frames).mean() < 3


def test_nothing_to_read_and_nowhere_to_write(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._a.mp4").write_bytes(b"hidden")
    with pytest.raises(UserError, match="no video, and no folder"):
        folders.read(tmp_path / "empty")
    write_counter_file(tmp_path / "a.h5", (2,))
    for write in (folders.write_videos, folders.write_pictures):
        with pytest.raises(UserError, match="empty exists already"):
            write(EpisodeStore(tmp_path / "a.h5"), tmp_path / "empty")
