import tempfile
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.combine import PARTS, merge, split
from worldmodel.datasets.episodes.episode import Episode, same_episode
from worldmodel.datasets.episodes.schema import STORAGES
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.verified_reader import VerifiedStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.interop.foreign import foreign_meta
from worldmodel.errors import UserError

META = {"env_id": "toy", "seed": 0, "action_names": ["dx", "dy"], "recipe": {"episodes": 3}}
COUNTED = META | {"feature_names": ["x", "y"], "factors": {"disc.color": {"choices": ["red", "blue"]}}}


def episodes_of(path: Path) -> list[Episode]:
    with EpisodeStore(path) as store:
        return [store.episode(i) for i in range(len(store))]


def meta_of(path: Path) -> dict[str, Any]:
    with EpisodeStore(path) as store:
        return store.meta


@pytest.mark.parametrize("storage", STORAGES)
def test_merged_files_have_all_episodes_in_order(storage: str, tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "new" / "c.h5"
    views = {"side": make_episode(77, 4).frames}
    write_episodes(a, [make_episode(i, 4, views=views) for i in range(3)], COUNTED, storage)
    write_episodes(b, [make_episode(i, 4, views=views) for i in range(3, 5)], COUNTED | {"seed": 1}, storage)
    assert merge([a, b], out) == 5
    expected = episodes_of(a) + episodes_of(b)
    assert all(map(same_episode, episodes_of(out), expected)), "bit for bit, JPEGs are not coded twice"
    with EpisodeStore(out) as store:
        assert store.storage == storage
        meta = store.meta
    assert meta["env_id"] == "toy" and "seed" not in meta and "recipe" not in meta
    assert [(part["file"], part["episodes"], part["meta"]["seed"]) for part in meta["merged_from"]] == [("a.h5", 3, 0), ("b.h5", 2, 1)]
    assert meta["coverage"]["episodes"] == 5 and meta["coverage"]["frames"] == 25


def test_an_episode_that_is_there_twice_is_kept_once(tmp_path: Path) -> None:
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    write_episodes(a, [make_episode(0), make_episode(1)], META)
    write_episodes(b, [make_episode(1), make_episode(2)], META)
    assert merge([a, b], tmp_path / "c.h5") == 3
    assert all(map(same_episode, episodes_of(tmp_path / "c.h5"), [make_episode(i) for i in range(3)]))


def test_converted_files_which_say_nothing_of_factors_are_merged(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.h5", "b.h5")]
    for i, path in enumerate(paths):
        write_episodes(path, [make_episode(i)], foreign_meta("mp4", "film", 2, ()))
    assert merge(paths, tmp_path / "c.h5") == 2
    assert "coverage" not in meta_of(tmp_path / "c.h5")


def test_an_episode_with_another_goal_or_question_is_another_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    asked = make_episode(0).questions
    write_episodes(a, [make_episode(0), make_episode(0, goal_text="go elsewhere")], META)
    write_episodes(b, [make_episode(0, questions=[*asked[:-1], "another question?"])], META)
    assert merge([a, b], tmp_path / "c.h5") == 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=12), st.integers(0, 99))
