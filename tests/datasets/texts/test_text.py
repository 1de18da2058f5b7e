import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.datasets.mixture.documents import Text
from worldmodel.datasets.mixture.mixture import WINDOW, Mixture
from worldmodel.datasets.mixture.text_source import TextSource
from worldmodel.datasets.texts.text import chunk_text
from worldmodel.errors import UserError


@given(text=st.text(st.sampled_from("ab.!? \n\"'"), max_size=300), chunk=st.integers(min_value=1, max_value=40))
def test_chunks_fit_and_lose_only_blank_space(text: str, chunk: int) -> None:
    chunks = chunk_text(text, chunk)
    assert all(0 < len(each) <= chunk for each in chunks)
    assert re.sub(r"\s", "", "".join(chunks)) == re.sub(r"\s", "", text)


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


def test_a_mixture_gives_every_piece_equally_often() -> None:
    chunks = [f"chunk {i}" for i in range(WINDOW // 4)]
    documents = [Mixture([(TextSource(chunks), 1.0)], seed=3).document(i) for i in range(WINDOW)]
    assert sorted(documents, key=repr) == sorted(4 * [(Text(chunk),) for chunk in chunks], key=repr)
    assert documents[: len(chunks)] != [(Text(chunk),) for chunk in chunks]


def test_a_document_depends_on_its_number_alone() -> None:
    source = TextSource(["one", "two"], name="numbers")
    assert source.name == "numbers" and len(source) == 2
    assert [source.document(i, np.random.default_rng(i)) for i in (1, 0, 1)] == [(Text("two"),), (Text("one"),), (Text("two"),)]


def test_empty_source_is_refused() -> None:
    with pytest.raises(UserError, match="'mine' holds no text"):
        TextSource([], "mine")
