"""What a mixture draws, in shares of the tokens, counted and by the sources' mean lengths."""

from dataclasses import replace

import pytest

from tests.datasets.mixture.test_mixture import Words, num_words
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.source import Part
from worldmodel.datasets.mixture.stats import as_rows, mixture_stats

PARTS = [Part(Words("short", 2, 2, items=100), "text", 3.0, "MIT"), Part(Words("long", 100, 100, items=40), "text", 1.0, "none")]


def test_shares_are_of_tokens_and_not_of_documents() -> None:
    mixture = Mixture([(part.source, part.weight) for part in PARTS], seed=0, measure=num_words)
    for measure in (num_words, None):
        short, long = mixture_stats(PARTS, mixture, 15100, measure)
        assert (short.documents, long.documents) == pytest.approx((15000, 100), abs=2)  # 3 / 2 to 1 / 100
        assert (short.asked, long.asked) == (0.75, 0.25)
        assert (short.share, long.share) == pytest.approx((0.75, 0.25), abs=0.005)
        assert (short.epochs, long.epochs) == pytest.approx((150, 2.5), abs=0.06) and (short.items, long.items) == (100, 40)
    assert as_rows([replace(long, share=0.125, epochs=2.5)]) == [["long", "text", "40", "25.00%", "12.50%", "2.5", "none"]]
