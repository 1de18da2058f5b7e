"""Every format into every other: recognised by its files, frames and actions keep their places."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.datasets.counter import (
    assert_counts,
    assert_pays,
    assert_pays_nothing,
    counter_episode,
    draw_number,
    write_counter_file,
)
from tests.datasets.toys import make_schema_3, write_toy_file
from worldmodel.datasets.episodes.episode import OUTCOMES, same_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop.convert import FORMATS, Format, convert, recognise
from worldmodel.errors import UserError

pytest.importorskip("pyarrow")

LENGTHS = (3, 5)
EXACT = ("worldmodel", "stable-worldmodel", "minari", "ogbench", "frames")
"""Formats whose pictures are lossless."""


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    write_counter_file(tmp_path / "counter.h5", LENGTHS)
    return tmp_path / "counter.h5"


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_recognised_and_comes_back(counter: Path, format: Format) -> None:
    there = convert(counter, counter.parent / "there.npz" if format == "ogbench" else counter.parent / "there", format)
    assert (there.source, there.target, there.episodes, there.frames) == ("worldmodel", format, 2, 10)
    path = next(path for path in counter.parent.iterdir() if path.stem == "there")
    assert recognise(path) == format
    back = convert(path, counter.parent / "back.h5")
    assert (back.source, back.episodes, back.frames, back.skipped) == (format, 2, 10, 0)
    with EpisodeStore(counter.parent / "back.h5") as store, EpisodeStore(counter) as before:
        for i, length in enumerate(LENGTHS):
            episode = store.episode(i)
            assert_counts(episode, length, 100 * i)
            (assert_pays_nothing if format in ("mp4", "frames") else assert_pays)(episode)
            assert format not in EXACT or np.array_equal(episode.frames, before.episode(i).frames)


@pytest.mark.parametrize("first", ["lerobot", "frames", "minari"])
@pytest.mark.parametrize("second", ["stable-worldmodel", "lerobot", "mp4"])
def test_one_foreign_format_becomes_another(counter: Path, first: Format, second: Format) -> None:
    folder = counter.parent
    convert(counter, folder / "a", first)
    done = convert(folder / "a", folder / "b", second)
    assert (done.source, done.target, done.episodes) == (first, second, 2)
    convert(folder / "b", folder / "c.h5")
    convert(folder / "c.h5", folder / "d", second)
    convert(folder / "d", folder / "e.h5")
    with EpisodeStore(folder / "e.h5") as store:
        for i, length in enumerate(LENGTHS):
            assert_counts(store.episode(i), length, 100 * i)
            (assert_pays_nothing if "frames" == first or second == "mp4" else assert_pays)(store.episode(i))
    assert {path.name for path in folder.iterdir()} == {"counter.h5", "a", "b", "c.h5", "d", "e.h5"}


def test_what_has_no_place_is_named(counter: Path) -> None:
    done = convert(counter, counter.parent / "b", "frames")
    assert {"proprio", "state", "features", "success", "goal_text", "questions", *OUTCOMES} <= set(done.dropped)
    assert not {"frames", "actions", "captions", "views"} & set(done.dropped)
    assert convert(counter, counter.parent / "c", "lerobot").dropped == []
    make_schema_3(counter)
    assert not set(OUTCOMES) & set(convert(counter, counter.parent / "d", "frames").dropped), "what nobody recorded is not lost"


def test_an_episode_file_changes_its_storage(tmp_path: Path) -> None:
    wanted = write_toy_file(tmp_path / "a.h5", (5, 3))
    convert(tmp_path / "a.h5", tmp_path / "raw.h5", storage="raw")
    with EpisodeStore(tmp_path / "raw.h5") as store:
        assert store.storage == "raw" and store.meta["env_id"] == "toy"
        assert all(same_episode(episode, store.episode(i)) for i, episode in enumerate(wanted))


def test_views_go_through_lerobot_and_back(tmp_path: Path) -> None:
    view = counter_episode(4, 500).frames
    write_episodes(tmp_path / "a.h5", [counter_episode(4, views={"main": view})], {"camera": "main"})
    convert(tmp_path / "a.h5", tmp_path / "b", "lerobot")
    convert(tmp_path / "b", tmp_path / "c.h5")
    with EpisodeStore(tmp_path / "c.h5") as store:
        episode = store.episode(0)
    assert_counts(episode, 4)
    assert_counts(counter_episode(4, 500, frames=episode.views["main"]), 4, 500)


def test_pictures_are_resized_on_the_way_and_skipped_ones_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for t in range(4):
            Image.fromarray(draw_number(t, 64 if name == "a" else 48)).save(tmp_path / "in" / name / f"{t}.png")
    (tmp_path / "in" / "b" / "2.png").write_bytes(b"")
    done = convert(tmp_path / "in", tmp_path / "out.h5", size=32, fps=3)
    assert (done.episodes, done.skipped, list(done.reasons)) == (1, 1, ["b"])
    with EpisodeStore(tmp_path / "out.h5") as store:
        assert store.image_size == 32 and store.meta["fps"] == 3 and list(store.meta["skipped"]) == ["b"]
        assert not store.has_actions


def test_mistakes_are_explained_and_leave_nothing(counter: Path, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="no such file or folder"):
        convert(tmp_path / "nowhere", tmp_path / "b.h5")
    with pytest.raises(UserError, match="does not tell a format; give --to"):
        convert(counter, tmp_path / "b")
    with pytest.raises(UserError, match="unknown format 'zarr'"):
        convert(counter, tmp_path / "b", "zarr")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="exists already"):
        convert(counter, counter)
    with pytest.raises(UserError, match="are not resized"):
        convert(counter, tmp_path / "b.h5", size=16)
    for mistake in ({"size": 0}, {"fps": -1.0}):
        with pytest.raises(UserError, match="must be above 0"):
            convert(counter, tmp_path / "b", "mp4", **mistake)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == before
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"nothing")
    for target, format in (("b.h5", None), ("b", "lerobot")):
        with pytest.raises(UserError, match="nothing in .* can be used"):
            convert(tmp_path / "bad", tmp_path / target, format)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == before | {"bad"}
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="none of the known formats"):
        recognise(tmp_path / "other.h5")
    with pytest.raises(UserError, match="none of the known formats"):
        recognise(tmp_path)


NO_ROOM = """
import resource, sys
from pathlib import Path
from worldmodel.datasets.interop.convert import FORMATS, convert
from worldmodel.errors import UserError

source = Path(sys.argv[1])
for room in (100, 3000, 9000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for format in FORMATS:
        try:
            convert(source, source.parent / f"{format}-{room}{'.npz' if format == 'ogbench' else ''}", format)
        except UserError as error:
            print(format, str(error).count("cannot write"))
print("ended well")
"""


def test_a_full_disk_is_one_sentence_for_every_format(tmp_path: Path, root: Path) -> None:
    write_counter_file(tmp_path / "counter.h5", (40, 40))
    command = [sys.executable, "-c", NO_ROOM, str(tmp_path / "counter.h5")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert (done.returncode, said[-1:]) == (0, ["ended well"]), done.stderr
    assert {f"{format} 1" for format in FORMATS if format != "frames"} <= set(said) and not any(line.endswith(" 0") for line in said)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.name.endswith("-100")], "half a file"
