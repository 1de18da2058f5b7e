import gzip
import io
import json
import logging
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.picture_sets import number_of, plain, samples, write_tar
from worldmodel.datasets.pictures.pairs import open_pairs
from worldmodel.datasets.pictures.shards import TarShards, expand_braces, index_shard
from worldmodel.datasets.pictures.skipped_pairs import BadPairError
from worldmodel.errors import UserError


def test_pairs_are_read_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n}.tar", samples(3)) for n in range(2)]
    shards = TarShards(paths)
    assert len(shards) == 6 and shards.skipped.count == 0
    assert [shards.caption(i) for i in range(6)] == ["picture 0", "picture 1", "picture 2"] * 2
    assert shards.picture(4) == plain(1) and shards.label(4) == f"{paths[1]}:0001.png"


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ({"a.png": plain(0), "a.caption": b" words \n"}, "words"),
        ({"a.json": b'{"caption": "words"}', "a.png": plain(0)}, "words"),
        ({"a.png": plain(0), "a.json": b'{"caption": "other"}', "a.txt": b"words"}, "words"),
        ({"A.PNG": plain(0), "A.TXT": b"words"}, "words"),
        ({"./x/a.webp": plain(0, "WEBP"), "./x/a.txt": b"words", "./x/a.cls": b"3"}, "words"),
        ({"a.v2.png": plain(0), "a.v2.txt": b"words"}, "words"),
        ({"a.mask.png": plain(1), "a.png": plain(0), "a.txt": b"words"}, "words"),
        ({"a.png": plain(0), "._a.png": b"", "a.txt": b"words"}, "words"),
        ({"a.txt": b"words", "b.txt": b"no picture", "b/a.txt": b"no", "a.png": plain(0)}, "words"),
    ],
)
def test_members_of_a_sample_share_the_stem(tmp_path: Path, members: dict[str, bytes], caption: str) -> None:
    shards = TarShards([write_tar(tmp_path / "a.tar", members)])
    assert len(shards) == 1 and shards.caption(0) == caption and shards.picture(0) in (plain(0), plain(0, "WEBP"))


def test_members_need_not_be_neighbours(tmp_path: Path) -> None:
    by_kind = sorted(samples(5), key=lambda member: member[0][-3:])
    pairs = open_pairs(write_tar(tmp_path / "a.tar", by_kind), 8)
    assert [(number_of(pairs.image(i)), pairs.caption(i)) for i in range(5)] == [(i, f"picture {i}") for i in range(5)]


def test_caption_key_chooses_a_field(tmp_path: Path) -> None:
    record = json.dumps({"caption": "usual", "recaption": "better"}).encode()
    path = write_tar(tmp_path / "a.tar", {"a.png": plain(0), "a.txt": b"plain", "a.json": record})
    assert [TarShards([path], key).caption(0) for key in (None, "caption", "recaption")] == ["plain", "usual", "better"]
    with pytest.raises(BadPairError, match="not title"):
        TarShards([path], "title").caption(0)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, form: int) -> None:
    stem = "f" * 80 + "/" + "ü" * 30 + ("n" * 120 if form != tarfile.USTAR_FORMAT else "")
    path = write_tar(tmp_path / "a.tar", {f"{stem}.png": plain(2), f"{stem}.txt": "größe".encode()}, format=form)
    pairs = open_pairs(path, 8)
    assert len(pairs) == 1 and pairs.caption(0) == "größe" and number_of(pairs.image(0)) == 2


def test_samples_without_a_partner_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [*samples(2), ("lone.png", plain(0)), ("words.txt", b"words")]
    path = write_tar(tmp_path / "a.tar", members)
    with caplog.at_level(logging.WARNING):
        pairs = open_pairs(path, 8)
    assert len(pairs) == 2 and len(pairs.skipped) == 2
    assert pairs.skipped == {f"{path}:lone.png": "no caption beside it", f"{path}:words.txt": "no picture beside it"}
    assert "of 4 pairs, 2 skipped" in caplog.text and "lone.png" in caplog.text
    assert open_pairs(path, 8).skipped == pairs.skipped  # from the kept index too


