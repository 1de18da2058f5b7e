"""A weighted, seeded, resumable stream of documents from several sources.

Document i is a pure function of (seed, i), found in O(1): there is no state to save but a number, and ranks or worker
processes share a stream by taking different numbers. Documents come in blocks of 65,536. In each block every source has a
fixed quota in a shuffled order, so the n-th document of a source is known without drawing those before it; a source gives
each of its items once before any comes again, in an order that is shuffled anew for every pass (epoch).
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.datasets.documents import Document
from worldmodel.datasets.shuffle import seeded_key, shuffled
from worldmodel.datasets.sources import Source
from worldmodel.errors import UserError

BLOCK = 2**16
"""Documents in which every source meets its quota exactly."""
MEASURED_DOCUMENTS = 128
"""Documents of each source whose mean length stands for the source."""
_ORDER, _PASS, _DOCUMENT, _MEASURE = range(4)


@dataclass(frozen=True)
class Draw:
    """Where one document of the stream comes from."""

    source: int
    """Index into `Mixture.sources`."""
    epoch: int
    """How often the source was gone through before."""
    item: int
    """Which of the source's items."""


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
        self.weights = shares / shares.sum()
        """Share of the stream that each source is to have: of its tokens, or of its documents without `measure`."""
        self.mean_lengths = np.ones(len(shares))
        """Mean length of the documents of each source, in tokens; 1 without `measure`."""
        if measure is not None:
            self.mean_lengths = np.array([self._mean_length(k, measure) for k in range(len(self.sources))])
        per_document = self.weights / self.mean_lengths
        self.quotas = quotas(per_document / per_document.sum(), BLOCK)
        """Documents of each source in a block, int64."""
        self.probabilities = self.quotas / BLOCK
        """Share of the documents that each source gives."""
        self._ends = np.cumsum(self.quotas)

    @property
    def mean_length(self) -> float:
        """Mean length of a document of the stream, in tokens."""
        return float(self.probabilities @ self.mean_lengths)

    def draw(self, i: int) -> Draw:
        """Where document i comes from, 0 <= i; reads nothing."""
        block, place = divmod(i, BLOCK)
        place = shuffled(place, BLOCK, self._key(_ORDER, block))
        k = int(np.searchsorted(self._ends, place, side="right"))
        number = block * int(self.quotas[k]) + place - int(self._ends[k] - self.quotas[k])  # of all documents of the source
        epoch, place = divmod(number, len(self.sources[k]))
        return Draw(k, epoch, shuffled(place, len(self.sources[k]), self._key(_PASS, k, epoch)))

    def document(self, i: int) -> Document:
        """Document i, 0 <= i."""
        draw = self.draw(i)
        return self.sources[draw.source].document(draw.item, self._rng(_DOCUMENT, i))

    def source_name(self, i: int) -> str:
        """The source that document i comes from."""
        return self.sources[self.draw(i).source].name

    def iter_from(self, start: int) -> Iterator[Document]:
        """Documents start, start + 1, ... without end."""
        return map(self.document, itertools.count(start))

    def counts(self, start: int, stop: int) -> dict[str, int]:
        """How many of the documents start .. stop - 1 come from each source, by name; draws none of them."""
        whole = {name: -count for name, count in self._counts(start).items()}
        return {name: whole[name] + count for name, count in self._counts(stop).items()}

    def epochs(self, stop: int) -> dict[str, float]:
        """How often the first `stop` documents go through each source, by name (within a block: about)."""
        return {source.name: float(stop * self.probabilities[k] / len(source)) for k, source in enumerate(self.sources)}

    def _counts(self, stop: int) -> dict[str, int]:
        block, rest = divmod(stop, BLOCK)
        key = self._key(_ORDER, block)
        places = np.array([shuffled(place, BLOCK, key) for place in range(rest)], np.int64)
        part = np.bincount(np.searchsorted(self._ends, places, side="right"), minlength=len(self.sources))
        return {source.name: int(block * self.quotas[k] + part[k]) for k, source in enumerate(self.sources)}

    @functools.lru_cache(maxsize=1024)  # noqa: B019  a mixture lives as long as its run
    def _key(self, *numbers: int) -> int:
        return seeded_key(self.seed, *numbers)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _mean_length(self, k: int, measure: Callable[[Document], int]) -> float:
        source, key = self.sources[k], self._key(_MEASURE, k)
        items = (shuffled(j % len(source), len(source), key) for j in range(MEASURED_DOCUMENTS))
        documents = (source.document(item, self._rng(_MEASURE, k, j)) for j, item in enumerate(items))
        mean = float(np.mean([measure(document) for document in documents]))
        if not mean > 0:
            raise UserError(f"source {source.name!r} gives documents of mean length {mean}; it needs some content")
        return mean


def quotas(probabilities: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers, at least 1 each, that add up to `total` in about the given proportions (largest remainder)."""
    exact = probabilities * (total - len(probabilities))
    numbers = np.floor(exact).astype(np.int64)
    for k in np.argsort(numbers - exact, kind="stable")[: total - len(probabilities) - int(numbers.sum())]:
        numbers[k] += 1
    return numbers + 1


def _check(sources: Sequence[tuple[Source, float]]) -> None:
    if not sources:
        raise UserError("the mixture is empty; give at least one source")
    for source, weight in sources:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"weight {weight} of source {source.name!r} must be a number of at least 0")
        if weight > 0 and len(source) < 1:
            raise UserError(f"source {source.name!r} of the mixture is empty")
    if all(weight == 0 for _, weight in sources):
        names = ", ".join(source.name for source, _ in sources)
        raise UserError(f"all weights of the mixture are 0 ({names}); give at least one source a weight above 0")
    repeated = [name for name, count in Counter(source.name for source, _ in sources).items() if count > 1]
    if repeated:
        raise UserError(f"two sources of the mixture have the name {repeated[0]!r}; name them apart")