def test_equal_episodes_are_never_on_both_sides(which: list[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write_episodes(path, [make_episode(i, 2, 8) for i in which], META)
        shares = (0.5, 0.5, 0.0)
        if len(set(which)) < 2:
            with pytest.raises(UserError, match="has 1 different episodes"):
                split(path, shares, Path(folder), seed)
            return
        parts = [[episode.seed for episode in episodes_of(part)] for part in split(path, shares, Path(folder), seed)]
        assert not set(parts[0]) & set(parts[1])
        assert sorted(parts[0] + parts[1]) == sorted(make_episode(i, 2, 8).seed for i in which)


def test_two_codings_become_a_lossless_one(tmp_path: Path) -> None:
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    write_episodes(a, [make_episode(0)], META, "jpeg")
    write_episodes(b, [make_episode(1)], META, "raw")
    merge([a, b], tmp_path / "c.h5")
    assert all(map(same_episode, episodes_of(tmp_path / "c.h5"), episodes_of(a) + episodes_of(b)))


@pytest.mark.parametrize(
    ("changes", "meta", "words"),
    [
        ({}, {"env_id": "other"}, "meta data env_id: toy and other"),
        ({}, {"action_block": 2}, "meta data action_block: None and 2"),
        ({"frames": np.zeros((6, 8, 16, 3), np.uint8)}, {}, "frame size: 16 x 16 px and 16 x 8 px"),
        ({"actions": np.zeros((5, 3), np.float32)}, {}, "width of actions: 2 and 3"),
        ({"views": {"side": np.zeros((6, 16, 16, 3), np.uint8)}}, {}, "additional cameras: none and side"),
    ],
)
def test_files_that_cannot_be_one(changes: dict[str, Any], meta: dict[str, Any], words: str, tmp_path: Path) -> None:
    a, b, out = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.h5"
    write_episodes(a, [make_episode(0)], META)
    write_episodes(b, [make_episode(1, **changes)], META | meta)
    with pytest.raises(UserError, match=words):
        merge([a, b], out)
    assert not out.exists()


def test_merges_that_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    write_episodes(a, [make_episode(0)], META)
    write_episodes(b, [make_episode(1)], META)
    for paths, words in (([a], "two files or more"), ([a, a], "given twice"), ([a, tmp_path / "x.h5"], "no such file")):
        with pytest.raises(UserError, match=words):
            merge(paths, tmp_path / "c.h5")
    with pytest.raises(UserError, match="exists already"):
        merge([a, b], b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@settings(max_examples=12, deadline=None)
@given(st.integers(3, 16), st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(any), st.integers(0, 3))
def test_a_split_loses_nothing_and_shares_nothing(count: int, weights: list[int], seed: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    originals = [make_episode(i, 1, 4) for i in range(count)]
    with tempfile.TemporaryDirectory() as name:
        path, out = Path(name) / "toy.h5", Path(name) / "parts"
        write_episodes(path, originals, META)
        written = split(path, shares, out, seed)
        assert [part.stem for part in written] == [part for part, share in zip(PARTS, shares, strict=True) if share > 0]
        drawn = {part.stem: meta_of(part)["split"]["episodes"] for part in written}
        assert sorted(i for numbers in drawn.values() for i in numbers) == list(range(count))
        for part in written:
            numbers = drawn[part.stem]
            assert numbers == sorted(numbers) and numbers
            assert all(map(same_episode, episodes_of(part), [originals[i] for i in numbers]))
            share = shares[PARTS.index(part.stem)]
            assert abs(len(numbers) - share * count) < 2 or len(numbers) == 1
        again = split(path, shares, Path(name) / "again", seed)
        assert [part.read_bytes() for part in again] == [part.read_bytes() for part in written]


@pytest.mark.parametrize("storage", STORAGES)
def test_parts_are_coded_as_the_whole(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    write_episodes(path, [make_episode(i) for i in range(10)], COUNTED, storage)
    originals = episodes_of(path)
    for part in split(path, (0.6, 0.2, 0.2), tmp_path):
        with VerifiedStore(part) as store:
            assert store.storage == storage and "recipe" not in store.meta
            assert store.meta["coverage"]["episodes"] == len(store)
            for i, number in enumerate(store.meta["split"]["episodes"]):
                assert same_episode(store.episode(i), originals[number])


def test_splits_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    write_episodes(path, [make_episode(i) for i in range(2)], META)
    for shares in ((0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)):
        with pytest.raises(UserError, match="three numbers"):
            split(path, shares, tmp_path / "parts")
    with pytest.raises(UserError, match="2 different episodes; 3 parts"):
        split(path, (0.8, 0.1, 0.1), tmp_path / "parts")
    (tmp_path / "test.h5").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists already"):
        split(path, (0.5, 0, 0.5), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["test.h5", "toy.h5"]


def test_a_damaged_file_is_not_copied_from(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    write_episodes(path, [make_episode(i) for i in range(4)], META, "raw")
    with h5py.File(path, "r") as file:
        place = file["frames"].id.get_chunk_info(0).byte_offset + 100
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match="column frames cannot be read.*--repair"):
        split(path, (0.5, 0.5, 0), tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("*"))


def test_a_split_that_was_stopped_is_finished_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    write_toy_file(tmp_path / "a.h5", (5, 3, 4, 7, 6, 2))
    parts = split(tmp_path / "a.h5", (0.5, 0.25, 0.25), tmp_path / "whole", seed=1)
    wanted = {part.name: part.read_bytes() for part in parts}
    out = tmp_path / "stopped"
    out.mkdir()
    (out / "test.h5").write_bytes(wanted["test.h5"])  # the last is named first
    kept = (out / "test.h5").stat().st_mtime_ns
    assert split(tmp_path / "a.h5", (0.5, 0.25, 0.25), out, seed=1) == [out / name for name in wanted]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == wanted and (out / "test.h5").stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="exists already"):  # as a whole split is
        split(tmp_path / "a.h5", (0.5, 0.25, 0.25), out, seed=1)
    write_toy_file(tmp_path / "other" / "a.h5", (5, 3, 4, 7, 6, 3))
    for source, shares, seed in (("a.h5", (0.5, 0.25, 0.25), 2), ("a.h5", (0.25, 0.5, 0.25), 1), ("other/a.h5", (0.5, 0.25, 0.25), 1)):
        (out / "train.h5").unlink(missing_ok=True)
        with pytest.raises(UserError, match="exists already"):
            split(tmp_path / source, shares, out, seed)
        assert not (out / "train.h5").exists() and not [path for path in out.iterdir() if path.name.startswith(".")]
    (out / "test.h5").write_text("damaged")
    with pytest.raises(UserError, match="test.h5 exists already"):
        split(tmp_path / "a.h5", (0.5, 0.25, 0.25), out, seed=1)
