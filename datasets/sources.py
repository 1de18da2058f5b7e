"""Sources of documents that read episode files: action video, video, captions both ways, questions, changes, instructions.

A source has a name and a number of items, and makes a document from an item and a random generator; equal items and
generators give equal documents. Every source here is given the episodes that it may use, so that validation episodes stay unseen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from worldmodel.datasets.documents import (
    Document,
    action_video_document,
    caption_document,
    change_document,
    image_document,
    instruction_document,
    question_document,
    video_document,
)
from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

T = TypeVar("T")
MOST_WITHOUT_TEXT = 1000
"""Places looked at in vain before a source gives up finding one with a text."""


class Source(Protocol):
    """Anything a mixture can draw documents from."""

    @property
    def name(self) -> str:
        """What the source is called in counts and logs; different for each source of a mixture."""
        ...

    def __len__(self) -> int:
        """Return the number of items: a pass over the source (an epoch) gives each of them once."""
        ...

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make the document of an item, 0 <= item < len; what is random about it comes from `rng` and nothing else."""
        ...


class JoinedSource:
    """Several sources as one: its items are those of its parts, end to end, so that each counts by its number of items.

    Args:
        name: of the whole.
        parts: one source or more.
    """

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        self.name = name
        self.parts = list(parts)
        self._stops = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make a document of the part that the item lies in."""
        which, place = _find(self._stops, item)
        return self.parts[which].document(place, rng)


class ClipSampler:
    """Windows of a fixed length, one for each place where one fits.

    Args:
        store: the episode file.
        episodes: which of its episodes may be used.
        length: model steps per clip; a clip has length + 1 frames.
        action_block: environment actions per model step.

    Raises:
        UserError: no episode is long enough.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, action_block: int = 1) -> None:
        if length < 1 or action_block < 1:
            raise ValueError(f"a clip needs at least 1 step of 1 action, got {length} of {action_block}")
        self.store, self.length, self.action_block = store, length, action_block
        self.episodes = np.asarray(episodes, np.int64)
        recorded = store.action_block
        if action_block % recorded:
            raise UserError(
                f"{store.path} was recorded in blocks of {recorded} actions; the action block of {action_block} must be a "
                f"multiple of {recorded}"
            )
        lengths = store.lengths[self.episodes]  # in recorded steps, as the places
        in_clip = length * action_block // recorded
        self._stops = np.cumsum(np.maximum(lengths - in_clip + 1, 0))  # places up to and with each episode
        if len(self._stops) == 0 or self._stops[-1] == 0:
            longest = int(lengths.max()) * recorded if len(lengths) else 0
            raise UserError(
                f"{store.path}: none of {len(lengths)} episodes holds a clip of {length} steps of "
                f"{action_block} actions, the longest has {longest}; take shorter clips or longer episodes"
            )

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._stops[-1])

    def place(self, place: int) -> tuple[int, int]:
        """Return (episode, first recorded step) of window `place`, 0 <= place < len."""
        which, start = _find(self._stops, place)
        return int(self.episodes[which]), start

    def clip(self, place: int) -> Clip:
        """Read window `place`, 0 <= place < len."""
        episode, start = self.place(place)
        return self.store.clip(episode, start * self.store.action_block, self.length, self.action_block)

    def draw(self, rng: np.random.Generator) -> Clip:
        """Draw any window, all equally likely."""
        return self.clip(int(rng.integers(len(self))))


class VideoSource:
    """Frames without actions."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, action_block: int = 1, name: str = "video") -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, length, action_block)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Frame, ...] of a clip."""
        return video_document(self._sampler.clip(item))


