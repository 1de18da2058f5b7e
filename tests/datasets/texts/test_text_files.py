import codecs
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.datasets.texts import text_files
from worldmodel.datasets.texts.text_files import find_files, read_documents, text_format
from worldmodel.errors import UserError

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def read(path: Path, field: str = "text", section: int | None = 1 << 16) -> list[str]:
    told: list[int] = []
    documents = list(read_documents(path, field, section, told.append))
    if text_format(path) != ".parquet":
        assert sum(told) == path.stat().st_size
    return documents


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.sampled_from("äb🙂 \n"), max_size=400),
    section=st.integers(min_value=1, max_value=30),
    block=st.integers(min_value=1, max_value=50),
)
def test_sections_depend_on_the_text_alone(tmp_path_factory: pytest.TempPathFactory, text: str, section: int, block: int) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(text, "utf8")
    sections = read(path, section=section)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_BLOCK", block)
        assert read(path, section=section) == sections
    assert re.sub(r"\s", "", "".join(sections)) == re.sub(r"\s", "", text)
    assert all(section <= len(part) <= 4 * section for part in sections[:-1])
    assert read(path, section=None) == [text]


def test_long_text_is_cut_at_paragraphs_else_lines_else_blanks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"one two\r\n\r\nthree\n\nfour")
    assert read(path, section=5) == ["one two", "three", "four"]
    path.write_bytes(b"one two three\nfour " * 3)
    assert read(path, section=5) == ["one two three", "four one two three", "four one two three", "four "]
    path.write_bytes(b"one two " * 4)
    assert read(path, section=5) == ["one two", "one two", "one two one two "]
    path.write_bytes(b"0123456789")
    assert read(path, section=2) == ["01234567", "89"]


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_lines_and_texts_also_compressed_in_several_members(tmp_path: Path, ending: str) -> None:
    compress = COMPRESSIONS[ending]
    lines, plain = tmp_path / f"a.jsonl{ending}", tmp_path / f"b.txt{ending}"
    content = '{"text": "one\u2028more"}\n\n{"id": 2, "text": "zwei ü", "words": "two"}'.encode()
    lines.write_bytes(codecs.BOM_UTF8 + content if not ending else compress(content[:60]) + compress(content[60:]))
    assert read(lines) == ["one\u2028more", "zwei ü"]
    plain.write_bytes(compress("Grüße.\n\n".encode()) + compress(b"Ende."))
    assert read(plain) == ["Grüße.\n\nEnde."]


def test_another_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"words": "two", "text": 2}\n')
    assert read(path, field="words") == ["two"]
    with pytest.raises(UserError, match='line 1 has no "prose" string'):
        read(path, field="prose")


def test_zeros_behind_gzip_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"text") + bytes(100_000))
    assert read(path) == ["text"]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), ending=st.sampled_from([".gz", ".zst"]))
def test_cut_off_or_damaged_compression_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ending: str) -> None:
    path = tmp_path_factory.mktemp("text") / f"a.txt{ending}"
    text = " ".join(map(str, range(300)))
    whole = gzip.compress(text.encode()) if ending == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())
    path.write_bytes(whole[: data.draw(st.integers(min_value=1, max_value=len(whole) - 1))])
    with pytest.raises(UserError, match="cut off"):
        read(path)
    place = data.draw(st.integers(min_value=len(whole) // 2, max_value=len(whole) - 5))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    with pytest.raises(UserError, match="cut off|damaged|not UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"good\xff\xfe", r"a.txt is not UTF-8 text \(byte 4\)"),
        ("a.txt", b"x" * 65535 + "ü".encode() + b"\xc3", r"\(byte 65537\)"),
        ("a.txt", b"x" * 65535 + b"\xc3x", r"\(byte 65535\)"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "ok"}\n\n["text"]', 'line 3 has no "text"'),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "\xff"}', r"line 2 is not UTF-8 text \(byte 25 of the file\)"),
        ("a.jsonl", json.dumps({"text": 3}).encode(), "line 1"),
        ("a.jsonl", b'{"text": "\\ud83d"}', "line 1 has half a character"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz is damaged"),
        ("a.txt.zst", b"no zstd", "a.txt.zst is damaged"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(tmp_path / name)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.txt: No such file"):
        read(tmp_path / "absent.txt")


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = [f"document {i}" for i in range(1000)]
    parquet.write_table(pyarrow.table({"text": [*texts, None, ""], "id": range(1002)}), path, row_group_size=300)
    assert read(path) == texts
    with pytest.raises(UserError, match="no column 'id' of texts; its columns are text, id"):
        read(path, field="id")
    with pytest.raises(UserError, match="no column 'prose'"):
        read(path, field="prose")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="a.parquet is damaged"):
        read(path)


def test_parquet_without_its_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow; `pip install 'worldmodel\[data\]'`"):
        read(tmp_path / "a.parquet")


def test_files_of_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b/deep/2.jsonl.zst", "b/1.txt", "b/picture.png", "b/.hidden/3.txt", "a.txt.gz", "c.parquet", "d.parquet.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "b" / "link.txt").symlink_to("1.txt")

    def names(source: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_files(f"{tmp_path}/{source}")]

    assert names("b") == ["b/1.txt", "b/deep/2.jsonl.zst"]
    assert names("") == ["a.txt.gz", "b/1.txt", "b/deep/2.jsonl.zst", "c.parquet"]
    assert names("*") == ["a.txt.gz", "c.parquet"]
    assert names("**/*.txt") == ["b/1.txt"]
    assert names("b/1.txt") == ["b/1.txt"]
    for source, words in (("b/picture.png", "a text corpus is"), ("*.pdf", "no text files"), ("nothing", "no such file")):
        with pytest.raises(UserError, match=words):
            names(source)


@pytest.mark.parametrize("name", ["bomb.txt.gz", "bomb.txt.zst", "bomb.jsonl.zst"])
def test_what_unpacks_to_far_more_than_a_text_is_refused(tmp_path: Path, name: str) -> None:
    content = b"a" * 2**25
    packed = gzip.compress(content, 9) if name.endswith("gz") else zstandard.ZstdCompressor().compress(content)
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(UserError, match=f"{name} unpacks to more than 300 times its size"):
        list(read_documents(tmp_path / name, "text", 65536, lambda _: None))


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.datasets.texts.text_files.MAX_LINE", 2**20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"a" * 2**21)
    with pytest.raises(UserError, match="a line of more than 1 MiB"):
        list(read_documents(tmp_path / "a.jsonl", "text", None, lambda _: None))
