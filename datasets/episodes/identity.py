"""What makes an episode the same episode in whichever file it lies: a digest of what happened in it.

What is held out is tied to these digests and not to places in a file, so that merging, splitting, appending and renaming files do not
turn an episode that was trained on into a held-out one.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from worldmodel.datasets.episodes.store import EpisodeStore

DIGEST_BYTES = 8
"""Two of a million different episodes have the same digest with a probability of 3 in 100 million."""


def identities(store: "EpisodeStore") -> list[str]:
    """Compute a digest of each episode, 16 hexadecimal digits: of its actions and physics states.

    Where there are no states, or they never change, the last frame distinguishes episodes with equal actions. Texts, success and
    how pictures are coded do not count.
    """
    return [_identity(store, i) for i in range(len(store))]


def _identity(store: "EpisodeStore", i: int) -> str:
    first, steps = int(store.offsets[i]), int(store.lengths[i])
    actions = store.rows("actions", first - i, first - i + steps)
    states = store.rows("state", first, first + steps + 1)
    digest = hashlib.blake2b(f"{actions.shape} {states.shape}".encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(actions, np.float32).tobytes())
    digest.update(np.ascontiguousarray(states, np.float64).tobytes())
    if (states == states[:1]).all():  # as of an array without columns
        digest.update(store.frame(i, steps).tobytes())
    return digest.hexdigest()


def chosen_share(names: list[str], share: float, seed: int) -> set[str]:
    """Choose a share of different names by a seed, by what they are and not by their order; at least one, and one is left over."""
    order = sorted(set(names), key=lambda name: hashlib.blake2b(f"{seed} {name}".encode()).digest())
    return set(order[: min(max(1, round(share * len(order))), len(order) - 1)])
