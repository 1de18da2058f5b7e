"""What a mixture really draws: per source the share asked for, the share drawn, and how often it is gone through."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldmodel.datasets.mixture.documents import Document
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.source import Part
from worldmodel.datasets.outputs import aligned


@dataclass(frozen=True)
class MixtureStats:
    """One source among the first documents of a mixture."""

    source: str
    kind: str
    licence: str
    items: int
    """Documents in one pass over the source."""
    documents: int
    """Documents that were drawn of it."""
    asked: float
    """Share of the tokens that was asked for."""
    share: float
    """Share of the tokens that was drawn."""
    epochs: float
    """Passes over the source."""


HEADERS = ("source", "kind", "items", "asked", "drawn", "epochs", "license")
"""Of the columns of `as_rows`."""


def mixture_stats(
    parts: Sequence[Part], mixture: Mixture, documents: int, measure: Callable[[Document], int] | None = None
) -> list[MixtureStats]:
    """Count documents and tokens of each source among the first documents of a mixture, which is made of these parts.

    With `measure`, all of them are drawn and their tokens counted. Without, none is drawn, and a source's documents are taken to be as
    long as its mean in `mixture.mean_lengths`.
    """
    counts = mixture.counts(0, documents)
    tokens: dict[str, float] = dict.fromkeys(counts, 0.0)
    if measure is None:
        for source, mean in zip(mixture.sources, mixture.mean_lengths, strict=True):
            tokens[source.name] = counts[source.name] * float(mean)
    else:
        for i in range(documents):
            tokens[mixture.source_name(i)] += measure(mixture.document(i))
    total, asked = sum(tokens.values()), sum(part.weight for part in parts)
    epochs = mixture.epochs(documents)
    return [
        MixtureStats(
            source=part.source.name,
            kind=part.kind,
            licence=part.licence,
            items=len(part.source),
            documents=counts[part.source.name],
            asked=part.weight / asked,
            share=tokens[part.source.name] / total if total else 0.0,
            epochs=epochs[part.source.name],
        )
        for part in parts
    ]


def as_rows(table: Sequence[MixtureStats]) -> list[list[str]]:
    """Return the cells to print, a row per source."""
    return [
        [each.source, each.kind, f"{each.items:,}", f"{each.asked:.2%}", f"{each.share:.2%}", f"{each.epochs:.3g}", each.licence]
        for each in table
    ]


def as_text(table: Sequence[MixtureStats], shares: str = "drawn") -> str:
    """Write the rows as a table of plain text, `shares` above those drawn; the last column stands to the left."""
    rows = [[shares if name == "drawn" else name for name in HEADERS], *as_rows(table)]
    return aligned(rows, right=range(2, len(HEADERS) - 1))
