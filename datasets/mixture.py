"""A weighted, seeded, resumable stream of documents from several sources.

Document i is a pure function of (seed, i): there is no state to save but the number of documents drawn, and
ranks or worker processes share a stream by taking every n-th document.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from worldmodel.datasets.documents import Document
from worldmodel.datasets.sources import Source
from worldmodel.errors import UserError

MEASURED_DOCUMENTS = 64
"""Documents of each source whose mean length stands for the source."""
_DRAW, _MEASURE = 0, 1


class Mixture:
    """Draws documents from sources by weight.

    Args:
        sources: (source, weight) pairs with different names. A weight is a share of the tokens when `measure`
            is given, else a share of the documents; only ratios count, and a source of weight 0 is never
            drawn.
        seed: of the whole stream.
        measure: length of a document in tokens. A source's mean length is taken over a fixed sample of
            documents.

    Raises:
        UserError: no source, a weight that is negative or not finite, or none above 0.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        seed: int,
        measure: Callable[[Document], int] | None = None,
    ) -> None:
        _check(sources)
        self.seed = seed
        self.sources = [source for source, weight in sources if weight > 0]
        shares = np.array([weight for _, weight in sources if weight > 0], np.float64)
        self.mean_lengths = np.ones(len(shares))
        """Mean length of the documents of each source, in tokens; 1 without `measure`."""
        if measure is not None:
            self.mean_lengths = np.array([self._mean_length(k, measure) for k in range(len(self.sources))])
        per_document = shares / self.mean_lengths
        self.probabilities = per_document / per_document.sum()
        """Chance of each source to give the next document."""

    def document(self, i: int) -> Document:
        """Document i, 0 <= i."""
        rng = self._rng(_DRAW, i)
        return self.sources[self._choose(rng)].document(rng)

    def iter_from(self, start: int) -> Iterator[Document]:
        """Documents start, start + 1, ... without end."""
        return map(self.document, itertools.count(start))

    def counts(self, start: int, stop: int) -> dict[str, int]:
        """How many of the documents start .. stop - 1 come from each source, by name; draws none of them."""
        chosen = Counter(self._choose(self._rng(_DRAW, i)) for i in range(start, stop))
        return {source.name: chosen[k] for k, source in enumerate(self.sources)}

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _choose(self, rng: np.random.Generator) -> int:
        place = np.searchsorted(np.cumsum(self.probabilities), rng.random(), side="right")
        return min(int(place), len(self.sources) - 1)  # the sum of the probabilities may fall short of 1 by a rounding

    def _mean_length(self, k: int, measure: Callable[[Document], int]) -> float:
        documents = [self.sources[k].document(self._rng(_MEASURE, k, j)) for j in range(MEASURED_DOCUMENTS)]
        mean = float(np.mean([measure(document) for document in documents]))
        if not mean > 0:
            name = self.sources[k].name
            raise UserError(f"source {name!r} gives documents of mean length {mean}; it needs some content")
        return mean


def _check(sources: Sequence[tuple[Source, float]]) -> None:
    if not sources:
        raise UserError("the mixture is empty; give at least one source")
    for source, weight in sources:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"weight {weight} of source {source.name!r} must be a number of at least 0")
    if all(weight == 0 for _, weight in sources):
        names = ", ".join(source.name for source, _ in sources)
        raise UserError(f"all weights of the mixture are 0 ({names}); give at least one source a weight above 0")
    repeated = [name for name, count in Counter(source.name for source, _ in sources).items() if count > 1]
    if repeated:
        raise UserError(f"two sources of the mixture have the name {repeated[0]!r}; name them apart")
