import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.datasets.shuffle import seeded_key, shuffled, shuffled_many


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 2000), key=st.integers(0, 2**64))
def test_it_is_a_permutation(length: int, key: int) -> None:
    order = [shuffled(place, length, key) for place in range(length)]
    assert sorted(order) == list(range(length))


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 2**60), key=st.integers(0, 2**64), share=st.floats(0, 1, exclude_max=True))
def test_places_of_long_permutations_differ(length: int, key: int, share: float) -> None:
    first = min(int(share * length), length - 1)
    places = range(first, min(first + 50, length))
    order = [shuffled(place, length, key) for place in places]
    assert len(set(order)) == len(order) and all(0 <= each < length for each in order)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 17])
def test_every_place_goes_everywhere_equally_often(length: int) -> None:
    keys = 4000
    table = np.zeros((length, length))
    for key in range(keys):
        for place in range(length):
            table[place, shuffled(place, length, key)] += 1
    expected = keys / length
    deviation = np.sqrt(keys / length * (1 - 1 / length))
    assert np.abs(table - expected).max() < 5 * deviation


def test_a_long_permutation_looks_random() -> None:
    length = 10_000
    order = np.array([shuffled(place, length, seeded_key(1, 2)) for place in range(length)])
    assert abs(np.corrcoef(np.arange(length), order)[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    steps = np.diff(order)
    assert abs((steps > 0).mean() - 0.5) < 0.025
    assert len(np.unique(steps)) > 0.4 * length  # no fixed stride
    assert abs((order == np.arange(length)).sum() - 1) < 8  # fixed points of a random permutation: one on average


def test_keys_give_different_orders() -> None:
    orders = {tuple(shuffled(place, 50, seeded_key(0, number)) for place in range(50)) for number in range(100)}
    assert len(orders) == 100
    assert seeded_key(1, 2) != seeded_key(2, 1)


@pytest.mark.parametrize("place", [-1, 5, 6])
def test_places_outside_are_refused(place: int) -> None:
    with pytest.raises(ValueError, match="of a permutation of 5"):
        shuffled(place, 5, 0)


@given(length=st.integers(1, 2**60), key=st.integers(0, 2**64), share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=60)
def test_many_places_are_shuffled_as_one_is(length: int, key: int, share: float) -> None:
    first = min(int(share * length), length - 1)
    places = np.arange(first, min(first + 20, length))
    assert shuffled_many(places, length, key).tolist() == [shuffled(place, length, key) for place in places.tolist()]
