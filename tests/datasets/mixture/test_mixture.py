from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.datasets.mixture.documents import Document, Text, text_document
from worldmodel.datasets.mixture.mixture import WINDOW, Mixture
from worldmodel.errors import UserError

SEEDS = st.integers(0, 2**63)
SHARES = st.lists(st.one_of(st.floats(0.001, 1), st.floats(1, 1000)), min_size=1, max_size=8)


@dataclass(frozen=True)
class Words:
    """Documents of `name` repeated a random number of times between low and high, the item, and a random number."""

    name: str
    low: int = 1
    high: int = 1
    items: int = 1000

    def __len__(self) -> int:
        return self.items

    def document(self, item: int, rng: np.random.Generator) -> Document:
        assert 0 <= item < self.items
        repeats = int(rng.integers(self.low, self.high + 1))
        return text_document(" ".join([self.name] * repeats + [str(item), str(rng.integers(10**9))]))


def num_words(document: Document) -> int:
    return sum(len(segment.text.split()) - 2 for segment in document if isinstance(segment, Text))


def source_of(document: Document) -> str:
    (segment,) = document
    assert isinstance(segment, Text)
    return segment.text.split()[0]


def mixture_of(shares: list[float], seed: int, items: int = 1000) -> Mixture:
    return Mixture([(Words(f"s{k}", items=items), share) for k, share in enumerate(shares)], seed)


def test_document_is_a_function_of_seed_and_number() -> None:
    sources = [(Words("a"), 1.0), (Words("b"), 2.0)]
    first, second = Mixture(sources, seed=7), Mixture(sources, seed=7)
    forward = [first.document(i) for i in range(50)]
    assert [second.document(i) for i in reversed(range(50))] == forward[::-1]
    assert len(set(forward)) == 50
    assert [Mixture(sources, seed=8).document(i) for i in range(50)] != forward


@settings(deadline=None, max_examples=30)
@given(shares=SHARES, seed=SEEDS, start=st.integers(0, 10**12))
def test_far_documents_are_found_like_near_ones(shares: list[float], seed: int, start: int) -> None:
    mixture = mixture_of(shares, seed)
    draws = [mixture.draw(i) for i in range(start, start + 20)]
    assert draws == [mixture_of(shares, seed).draw(i) for i in range(start, start + 20)]
    assert [mixture.source_name(start + j) for j in range(20)] == [mixture.sources[draw.source].name for draw in draws]


@settings(deadline=None, max_examples=30)
@given(shares=SHARES, seed=SEEDS, windows=st.integers(1, 10**9))
def test_every_source_keeps_its_share_at_any_point(shares: list[float], seed: int, windows: int) -> None:
    mixture = mixture_of(shares, seed)
    stop = windows * WINDOW
    counts = mixture.counts(0, stop)
    assert sum(counts.values()) == stop
    for name, share in zip(counts, mixture.probabilities, strict=True):
        # the sources before it round by less than one document each; a rate is exact to 2^-48
        assert abs(counts[name] - stop * share) <= len(shares) * (1 + stop * 2.0**-46)