class ActionVideoSource(VideoSource):
    """Frames with the actions between them."""

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Action, Frame, ...] of a clip."""
        return action_video_document(self._sampler.clip(item))


class ChangeSource:
    """Two frames, one model step apart, and what changed from the first to the second."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], action_block: int = 1, name: str = "change") -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, 1, action_block)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Frame, Text] of a step; where no change was recorded, that of another step drawn with `rng`."""
        sampler = self._sampler
        return change_document(
            _with_text(sampler.clip, item, len(self), rng, lambda clip: [clip.changes[0].strip("; ")], sampler.store)
        )


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
        which, t = _find(self._stops, place)
        return int(self.episodes[which]), t

    def caption(self, place: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Read frame `place` (uint8, H W 3) and its caption; where that is empty, those of another frame drawn with `rng`."""

        def read(place: int) -> tuple[tuple[int, int], str]:
            at = self.place(place)
            return at, self.store.caption(*at)

        at, caption = _with_text(read, place, len(self), rng, lambda found: [found[1]], self.store)
        return self.store.frame(*at), caption


class CaptionSource:
    """Frames and what is true of them: picture to text."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "caption") -> None:
        self.name = name
        self._sampler = EpisodeFrameSampler(store, episodes)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text] of a frame."""
        frame, caption = self._sampler.caption(item, rng)
        return caption_document(frame, caption)


class CaptionedImageSource(CaptionSource):
    """Captions and a frame each is true of: text to picture."""

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Text, Frame] of a frame."""
        frame, caption = self._sampler.caption(item, rng)
        return image_document(caption, frame)


class QuestionSource:
    """Frames, a question about each, and the answer."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "question") -> None:
        self.name = name
        self._sampler = EpisodeFrameSampler(store, episodes)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text, Text] of a frame; where nothing was asked, that of another frame drawn with `rng`."""
        store = self._sampler.store

        def read(place: int) -> tuple[tuple[int, int], tuple[str, str]]:
            at = self._sampler.place(place)
            return at, store.question(*at)

        at, asked = _with_text(read, item, len(self), rng, lambda found: list(found[1]), store)
        return question_document(store.frame(*at), *asked)


class InstructionSource:
    """A frame, the instruction of its episode, and the first frame that fulfils it; of the episodes that succeed.

    Raises:
        UserError: no episode has an instruction and comes to fulfill it.
    """

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "instruction") -> None:
        self.name = name
        self._store = store
        self._reached = dict(first_successes(store, episodes))
        self._episodes = list(self._reached)
        if not self._episodes:
            raise UserError(f"{store.path}: none of {len(episodes)} episodes has an instruction that it comes to fulfill")
        self._stops = np.cumsum(list(self._reached.values()))

    def __len__(self) -> int:
        return int(self._stops[-1])

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text, Frame] of a frame before the goal is reached."""
        which, t = _find(self._stops, item)
        i = self._episodes[which]
        goal = self._store.frame(i, self._reached[i])
        return instruction_document(self._store.frame(i, t), self._store.goal_text(i), goal)


def first_successes(store: EpisodeStore, episodes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """List (episode, frame at which it first succeeds) of those with an instruction that do so after their first frame."""
    success = store.column("success")
    for i in episodes:
        of_episode = success[store.offsets[i] : store.offsets[i] + store.lengths[i] + 1]
        if of_episode.any() and not of_episode[0] and store.goal_text(i):
            yield i, int(np.argmax(of_episode))


def _find(stops: np.ndarray, place: int) -> tuple[int, int]:
    """Find which span holds a place, and where in it: span k ends before `stops[k]`."""
    which = int(np.searchsorted(stops, place, side="right"))
    return which, place - (int(stops[which - 1]) if which > 0 else 0)


def _with_text(
    read: Callable[[int], T], place: int, length: int, rng: np.random.Generator, texts: Callable[[T], list[str]], store: EpisodeStore
) -> T:
    """Read what is at `place`, or, while one of its texts is empty, at others drawn with `rng`."""
    for _ in range(MOST_WITHOUT_TEXT):
        found = read(place)
        if all(texts(found)):
            return found
        place = int(rng.integers(length))
    raise UserError(f"{store.path}: {MOST_WITHOUT_TEXT} places in a row have no text; leave this kind of document out")
