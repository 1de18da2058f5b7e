"""The order of a source changes from pass to pass."""

from tests.datasets.mixture.test_mixture import Words
from worldmodel.datasets.mixture.mixture import WINDOW, Mixture


def test_every_pass_has_an_order_of_its_own() -> None:
    items = 40
    mixture = Mixture([(Words("a", items=items), 1.0)], 0)
    drawn: dict[int, dict[int, int]] = {}  # of each pass, the items by the source's own turns
    for i in range(2 * WINDOW):
        draw, (_, turn) = mixture.draw(i), mixture._turn_of(i)
        drawn.setdefault(draw.epoch, {})[turn % items] = draw.item
    passes = [[drawn[epoch][place] for place in range(items)] for epoch in range(4)]
    assert all(sorted(each) == list(range(items)) for each in passes)
    for number, one in enumerate(passes):
        for other in passes[:number]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < items / 4