@settings(deadline=None, max_examples=20)
@given(shares=SHARES, seed=SEEDS, start=st.integers(0, 5 * WINDOW), length=st.integers(0, 2000))
def test_counts_are_those_of_the_documents_drawn(shares: list[float], seed: int, start: int, length: int) -> None:
    mixture = mixture_of(shares, seed)
    drawn = Counter(mixture.source_name(i) for i in range(start, start + length))
    assert mixture.counts(start, start + length) == {source.name: drawn[source.name] for source in mixture.sources}


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, items=st.lists(st.integers(1, 500), min_size=1, max_size=4))
def test_a_pass_gives_each_item_once(seed: int, items: list[int]) -> None:
    mixture = Mixture([(Words(f"s{k}", items=number), 1.0) for k, number in enumerate(items)], seed)
    stop = 2 * WINDOW
    passes: dict[tuple[int, int], list[int]] = {}
    for draw in map(mixture.draw, range(stop)):
        passes.setdefault((draw.source, draw.epoch), []).append(draw.item)
    assert all(len(set(drawn)) == len(drawn) for drawn in passes.values())
    for k, number in enumerate(items):
        count = mixture.counts(0, stop)[f"s{k}"]
        assert mixture.epochs(stop)[f"s{k}"] == count / number
        for epoch in range(count // number):  # whole passes hold every item
            assert sorted(passes[k, epoch]) == list(range(number))


def test_no_item_comes_again_long_before_its_pass_is_over() -> None:
    items = 3 * WINDOW
    mixture = Mixture([(Words("a", items=items), 1.0), (Words("b"), 1.0)], seed=0)
    passes: dict[int, list[int]] = {}
    for i in range(12 * WINDOW):
        draw = mixture.draw(i)
        if draw.source == 0:
            passes.setdefault(draw.epoch, []).append(i)
    assert sorted(passes) == [0, 1]
    assert min(passes[1]) > max(passes[0]) - WINDOW  # passes overlap within a window at most
    orders = [[mixture.draw(i).item for i in passes[epoch][:100]] for epoch in (0, 1)]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_sources_do_not_follow_a_pattern() -> None:
    mixture = mixture_of([1.0, 1.0], 0)
    names = np.array([mixture.draw(i).source for i in range(4 * WINDOW)])
    for step in (2, 3, 4, 8):  # a rank that takes every second document must not get one source alone
        for first in range(step):
            part = names[first::step]
            assert abs(part.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(part))


def test_shares_of_documents_without_a_measure() -> None:
    mixture = Mixture([(Words("a"), 6), (Words("b", 50, 50), 3), (Words("c"), 1), (Words("d"), 0)], seed=0)
    counts = mixture.counts(0, 4 * WINDOW)
    assert [source.name for source in mixture.sources] == ["a", "b", "c"]
    assert mixture.mean_length == pytest.approx(1)
    for name, share in {"a": 0.6, "b": 0.3, "c": 0.1}.items():
        assert abs(counts[name] - share * 4 * WINDOW) <= 3


def test_shares_of_tokens_with_a_measure() -> None:
    weights = {"short": 0.5, "middle": 0.3, "long": 0.2}
    spans = {"short": (1, 3), "middle": (10, 30), "long": (200, 300)}
    mixture = Mixture([(Words(name, *spans[name]), weights[name]) for name in weights], seed=1, measure=num_words)
    words: Counter[str] = Counter()
    for i in range(6000):
        document = mixture.document(i)
        words[source_of(document)] += num_words(document)
    for name, share in weights.items():
        # the number drawn is exact; lengths vary, and their mean was measured on 256 documents
        drawn = 6000 * mixture.probabilities[list(weights).index(name)]
        assert words[name] / words.total() == pytest.approx(share, rel=2 / np.sqrt(drawn) + 0.1)
    assert words.total() / 6000 == pytest.approx(mixture.mean_length, rel=0.1)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "empty"),
        ([(Words("a"), 0.0), (Words("b"), 0)], r"all weights .* 0 \(a, b\)"),
        ([(Words("a"), 1.0), (Words("b"), -0.5)], "weight -0.5 of source 'b'"),
        ([(Words("a"), float("nan"))], "weight nan of source 'a'"),
        ([(Words("a"), float("inf"))], "weight inf"),
        ([(Words("a"), 1.0), (Words("a"), 2.0)], "the name 'a'"),
        ([(Words("a"), 1.0), (Words("b", items=0), 2.0)], "source 'b' of the mixture is empty"),
    ],
)
def test_bad_mixtures_are_refused(sources: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Mixture(sources, seed=0)


def test_source_without_content_is_refused() -> None:
    with pytest.raises(UserError, match="'a' gives documents of mean length 0"):
        Mixture([(Words("a"), 1.0)], seed=0, measure=lambda document: 0)
