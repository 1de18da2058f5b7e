"""A shuffled order of any length without a list of it: item `place` of a seeded permutation, in O(1) time and memory."""

import numpy as np

_ROUNDS = 6
_MIX = 0xFF51AFD7ED558CCD  # odd, of 64 bits: the multiplier of a common integer hash
_WORD = (1 << 64) - 1


def shuffled(place: int, length: int, key: int) -> int:
    """Compute where a seeded permutation of 0 .. length - 1 sends `place`.

    A Feistel network over the next even number of bits is a bijection; walking on until the result is below
    `length` keeps it one (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        place: 0 <= place < length.
        length: of the permutation.
        key: which permutation, any non-negative number.

    Raises:
        ValueError: there is no such place.
    """
    if not 0 <= place < length:
        raise ValueError(f"place {place} of a permutation of {length}")
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _round_keys(key)
    while True:
        left, right = place >> half, place & mask
        for round_key in keys:
            left, right = right, left ^ (_hash(right ^ round_key) & mask)
        place = (left << half) | right
        if place < length:
            return place


def shuffled_many(places: np.ndarray, length: int, key: int) -> np.ndarray:
    """Apply `shuffled` to many places at once: int64 (n,) -> int64 (n,)."""
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _round_keys(key)
    found = places.astype(np.uint64)
    walking = np.arange(len(places))
    while len(walking):
        left, right = found[walking] >> half, found[walking] & mask
        for round_key in keys:
            left, right = right, left ^ (_hash(right ^ round_key) & mask)  # type: ignore[arg-type]  # uint64 wraps as it should
        found[walking] = left << half | right
        walking = walking[found[walking] >= length]
    return found.astype(np.int64)


def _round_keys(key: int) -> list[int]:
    return [_hash(_hash(key) + 0x9E3779B97F4A7C15 * (number + 1)) for number in range(_ROUNDS)]


def _hash(value: int) -> int:
    value = (value ^ (value >> 33)) * _MIX & _WORD
    value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53 & _WORD
    return value ^ (value >> 33)


def seeded_key(*numbers: int) -> int:
    """Make a key for `shuffled` from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