def test_truncated_at_any_byte(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    members = samples(4)
    whole = write_tar(folder / "whole.tar", members).read_bytes()
    with tarfile.open(folder / "whole.tar") as tar:
        ends = [member.offset_data + member.size for member in tar.getmembers()]
    end_mark = ends[-1] + -ends[-1] % 512 + 512

    @given(st.integers(0, len(whole)))
    @settings(deadline=None, max_examples=150)
    def check(cut: int) -> None:
        path = folder / "cut.tar"
        path.write_bytes(whole[:cut])
        there = sum(ends[2 * i + 1] <= cut for i in range(4))
        try:
            pairs = open_pairs(path, 8)
        except UserError as error:
            assert there == 0 and "cut.tar" in str(error) or str(folder) in str(error)
            return
        assert len(pairs) == there
        assert [(number_of(pairs.image(i)), pairs.caption(i)) for i in range(there)] == [(i, f"picture {i}") for i in range(there)]
        assert (str(path) in pairs.skipped) == (cut < end_mark)

    check()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_shards_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_tar(tmp_path_factory.mktemp("damaged") / "a.tar", samples(3))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        content[data.draw(st.integers(0, 6 * 1024))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        pairs = open_pairs(path, 8)
        for i in range(len(pairs)):
            assert pairs.image(i).shape == (8, 8, 3)
    except UserError as error:
        assert str(path) in str(error) or "a holds no picture" in str(error)


def test_index_is_kept_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    path = write_tar(tmp_path / "a.tar", samples(2))
    assert len(TarShards([path])) == 2
    (kept,) = (tmp_path / "home").rglob("*.npz")
    with monkeypatch.context() as context:
        context.setattr("worldmodel.datasets.pictures.shards.index_shard", None)
        assert TarShards([path]).caption(1) == "picture 1"  # nothing is looked through
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(TarShards([path])) == 2  # a damaged index is made anew
    write_tar(path, samples(3))
    assert len(TarShards([path])) == 3
    assert len(list((tmp_path / "home").rglob("*.npz"))) == 1


def test_home_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    assert len(TarShards([write_tar(tmp_path / "a.tar", samples(2))])) == 2


def test_index_is_small(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}.{end}", b"x") for i in range(500) for end in ("jpg", "txt")])
    arrays = index_shard(path)
    assert len(arrays["pairs"]) == 500 and arrays["pairs"].nbytes <= 40 * 500


@pytest.mark.parametrize("content", [b"", b"not a tar file" * 100, gzip.compress(b"x" * 5000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.tar: not an uncompressed tar"):
        open_pairs(path)


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(write_tar(tmp_path / "a.tar", samples(1)).read_bytes()))
    with pytest.raises(UserError, match="not compressed"):
        open_pairs(path)


def test_pickles_and_forks(tmp_path: Path) -> None:
    pairs = open_pairs(write_tar(tmp_path / "a.tar", samples(4)), 8)
    copy = pickle.loads(pickle.dumps(pairs))
    for i in range(4):
        np.testing.assert_array_equal(copy.image(i), pairs.image(i))
    assert copy.captions[3] == "picture 3"


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n}.tar", samples(2)) for n in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    pairs = open_pairs(tmp_path, 8)
    assert len(pairs) == 2 * len(paths)
    assert all(pairs.image(i).shape == (8, 8, 3) for i in range(len(pairs)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_shard_that_shrinks_while_in_use(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    pairs = open_pairs(path, 8, kept_bytes=0)
    os.truncate(path, 2500)
    assert number_of(pairs.image(2)) == 0 and len(pairs.skipped) == 1
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        pairs.image(0)


def test_links_and_folders_in_a_shard_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("b.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in samples(1):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(TarShards([path])) == 1


def header(name: str, kind: bytes = b"0", size: int = 0) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, max(size, 0)
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        head[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def test_long_names_that_lead_to_long_names_end(tmp_path: Path) -> None:
    link = header("././@LongLink", b"L", 100) + (b"x" * 100).ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(link * 3000 + header("a.txt", size=3) + b"abc".ljust(512, b"\0") + bytes(1024))
    with pytest.raises(UserError, match="a.tar: not an uncompressed tar file"):
        index_shard(tmp_path / "a.tar")


def test_a_negative_size_does_not_lead_round_and_round(tmp_path: Path) -> None:
    good = header("a.txt", size=3) + b"abc".ljust(512, b"\0") + header("a.png", size=3) + b"png".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(good + header("b.txt", size=-1536) + bytes(2048))
    found = index_shard(tmp_path / "a.tar")
    assert len(found["pairs"]) == 1 and b"size of b.txt is negative" in found["skipped"].tobytes()


def test_braces_that_stand_for_very_many_files_are_refused() -> None:
    with pytest.raises(UserError, match="more than 1,000,000 files"):
        expand_braces("a{0..99999999999}.tar")
    assert expand_braces("{" + "9" * 5000 + ".." + "9" * 5000 + "}") != []


TWICE = {
    "one after the other": [("a.png", 1), ("a.txt", 1), ("a.png", 2), ("a.txt", 2)],
    "with others between": [("a.png", 1), ("a.txt", 1), ("b.png", 5), ("b.txt", 5), ("a.png", 2), ("a.txt", 2)],
    "captions first": [("a.json", 1), ("a.png", 1), ("b.json", 5), ("b.png", 5), ("a.json", 2), ("a.png", 2)],
    "pictures of two kinds": [("a.png", 1), ("a.txt", 1), ("b.png", 5), ("b.txt", 5), ("a.jpg", 2), ("a.txt", 2)],
    "all pictures, then all captions": [
        ("a.png", 1),
        ("b.png", 5),
        ("a.png", 2),
        ("b.txt", 5),
        ("a.txt", 1),
        ("c.png", 3),
        ("c.txt", 3),
        ("a.txt", 2),
    ],
}


@pytest.mark.parametrize("members", TWICE.values(), ids=TWICE)
def test_samples_of_the_same_key_are_all_kept_and_keep_their_captions(tmp_path: Path, members: list[tuple[str, int]]) -> None:
    def content(name: str, number: int) -> bytes:
        if name.endswith("json"):
            return json.dumps({"caption": f"picture {number}"}).encode()
        return f"picture {number}".encode() if name.endswith("txt") else plain(number)

    path = write_tar(tmp_path / "a.tar", [(name, content(name, number)) for name, number in members])
    pairs = open_pairs(path, 8)
    found = {number_of(pairs.image(i)): pairs.caption(i) for i in range(len(pairs))}
    assert found == {number: f"picture {number}" for _, number in members} and len(pairs.skipped) == 0


@pytest.mark.parametrize("lone", ["a.png", "a.txt"])
def test_a_sample_without_partner_takes_none_of_another_of_its_key(tmp_path: Path, lone: str) -> None:
    members = [(lone, plain(1) if lone == "a.png" else b"picture 1"), *samples(1), ("a.png", plain(2)), ("a.txt", b"picture 2")]
    members = members if lone == "a.png" else [*members[:-2], members[-1], members[-2]]
    pairs = open_pairs(write_tar(tmp_path / "a.tar", members), 8)
    assert {number_of(pairs.image(i)): pairs.caption(i) for i in range(len(pairs))} == {0: "picture 0", 2: "picture 2"}
    assert len(pairs.skipped) == 1
