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


def folder_of_pictures(folder: Path, names: list[str], frames: list[np.ndarray] | None = None) -> Path:
    """Picture t shows the number t."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        Image.fromarray(draw_number(t) if frames is None else frames[t]).save(folder / name)
    return folder


IN_ORDER = {
    "decimal numbers": ["100.0", "100.25", "100.5", "100.75", "101.0", "101.25"],
    "decimal numbers behind a word": ["t=9.9", "t=10.0", "t=10.05", "t=10.5"],
    "time stamps": ["1700000000.1", "1700000000.15", "1700000000.2", "1700000001.05"],
    "small ones": ["5e-05", "0.0001", "0.25", "0.5"],
    "whole numbers": [str(t) for t in range(12)],
    "two whole numbers": [f"{a}.{b}" for a in (1, 2) for b in range(1, 12)],
    "a number behind another": [f"run2.5_{t}" for t in range(11)],
    "versions": ["1.9.1", "1.10.1", "1.10.2"],
}


@pytest.mark.parametrize("stems", IN_ORDER.values(), ids=IN_ORDER)
def test_pictures_and_episodes_come_in_the_order_of_whatever_numbers_they_have(tmp_path: Path, stems: list[str]) -> None:
    folder_of_pictures(tmp_path / "pictures", [f"{stem}.png" for stem in stems])
    (episode,) = folders.read(tmp_path / "pictures")[0]
    assert read_numbers(episode.frames) == list(range(len(stems)))
    for t, stem in enumerate(stems):
        folder_of_pictures(tmp_path / "episodes" / stem, ["0.png", "1.png"], [draw_number(t)] * 2)
    assert [read_numbers(episode.frames)[0] for episode in folders.read(tmp_path / "episodes")[0]] == list(range(len(stems)))


def test_sixteen_bits_of_grey_and_turned_photographs(tmp_path: Path) -> None:
    grey = [(20 + 10 * t) * 257 * np.ones((32, 32), np.uint16) for t in range(6)]
    folder_of_pictures(tmp_path / "grey", [f"{t}.png" for t in range(6)], grey)
    (episode,) = folders.read(tmp_path / "grey")[0]
    assert episode.frames.mean((1, 2, 3)).tolist() == [20, 30, 40, 50, 60, 70]
    (tmp_path / "turned").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    for t in range(2):
        Image.fromarray(np.rot90(draw_number(t))).save(tmp_path / "turned" / f"{t}.jpg", exif=exif, quality=95)
    (episode,) = folders.read(tmp_path / "turned")[0]
    assert read_numbers(episode.frames) == [0, 1]


def test_pictures_of_floating_point_numbers_or_of_formats_that_are_not_meant_are_left_out(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "good", ["0.png", "1.png"])
    for name, kind in {"eps": "EPS", "floats": "TIFF", "ppm": "PPM"}.items():
        folder_of_pictures(tmp_path / name, ["0.png"])
        picture = Image.fromarray(np.ones((32, 32), np.float32)) if name == "floats" else Image.fromarray(draw_number(1))
        picture.save(tmp_path / name / "1.png", kind)
    read, meta = folders.read(tmp_path)
    assert len(list(read)) == 1 and meta["skipped"] == dict.fromkeys(("eps", "floats", "ppm"), "1.png cannot be decoded")


ACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5]
TABLES = {
    "no head": "\n".join(map(str, ACTIONS)),
    "a name": "push\n" + "\n".join(map(str, ACTIONS)),
    "a name behind a hash": "# push\n" + "\n".join(map(str, ACTIONS)),
    "a name in another alphabet": "сила\n" + "\n".join(map(str, ACTIONS)),
    "the mark of spreadsheets": "\ufeff" + "\n".join(map(str, [*ACTIONS, 0.6])),
    "that mark before a name": "\ufeffpush\r\n" + "\r\n".join(map(str, ACTIONS)),
    "quoted decimal commas": "\n".join(f'"{value:.2f}"'.replace(".", ",") for value in ACTIONS),
    "blank lines": "push\n\n" + "\n\n".join(map(str, ACTIONS)) + "\n\n",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_one_column_of_actions_is_read_as_it_was_written(tmp_path: Path, text: str) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(6)])
    (tmp_path / "actions.csv").write_text(text + "\n", encoding="utf-8")
    (episode,) = folders.read(tmp_path)[0]
    assert episode.actions[:, 0].tolist() == [np.float32(value) for value in ACTIONS] and episode.actions.shape == (5, 1)


COLUMNS = {
    "commas": "x,y\n0,10\n-1,20\n2,30\n3,5\n",
    "names for whole numbers": "x,y\n0,10\n0,20\n0,30\n0,40\n",
    "semicolons and decimal commas": "0,5;1\n-0,25;2\n0,125;3\n1;4\n",
    "tabs": "0.5\t1\n-0.25\t2\n0.125\t3\n1\t4\n",
    "negative whole numbers": "0,-1\n1,2\n0,1\n5,-3\n",
    "names of a position that counts": "x,y\n0,.5\n1,.5\n2,.5\n3,.5\n",
    "numbers that no head could be": "0,1\n.5,.25\n1,2\n0,0\n",
}


@pytest.mark.parametrize("text", COLUMNS.values(), ids=COLUMNS)
def test_several_columns_of_actions(tmp_path: Path, text: str) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(5)])
    (tmp_path / "actions.csv").write_text(text)
    (episode,) = folders.read(tmp_path)[0]
    lines = text.replace(",", "." if ";" in text else ",").replace(";", ",").replace("\t", ",").splitlines()
    expected = [[float(cell) for cell in line.split(",")] for line in lines if not line.startswith("x")]
    assert episode.actions.tolist() == expected


DOUBTFUL = {
    "a head of pandas, one column": ("0\n0.1\n0.2\n0.3\n0.4\n", "may number its columns"),
    "such a head of discrete actions": ("0\n1\n2\n0\n1\n", "may number its columns"),
    "decimal commas": ("0,10\n0,20\n0,30\n0,40\n", "may be decimal commas"),
    "decimal commas of one digit": ("0,1\n0,2\n-0,3\n1,4\n", "may be decimal commas"),
    "decimal commas under one name": ("push\n0,10\n0,20\n0,30\n0,40\n", "may be decimal commas"),
    "an index": ("0,.1\n1,.2\n2,.3\n3,.4\n", "counts its rows"),
    "an index from 1 under a name": ("step,push\n1,.1\n2,.2\n3,.3\n4,.4\n", "counts its rows"),
    "a minus of typographers": ("\u22120.1\n0.2\n0.3\n0.4\n", "as a table of numbers"),
    "a bracket": ("[0.1\n0.2\n0.3\n0.4]\n", "as a table of numbers"),
    "another encoding": ("push\n0.1\n0.2\n0.3\n0.4\n".encode("utf-16"), "as a table of numbers"),
}


@pytest.mark.parametrize(("text", "reason"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_actions_that_could_be_read_in_two_ways_are_refused(tmp_path: Path, text: str | bytes, reason: str) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(5)])
    (tmp_path / "actions.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=reason):
        list(folders.read(tmp_path)[0])


def test_discrete_actions_that_begin_with_0_are_no_head_where_there_is_one_less_than_frames(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(5)])
    (tmp_path / "actions.csv").write_text("0\n1\n2\n0\n")
    (episode,) = folders.read(tmp_path)[0]
    assert episode.actions[:, 0].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [np.complex64, "U3", [("x", "f4")]])
def test_an_array_of_other_things_than_numbers_is_refused(tmp_path: Path, dtype: Any) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(5)])
    np.save(tmp_path / "actions.npy", np.zeros(4, dtype))
    with pytest.raises(UserError, match="which are no plain numbers"):
        list(folders.read(tmp_path)[0])


@pytest.mark.parametrize("after", ["", "\n", "\n\n", "\n\n \n\n", "\r\n\r\n"])
def test_blank_lines_after_the_captions_change_nothing(tmp_path: Path, after: str) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(6)])
    (tmp_path / "captions.txt").write_text("\ufeff" + "\n".join(f"step {t}" for t in range(6)) + after, encoding="utf-8", newline="")
    (episode,) = folders.read(tmp_path)[0]
    assert episode.captions == [f"step {t}" for t in range(6)]


def test_a_frame_without_a_caption_and_a_text_of_several_lines(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(6)])
    (tmp_path / "captions.txt").write_text("a\n\nc\nd\n\n\n")
    assert next(folders.read(tmp_path)[0]).captions == ["a", "", "c", "d", "", ""]
    (tmp_path / "captions.txt").write_text("a text\nof two lines\n\n")
    assert next(folders.read(tmp_path)[0]).captions == ["a text of two lines"] * 6


@pytest.mark.parametrize("lines", [5, 7])
def test_captions_of_almost_as_many_lines_as_frames_are_refused(tmp_path: Path, lines: int) -> None:
    folder_of_pictures(tmp_path, [f"{t}.png" for t in range(6)])
    (tmp_path / "captions.txt").write_text("".join(f"step {t}\n" for t in range(lines)))
    with pytest.raises(UserError, match=f"{lines} lines of captions for 6 frames"):
        list(folders.read(tmp_path)[0])


@pytest.mark.parametrize("shape", [(10**15,), (2**62, 4), (-5,), (10**11,), (10**4000,)])
def test_an_array_larger_than_its_file_takes_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_video(tmp_path / "a.mp4", range(4))
    head = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    (tmp_path / "a.actions.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64))
    episodes, _ = folders.read(tmp_path)
    with pytest.raises(UserError, match="a.actions.npy (is cut off|cannot be read)"):
        list(episodes)
