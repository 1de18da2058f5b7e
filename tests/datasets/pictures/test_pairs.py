import logging
import pickle
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.picture_sets import json_lines, number_of, plain, samples, write_folder, write_tar
from worldmodel.datasets.mixture.documents import Frame, Text
from worldmodel.datasets.mixture.pair_source import ImagePairSource
from worldmodel.datasets.pictures import pairs as pairs_module
from worldmodel.datasets.pictures.pairs import Pairs, open_pairs
from worldmodel.datasets.pictures.shards import expand_braces
from worldmodel.errors import UserError


def shown(pairs: Pairs) -> list[tuple[int, str]]:
    """What is in the pictures, with their captions."""
    return [(number_of(image), caption) for image, caption in map(pairs.pair, range(len(pairs)))]


def spoilt(bad: set[int], count: int = 6) -> dict[str, bytes]:
    """A shard's members, of which some pictures are damaged."""
    members = dict(samples(count))
    return members | {f"{i:04}.png": b"damaged" for i in bad}


def test_openmoji_names_its_drawings() -> None:
    pairs = open_pairs("openmoji", 32)
    assert len(pairs) > 1300 and len(set(pairs.captions)) == len(pairs) and "CC-BY-SA-4.0" in pairs.licence
    assert {"red apple", "grinning face"} <= set(pairs.captions)
    assert not any("fitzpatrick" in caption for caption in pairs.captions)
    apple = pairs.image(pairs.captions.index("red apple")).astype(int)
    centre = apple[12:20, 12:20].mean(axis=(0, 1))
    assert centre[0] > centre[1] + 50 and centre[0] > centre[2] + 50  # red
    assert (apple[0, 0] == 255).all()


def test_kept_pictures_cannot_be_changed() -> None:
    pairs = open_pairs("openmoji", 16)
    for _ in range(3):
        image = pairs.image(5)
        assert image.std() > 2
        image[:] = 0


def test_split_is_seeded_and_disjoint(tmp_path: Path) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", samples(30)), 8)
    train, held_out = pairs.split(held_out=0.1, seed=0)
    assert sorted([*train.captions, *held_out.captions]) == sorted(pairs.captions)
    assert len(held_out) == 3 and list(pairs.split(0.1, 0)[1].captions) == list(held_out.captions)
    assert list(pairs.split(0.1, 1)[1].captions) != list(held_out.captions)
    for part in (train, held_out):
        assert all(caption == f"picture {n}" or n == int(caption.split()[1]) % 6 for n, caption in shown(part))


@given(st.sets(st.integers(0, 5)))
@settings(deadline=None, max_examples=40)
def test_damaged_pairs_give_way_to_the_next_good_one(tmp_path_factory: pytest.TempPathFactory, bad: set[int]) -> None:
    path = write_tar(tmp_path_factory.mktemp("bad") / "a.tar", spoilt(bad))
    pairs = open_pairs(path, 8)
    if len(bad) == 6:
        with pytest.raises(UserError, match=r"none of the 6 pairs can be used; .*0000.png: the picture cannot be decoded"):
            pairs.image(0)
        return
    good = [next(k % 6 for k in range(i, i + 6) if k % 6 not in bad) for i in range(6)]
    expected = [(k, f"picture {k}") for k in good]
    assert shown(pairs) == expected
    assert shown(pairs) == expected
    assert [open_pairs(path, 8).caption(i) for i in reversed(range(6))] == [caption for _, caption in reversed(expected)]
    assert len(pairs.skipped) == len(bad) and set(pairs.skipped) == {f"{path}:{i:04}.png" for i in bad}
    assert pairs.captions[min(bad, default=0)] == f"picture {min(bad, default=0)}"


def test_held_out_pairs_never_stand_in_for_training_pairs(tmp_path: Path) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", spoilt({0, 2, 3, 5}, 30)), 8)
    train, held_out = pairs.split(0.5, 0)
    seen = [{train.caption(i) for i in range(len(train))}, {held_out.caption(i) for i in range(len(held_out))}]
    assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 26


def test_skipped_pairs_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", spoilt({1, 4})), 8)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            shown(pairs)
    assert caplog.text.count("0001.png") == caplog.text.count("0004.png") == 1


