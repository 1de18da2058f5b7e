"""Windows and frames of the episodes that a source may use, by number: each has a place, and with empty texts another is drawn."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

T = TypeVar("T")
MOST_WITHOUT_TEXT = 1000
"""Places looked at in vain before a source gives up finding one with a text."""


class ClipSampler:
    """Windows of `length` model steps of `action_block` environment actions, one for each place where one fits.

    UserError where no episode is long enough, or the file was recorded in other blocks.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, action_block: int = 1) -> None:
        if length < 1 or action_block < 1:
            raise ValueError(f"a clip needs at least 1 step of 1 action, got {length} of {action_block}")
        self.store, self.length, self.action_block = store, length, action_block
        self.episodes = np.asarray(episodes, np.int64)
        lengths = store.lengths[self.episodes]  # in recorded steps, as the places
        in_clip = length * store.recorded_steps(action_block)
        self._stops = np.cumsum(np.maximum(lengths - in_clip + 1, 0))  # places up to and with each episode
        if len(self._stops) == 0 or self._stops[-1] == 0:
            longest = int(lengths.max()) * store.action_block if len(lengths) else 0
            raise UserError(
                f"{store.path}: none of {len(lengths)} episodes holds a clip of {length} steps of "
                f"{action_block} actions, the longest has {longest}; take shorter clips or longer episodes"
            )

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._stops[-1])

    def place(self, place: int) -> tuple[int, int]:
        """Return (episode, first recorded step) of window `place`, 0 <= place < len."""
        which, start = find_span(self._stops, place)
        return int(self.episodes[which]), start

    def clip(self, place: int) -> Clip:
        """Read window `place`, 0 <= place < len."""
        episode, start = self.place(place)
        return self.store.clip(episode, start * self.store.action_block, self.length, self.action_block)

    def draw(self, rng: np.random.Generator) -> Clip:
        """Draw any window, all equally likely."""
        return self.clip(int(rng.integers(len(self))))


class EpisodeFrameSampler:
    """All frames of some episodes."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int]) -> None:
        self.store = store
        self.episodes = np.asarray(episodes, np.int64)
        if len(self.episodes) == 0:
            raise UserError(f"{store.path}: no episode to draw frames from")
        self._stops = np.cumsum(store.lengths[self.episodes] + 1)

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self._stops[-1])

    def place(self, place: int) -> tuple[int, int]:
        """Return (episode, frame) of frame `place`, 0 <= place < len."""
        which, t = find_span(self._stops, place)
        return int(self.episodes[which]), t

    def caption(self, place: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Read frame `place` (uint8, H W 3) and its caption; where that is empty, those of another frame drawn with `rng`."""

        def read(place: int) -> tuple[tuple[int, int], str]:
            at = self.place(place)
            return at, self.store.caption(*at)

        at, caption = with_text(read, place, len(self), rng, lambda found: [found[1]], self.store)
        return self.store.frame(*at), caption


def find_span(stops: np.ndarray, place: int) -> tuple[int, int]:
    """Find which span holds a place, and where in it: span k ends before `stops[k]`."""
    which = int(np.searchsorted(stops, place, side="right"))
    return which, place - (int(stops[which - 1]) if which > 0 else 0)


def with_text(
    read: Callable[[int], T], place: int, length: int, rng: np.random.Generator, texts: Callable[[T], list[str]], store: EpisodeStore
) -> T:
    """Read what is at `place`, or, while one of its texts is empty, at others drawn with `rng`."""
    for _ in range(MOST_WITHOUT_TEXT):
        found = read(place)
        if all(texts(found)):
            return found
        place = int(rng.integers(length))
    raise UserError(f"{store.path}: {MOST_WITHOUT_TEXT} places in a row have no text; leave this kind of document out")
