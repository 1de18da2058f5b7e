import copy
import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.errors import UserError
from worldmodel.tokenizer import SMALLEST_VOCABULARY, SPECIAL_TOKENS, STEP_COUNTS, Tokenizer

TEXTS = [
    "a red disc in the left room, near the top",
    "a blue disc in the right room, near the bottom",
    "action: dx=+0.300, dy=-0.120",
    "the special markers <boi> and <eoi> are written about here, <pad> and <eos> too",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


def test_special_ids_are_fixed(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.boi_id, tokenizer.eoi_id, tokenizer.steps_id) == (0, 1, 2, 3, 4)
    assert (len(SPECIAL_TOKENS), STEP_COUNTS, SMALLEST_VOCABULARY) == (68, 64, 324)
    assert SPECIAL_TOKENS[tokenizer.steps_id + 17] == "<17 steps>" and SPECIAL_TOKENS[-1] == "<63 steps>"
    assert 324 < tokenizer.vocab_size <= 400


def test_training_is_deterministic(tokenizer):
    again = Tokenizer.train(iter(TEXTS), 400)
    assert again.vocab_size == tokenizer.vocab_size
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_seen_words_are_short_and_digits_stay_single(tokenizer):
    assert len(tokenizer.encode(" room")) == 1
    assert len(tokenizer.encode("0.300")) == 5
    assert len(set(tokenizer.encode("777"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces\n\n\ttab ",
        "日本語 🤖🏽 e\u0301 é",
        "\x00\x01\r\n",
        "Ġ ĉ ▁",
        "\ufeffbom",
        "1234 x5",
    ],
)
def test_round_trip_of_odd_texts(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_of_any_text(text):
    assert ANY.decode(ANY.encode(text)) == text
    assert min(ANY.encode(text), default=68) >= 68


ANY = Tokenizer.train(TEXTS, 350)


@pytest.mark.parametrize("text", ["<boi>", "x<eos>", "<pad><pad>", " <eoi> ", "<boi><eoi><eos>", "<<boi>>", "<7 steps>"])
def test_special_ids_never_come_out_of_text(tokenizer, tmp_path, text):
    tokenizer.save(tmp_path / "tokenizer.json")
    for one in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        ids = one.encode(text)
        assert ids and min(ids) >= len(SPECIAL_TOKENS)
        assert one.decode(ids) == text


def test_special_ids_are_left_out_of_decoded_text(tokenizer):
    ids = tokenizer.encode("a red disc")
    assert tokenizer.decode([2, *ids[:1], 3, 0, 4, 67, *ids[1:], 1]) == "a red disc"


def test_a_character_cut_in_half_is_marked(tokenizer):
    ids = tokenizer.encode("é")
    assert len(ids) == 2 and tokenizer.decode(ids[:1]) == "\ufffd"


def test_saved_and_loaded_are_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == tokenizer.vocab_size
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_copies_and_worker_processes_encode_the_same(tokenizer):
    text = "a red <boi> disc"
    assert copy.deepcopy(tokenizer).encode(text) == tokenizer.encode(text)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(tokenizer.encode, (text,)) == tokenizer.encode(text)


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(UserError, match="323.*68 special ids.*324"):
        Tokenizer.train(TEXTS, 323)
    assert Tokenizer.train(TEXTS, 324).vocab_size == 324


def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode("a\ud800b")


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, wrong):
    with pytest.raises(UserError, match=str(wrong)):
        tokenizer.decode([5, wrong])


def test_missing_damaged_and_foreign_files_are_refused(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="no tokenizer at"):
        Tokenizer.load(path)
    tokenizer.save(path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.load(path)
    path.write_text(whole.replace("<boi>", "<img>"))
    with pytest.raises(UserError, match="another program"):
        Tokenizer.load(path)