def test_many_skipped_pairs_are_counted_in_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", spoilt(set(range(1, 40)), 40)), 8)
    with caplog.at_level(logging.WARNING):
        assert len(pairs.check()) == len(pairs.skipped) == 39
    assert len(caplog.records) == 10


def test_hopeless_sets_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "TRIES", 5)
    pairs = open_pairs(write_tar(tmp_path / "a.tar", spoilt(set(range(1, 9)), 12)), 8)
    with pytest.raises(UserError, match="none of 5 pairs in a row"):
        pairs.image(1)
    assert number_of(pairs.image(6)) == 9 % 6


def test_threads_see_the_same_pictures(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", spoilt({1, 7}, 24))
    expected = shown(open_pairs(path, 8))
    pairs = open_pairs(path, 8, kept_bytes=24 * 192 // 3)
    seen: list[list[tuple[int, str]]] = []
    threads = [threading.Thread(target=lambda: seen.append(shown(pairs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 4


def test_memory_for_pictures_is_bounded() -> None:
    pairs = open_pairs("openmoji", 64, kept_bytes=20 * 64 * 64 * 3)
    for i in range(20):
        pairs.image(i)
    tracemalloc.start()
    for i in range(200):
        pairs.image(i)
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/datasets/pictures/*")])
    tracemalloc.stop()  # others: a thread that an earlier test left behind
    assert 0 < sum(trace.size for trace in snapshot.traces) < 40 * 64 * 64 * 3  # 200 pictures are five times that


def test_pickled_pairs_are_small(tmp_path: Path) -> None:
    pairs = open_pairs("openmoji", 64)
    for i in range(50):
        pairs.image(i)
    content = pickle.dumps(pairs)
    assert len(content) < 200_000
    np.testing.assert_array_equal(pickle.loads(content).image(7), pairs.image(7))


def test_folder_with_text_files(tmp_path: Path) -> None:
    files = {"b.png": plain(1), "b.txt": "second\n", "a/c.jpg": plain(2, "JPEG"), "a/c.caption": "third", "notes.txt": "no picture"}
    folder = write_folder(tmp_path, files | {"lone.png": plain(0), ".hidden.png": plain(0), ".git/x.png": plain(0)})
    pairs = open_pairs(folder, 8)
    assert shown(pairs) == [(1, "second"), (2, "third")]
    assert pairs.skipped == {str(folder / "lone.png"): "no caption beside it"}


def test_folder_with_names_as_captions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"red_apple-2.png": plain(0), "b.webp": plain(1, "WEBP"), "b.txt": "a pear"})
    assert shown(open_pairs(folder, 8, names_as_captions=True)) == [(1, "a pear"), (0, "red apple 2")]
    (folder / "b.txt").unlink()
    with pytest.raises(UserError, match="none of the 2 pictures .* has a caption.*metadata.jsonl"):
        open_pairs(folder, 8)


def test_folder_with_metadata(tmp_path: Path) -> None:
    lines = [{"file_name": "x/a.png", "text": "first"}, {"file_name": "b.png", "caption": ["second", "other"], "id": 3}]
    folder = write_folder(
        tmp_path,
        {"x/a.png": plain(0), "b.png": plain(1), "metadata.jsonl": json_lines(lines) + "\n"}
        | {"deep/metadata.jsonl": json_lines([{"file_name": "c.png", "text": "größe"}]), "deep/c.png": plain(2)},
    )
    assert shown(open_pairs(folder, 8)) == [(0, "first"), (1, "second"), (2, "größe")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "missing.png", "text": "x"}', "No such file"),
        ('{"file_name": "a.png"}', "no caption: the record has file_name"),
        ('{"file_name": "a.png", "text": " "}', "empty"),
        ('{"text": "x"}', "file_name"),
        ('{"file_name": ', "JSON cannot be read"),
        ("[1]", "is a list"),
    ],
)
def test_bad_lines_of_metadata_are_skipped(tmp_path: Path, line: str, reason: str) -> None:
    good = json_lines([{"file_name": "a.png", "text": "good"}])
    pairs = open_pairs(write_folder(tmp_path, {"a.png": plain(3), "metadata.jsonl": f"{line}\n{good}"}), 8)
    assert shown(pairs) == [(3, "good")] * 2
    assert len(pairs.skipped) == 1 and reason in next(iter(pairs.skipped.values()))


@pytest.mark.parametrize("name", ["../secret.png", "x/../../secret.png", "{root}/secret.png"])
def test_metadata_cannot_name_pictures_outside_its_folder(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, {"secret.png": plain(1), "in/a.png": plain(3), "in/x/b.png": plain(4)})
    lines = [{"file_name": name.format(root=tmp_path), "text": "secret"}, {"file_name": "x/../a.png", "text": "good"}]
    write_folder(tmp_path, {"in/metadata.jsonl": json_lines(lines)})
    pairs = open_pairs(tmp_path / "in", 8)
    assert shown(pairs) == [(3, "good")] * 2 and "leads out of the folder" in next(iter(pairs.skipped.values()))


def test_metadata_that_goes_away_is_told(tmp_path: Path) -> None:
    line = json_lines([{"file_name": "a.png", "text": "a"}])
    pairs = open_pairs(write_folder(tmp_path, {"a.png": plain(3), "metadata.jsonl": line}))
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match="metadata.jsonl cannot be read: No such file"):
        pairs.pair(0)


def test_text_files_that_are_not_text_are_skipped(tmp_path: Path) -> None:
    files = {
        "a.png": plain(0),
        "a.txt": b"\xff\xfe\xff",
        "b.png": plain(1),
        "b.txt": "\n",
        "c.png": plain(2),
        "c.txt": b"\xef\xbb\xbfgood",
    }
    pairs = open_pairs(write_folder(tmp_path, files), 8)
    assert shown(pairs) == [(2, "good")] * 3 and sorted(pairs.skipped.values()) == ["the caption is empty", "the caption is not UTF-8"]


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a", ["a"]),
        ("a{08..11}.tar", ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]),
        ("{9..10}", ["9", "10"]),
        ("{x,y}/{1..2}", ["x/1", "x/2", "y/1", "y/2"]),
        ("{x}", ["{x}"]),
    ],
)
def test_braces(pattern: str, expanded: list[str]) -> None:
    assert expand_braces(pattern) == expanded


def test_patterns_name_shards(tmp_path: Path) -> None:
    for n in range(11):
        write_tar(tmp_path / f"s{n:03}.tar", samples(1))
    for pattern, count in [
        ("s{000..003}.tar", 4),
        ("s00?.tar", 10),
        ("*.tar", 11),
        ("s{000,010}.tar", 2),
        ("", 11),
        ("s00[1-3].tar", 3),
    ]:
        assert len(open_pairs(tmp_path / pattern, 8)) == count
    with pytest.raises(UserError, match="s011.tar: there is no such file"):
        open_pairs(tmp_path / "s{009..011}.tar")


@pytest.mark.parametrize("name", ["nothing", "nothing*.tar", "a.zip", "{a.zip,b.tar}", "empty"])
def test_other_sources_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").touch()
    write_tar(tmp_path / "b.tar", samples(1))
    with pytest.raises(UserError, match="there is no such file|not several kinds|not .zip|holds no pictures"):
        open_pairs(tmp_path / name)


def test_directions(tmp_path: Path) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", samples(3)), 8)

    def kinds(direction: str) -> set:
        source = ImagePairSource(pairs, direction)  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        return {tuple((type(s), s.predict) for s in source.document(i % 3, rng)) for i in range(12)}

    to_text, to_image = ((Frame, False), (Text, True)), ((Text, False), (Frame, True))
    assert kinds("to text") == {to_text} and kinds("to image") == {to_image} and kinds("both") == {to_text, to_image}
    assert len(ImagePairSource(pairs)) == 3


def test_documents_are_a_function_of_item_and_generator(tmp_path: Path) -> None:
    source = ImagePairSource(open_pairs(write_tar(tmp_path / "a.tar", spoilt({2})), 8), "to text")
    for item in (2, 0, 2, 3):
        frame, text = source.document(item, np.random.default_rng(item))
        assert isinstance(frame, Frame) and isinstance(text, Text)
        assert text.text == f"picture {number_of(frame.pixels)}" == f"picture {3 if item == 2 else item}"
