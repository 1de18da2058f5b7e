import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from worldmodel.datasets.documents import Document, Text, text_document
from worldmodel.datasets.mixture import Mixture
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Words:
    """Documents of `name` repeated a random number of times between low and high, and a random number."""

    name: str
    low: int = 1
    high: int = 1

    def document(self, rng: np.random.Generator) -> Document:
        repeats = int(rng.integers(self.low, self.high + 1))
        return text_document(" ".join([self.name] * repeats + [str(rng.integers(10**9))]))


def num_words(document: Document) -> int:
    return sum(len(segment.text.split()) - 1 for segment in document if isinstance(segment, Text))


def source_of(document: Document) -> str:
    (segment,) = document
    assert isinstance(segment, Text)
    return segment.text.split()[0]


def test_document_is_a_function_of_seed_and_number() -> None:
    sources = [(Words("a"), 1.0), (Words("b"), 2.0)]
    first, second = Mixture(sources, seed=7), Mixture(sources, seed=7)
    forward = [first.document(i) for i in range(50)]
    assert [second.document(i) for i in reversed(range(50))] == forward[::-1]
    assert list(itertools.islice(Mixture(sources, seed=7).iter_from(30), 20)) == forward[30:]
    assert len(set(forward)) == 50
    assert [Mixture(sources, seed=8).document(i) for i in range(50)] != forward


def test_shares_of_documents_without_a_measure() -> None:
    mixture = Mixture([(Words("a"), 6), (Words("b", 50, 50), 3), (Words("c"), 1), (Words("d"), 0)], seed=0)
    counts = mixture.counts(0, 4000)
    assert [source.name for source in mixture.sources] == ["a", "b", "c"]
    for name, share in {"a": 0.6, "b": 0.3, "c": 0.1}.items():
        assert abs(counts[name] / 4000 - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_shares_of_tokens_with_a_measure() -> None:
    weights = {"short": 0.5, "middle": 0.3, "long": 0.2}
    spans = {"short": (1, 3), "middle": (10, 30), "long": (200, 300)}
    mixture = Mixture([(Words(name, *spans[name]), weights[name]) for name in weights], seed=1, measure=num_words)
    words: Counter[str] = Counter()
    for i in range(6000):
        document = mixture.document(i)
        words[source_of(document)] += num_words(document)
    for name, share in weights.items():
        # the number drawn varies by 1 / sqrt(number), the mean length was measured to a few per cent
        drawn = 6000 * mixture.probabilities[list(weights).index(name)]
        assert words[name] / words.total() == pytest.approx(share, rel=4 / np.sqrt(drawn) + 0.1)


def test_counts_are_those_of_the_documents_drawn() -> None:
    mixture = Mixture([(Words("a"), 1), (Words("b"), 1)], seed=3)
    drawn = Counter(source_of(mixture.document(i)) for i in range(20, 120))
    assert mixture.counts(20, 120) == drawn


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "empty"),
        ([(Words("a"), 0.0), (Words("b"), 0)], r"all weights .* 0 \(a, b\)"),
        ([(Words("a"), 1.0), (Words("b"), -0.5)], "weight -0.5 of source 'b'"),
        ([(Words("a"), float("nan"))], "weight nan of source 'a'"),
        ([(Words("a"), float("inf"))], "weight inf"),
        ([(Words("a"), 1.0), (Words("a"), 2.0)], "the name 'a'"),
    ],
)
def test_bad_mixtures_are_refused(sources: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Mixture(sources, seed=0)


def test_source_without_content_is_refused() -> None:
    with pytest.raises(UserError, match="'a' gives documents of mean length 0"):
        Mixture([(Words("a"), 1.0)], seed=0, measure=lambda document: 0)
