"""The source of text."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from worldmodel.datasets.mixture.documents import Document, text_document
from worldmodel.datasets.mixture.source import Entry, OpenedSource, Opening, RecipeSource, opened
from worldmodel.datasets.packages import PACKAGES, package_folder
from worldmodel.datasets.texts.corpus import open_corpus
from worldmodel.errors import UserError


class TextSource(RecipeSource):
    """Chunks of text, a document each: any sequence, such as a part of a corpus on the disk; UserError where there are none."""

    kind = "text"
    options: ClassVar[dict[str, str]] = {"corpus": "corpora", "field": "", "chunk": "text_chunk"}

    def __init__(self, chunks: Sequence[str], name: str = "text") -> None:
        if len(chunks) == 0:
            raise UserError(f"text source {name!r} holds no text; give at least one text")
        self.name, self.chunks = name, chunks

    @classmethod
    def check(cls, entry: Entry) -> None:
        for name in filter(PACKAGES.__contains__, entry.corpus):
            package_folder(name)

    @classmethod
    def open(cls, entry: Entry, opening: Opening) -> OpenedSource:
        cut = (entry.chunk or 1, opening.held_out, opening.seed, entry.field)
        corpora = [open_corpus(corpus, *cut) for corpus in entry.corpus]
        sources = [cls(corpus.train, entry.name) for corpus in corpora]
        held_out = [cls(corpus.held_out, entry.name) for corpus in corpora if len(corpus.held_out)]
        return opened(entry, sources, held_out, [corpus.licence for corpus in corpora], corpora)

    def __len__(self) -> int:
        return len(self.chunks)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make a document of one chunk."""
        return text_document(self.chunks[item])
