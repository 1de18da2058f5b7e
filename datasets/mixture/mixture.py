"""A weighted, seeded, resumable stream of documents from several sources.

Document i is a pure function of (seed, i), found in O(1): there is no state to save but a number, and ranks or worker
processes share a stream by taking different numbers. The sources take turns in fixed proportions, so how many documents of
each came before any point follows from a multiplication; within windows of 1,024 documents the turns are shuffled. A source
gives each of its items once before any comes again, in an order that is shuffled anew for every pass (epoch).
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.datasets.mixture.documents import Document
from worldmodel.datasets.mixture.source import Source
from worldmodel.datasets.shuffle import seeded_key, shuffled
from worldmodel.errors import UserError

WINDOW = 1024
"""Documents whose order is shuffled together: so far may one stand from its turn."""
MEASURED_DOCUMENTS = 256
"""Documents of each source whose mean length stands for the source."""
_BITS = 48  # of the fixed-point numbers that say how often a source has its turn: sums of them are exact
_ORDER, _PASS, _DOCUMENT, _MEASURE, _PHASE = range(5)


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
        self.probabilities = per_document / per_document.sum()
        """Share of the documents that each source gives."""
        left = np.cumsum(self.probabilities[::-1])[::-1]  # of each source and those after it
        self._rates = [round(p / rest * 2**_BITS) for p, rest in zip(self.probabilities[:-1], left[:-1], strict=True)]
        self._phases = [seeded_key(seed, _PHASE, k) % 2**_BITS for k in range(len(self._rates))]

    @property
    def mean_length(self) -> float:
        """Mean length of a document of the stream, in tokens."""
        return float(self.probabilities @ self.mean_lengths)

    def draw(self, i: int) -> Draw:
        """Return where document i comes from, 0 <= i; reads nothing."""
        k, number = self._turn_of(i)
        epoch, place = divmod(number, len(self.sources[k]))
        return Draw(k, epoch, shuffled(place, len(self.sources[k]), self._key(_PASS, k, epoch)))

    def document(self, i: int) -> Document:
        """Read document i, 0 <= i."""
        draw = self.draw(i)
        return self.sources[draw.source].document(draw.item, self._rng(_DOCUMENT, i))

    def source_name(self, i: int) -> str:
        """Return the source that document i comes from."""
        return self.sources[self._turn_of(i)[0]].name

    def counts(self, start: int, stop: int) -> dict[str, int]:
        """Count how many of the documents start .. stop - 1 come from each source, by name; draws none of them."""
        before, after = self._counts(start), self._counts(stop)
        return {source.name: after[k] - before[k] for k, source in enumerate(self.sources)}

    def epochs(self, stop: int) -> dict[str, float]:
        """Compute how often the first `stop` documents go through each source, by name."""
        counts = self._counts(stop)
        return {source.name: counts[k] / len(source) for k, source in enumerate(self.sources)}

    def _turn_of(self, i: int) -> tuple[int, int]:
        """Return the source of document i (an index), and how many documents it gave before in turn."""
        window, place = divmod(i, WINDOW)
        return self._turn(window * WINDOW + shuffled(place, WINDOW, self._key(_ORDER, window)))

    def _turn(self, n: int) -> tuple[int, int]:
        """Return whose turn it is (an index), and how many turns it had before.

        Each source in order takes its share of what those before it left: of n + phase turns the whole part of rate * turns.
        """
        for k, (rate, phase) in enumerate(zip(self._rates, self._phases, strict=True)):
            before = (n * rate + phase) >> _BITS
            if ((n + 1) * rate + phase) >> _BITS > before:
                return k, before
            n -= before
        return len(self._rates), n

    def _counts(self, stop: int) -> list[int]:
        """Count the documents of each source among the first `stop`."""
        window, rest = divmod(stop, WINDOW)
        left, counts = window * WINDOW, []
        for rate, phase in zip(self._rates, self._phases, strict=True):
            counts.append((left * rate + phase) >> _BITS)
            left -= counts[-1]
        counts.append(left)
        for k in self._window(window)[:rest] if rest else ():
            counts[k] += 1
        return counts

    @functools.lru_cache(maxsize=4)  # noqa: B019  a run that logs asks for the same window again and again
    def _window(self, window: int) -> list[int]:
        """List the sources of the documents of a window (indices)."""
        return [self._turn_of(i)[0] for i in range(window * WINDOW, (window + 1) * WINDOW)]

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
