"""What a verb may write, where, and over what."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.datasets.films import ENDINGS, LEAST_WIDTH, LEAST_WITH_WORDS, STRIP, captioned, labelled, paced, write_film
from worldmodel.datasets.outputs import MARK, check_output, holds, json_bytes, png_bytes, write_output
from worldmodel.datasets.video import decode
from worldmodel.errors import UserError


def refused(path: Path, words: str, **settings: object) -> None:
    before = path.read_bytes() if len(path.name) < 255 and path.is_file() else None
    with pytest.raises(UserError, match=words):
        check_output(path, **settings)  # type: ignore[arg-type]
    assert before is None or path.read_bytes() == before


def test_only_what_worldmodel_made_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html>thesis</html>")
    refused(path, "page.html exists and was not made by worldmodel.*--overwrite")
    check_output(path, overwrite=True)
    path.write_text(f"<meta name='generator' content='{MARK}'>" + "x" * 200_000)
    check_output(path)
    path.write_text("x" * 200_000 + MARK)  # an mp4 may have its metadata at the end
    check_output(path)
    path.write_text("x" * 200_000 + MARK + "x" * 200_000)
    refused(path, "not made by worldmodel")
    path.write_text('{"kind": "worldmodel.manifest"}')
    check_output(path, mark="worldmodel.manifest")


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    path, link = tmp_path / "x.png", tmp_path / "link.png"
    path.write_bytes(png_bytes(Image.new("RGB", (4, 4))))
    link.hardlink_to(path)
    for overwrite in (False, True):
        refused(link, "link.png is read by this command", inputs=[tmp_path / "missing", path], overwrite=overwrite)
    check_output(link, inputs=[tmp_path / "other"])


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "x.txt", "must end in .png or .gif", endings=(".png", ".gif"))
    refused(tmp_path, "is a folder", overwrite=True)
    refused(Path("/dev/null"), "no plain file", overwrite=True)
    refused(tmp_path / "file" / "new" / "x.png", "file is a file, not a folder")
    refused(tmp_path / "a\0b.png", "NUL")
    refused(tmp_path / ("x" * 300), "File name too long")
    check_output(tmp_path / "new" / "x.PNG", (".png",))
    assert [each.name for each in tmp_path.iterdir()] == ["file"], "it is looked at, nothing is made"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    refused(tmp_path / "x.png", "disk of .* is full")
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(tmp_path / "x.png", "may not be written to")


def test_a_write_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*x\.json: (Not a directory|File exists)"):
        write_output(tmp_path / "file" / "x.json", b"")
    write_output(tmp_path / "new" / "x.json", b"1")
    assert (tmp_path / "new" / "x.json").read_bytes() == b"1"


def test_everything_that_is_written_can_be_told(tmp_path: Path) -> None:
    frames = np.zeros((3, 16, 18, 3), np.uint8)
    for ending in ENDINGS:
        write_film(tmp_path / f"film{ending}", frames, 4)
    write_output(tmp_path / "x.json", json_bytes({"a": 1}))
    write_output(tmp_path / "x.png", png_bytes(Image.new("RGB", (4, 4))))
    for path in tmp_path.iterdir():
        assert holds(path, MARK), path
        check_output(path)
    assert json.loads((tmp_path / "x.json").read_text()) == {"generator": MARK, "a": 1}
    assert Image.open(io.BytesIO((tmp_path / "x.png").read_bytes())).text["Software"] == MARK  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Out of range"):
        json_bytes({"a": float("nan")})


def test_films_show_every_frame_and_stand_still_at_the_end(tmp_path: Path) -> None:
    frames = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    write_film(tmp_path / "a.mp4", frames, 4, hold=1.0)
    means = [frame.mean() for frame in decode(tmp_path / "a.mp4")]
    np.testing.assert_allclose(means, [0, 50, 100, 150, 200, 200, 200, 200, 200], atol=4)
    write_film(tmp_path / "a.gif", iter(frames), 4, hold=1.0)
    gif, seen, seconds = Image.open(io.BytesIO((tmp_path / "a.gif").read_bytes())), [], 0.0
    for t in range(gif.n_frames):  # type: ignore[attr-defined]
        gif.seek(t)
        seen.append(np.asarray(gif.convert("RGB")).mean())
        seconds += gif.info["duration"] / 1000
    np.testing.assert_allclose(seen, [0, 50, 100, 150, 200], atol=2)
    assert seconds == pytest.approx(9 / 4, abs=0.1) and gif.info["loop"] == 0
    with pytest.raises(UserError, match="must end in .mp4 or .gif"):
        write_film(tmp_path / "a.avi", frames, 4)
    for ending in ENDINGS:
        with pytest.raises(UserError, match=f"there is no frame for .*empty{ending} to show"):
            write_film(tmp_path / f"empty{ending}", [])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


def test_short_films_are_slow_enough_to_follow(tmp_path: Path) -> None:
    assert [paced(count) for count in (2, 4, 10, 30, 600)] == [(2.0, 3.0), (2.0, 2.0), (2.0, 1.5), (5.0, 1.5), (8.0, 1.5)]
    assert paced(12, 4) == (4, 1.5) and paced(4, 4) == (4, 3.0)
    write_film(tmp_path / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8))
    assert len(list(decode(tmp_path / "a.mp4"))) == 8, "four seconds"


def test_small_films_are_enlarged_and_may_say_what_they_show(tmp_path: Path) -> None:
    frames = np.full((2, 8, 32, 3), 90, np.uint8)
    frames[:, :, 16:] = 30
    for ending in ENDINGS:
        write_film(tmp_path / f"a{ending}", frames, 4, 0)
        write_film(tmp_path / f"b{ending}", frames, 4, 0, ("truth", "dream"))
    plain, worded = (next(iter(decode(tmp_path / f"{name}.mp4"))) for name in "ab")
    assert plain.shape == (64, LEAST_WIDTH, 3) and worded.shape == (96 + STRIP, LEAST_WITH_WORDS, 3)
    np.testing.assert_allclose(worded[STRIP + 4 :, [100, 300], 0].mean(axis=0), [90, 30], atol=4)
    assert all(worded[:STRIP, half].min() < 100 for half in (slice(0, 100), slice(192, 292))), "words above both halves"
    assert worded[:STRIP, 100:190].min() > 200
    sizes = [Image.open(io.BytesIO((tmp_path / f"{name}.gif").read_bytes())).size for name in "ab"]
    assert sizes == [(LEAST_WIDTH, 64), (LEAST_WITH_WORDS, 96 + STRIP)]


def test_labels_stand_above_their_rows_and_frames_are_enlarged() -> None:
    rows = [np.full((2, 8, 10, 3), 90, np.uint8), np.full((2, 8, 5, 3), 30, np.uint8)]
    film = labelled(rows, [["one", "two"], ["same", "same"]], least_width=40)
    assert film.shape == (2, 2 * (18 + 4 * 8), 40, 3)
    assert (film[:, 18:50] == 90).all() and (film[:, 68:, :20] == 30).all() and (film[:, 68:, 20:] == 255).all()
    assert (film[0, :18] != film[1, :18]).any() and (film[0, 50:68] == film[1, 50:68]).all() and film[0, 50:68].min() < 100


def test_pictures_are_enlarged_above_their_captions() -> None:
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 200)]
    sheet = np.asarray(captioned(pictures, ["a disc", "a long caption " * 10], least_width=64))
    assert sheet.shape[1] == 2 * 68 + 4 and sheet.shape[0] > 64 + 100
    assert (sheet[4:68, 4:68] == 10).all() and (sheet[4:68, 72:136] == 200).all() and sheet[72:, 4:68].min() < 100
    assert io.BytesIO(png_bytes(Image.fromarray(sheet))).getbuffer().nbytes > 100
