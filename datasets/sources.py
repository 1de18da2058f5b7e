"""Sources of documents that read episode files: action video, video, captions both ways, questions.

A source has a name and a number of items, and makes a document from an item and a random generator; equal items and
generators give equal documents. Every source here is told which episodes it may use, so that validation episodes stay unseen.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from worldmodel.datasets.documents import (
    Document,
    action_video_document,
    caption_document,
    image_document,
    question_document,
    video_document,
)
from worldmodel.datasets.episode import Clip
from worldmodel.datasets.store import EpisodeStore
from worldmodel.errors import UserError


class Source(Protocol):
    """Anything a mixture can draw documents from."""

    @property
    def name(self) -> str:
        """What the source is called in counts and logs; different for each source of a mixture."""
        ...

    def __len__(self) -> int:
        """Number of items: a pass over the source (an epoch) gives each of them once."""
        ...

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """The document of an item, 0 <= item < len; what is random about it comes from `rng` and nothing else."""
        ...


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
        """Number of windows."""
        return int(self._stops[-1])

    def clip(self, place: int) -> Clip:
        """Window `place`, 0 <= place < len."""
        which = int(np.searchsorted(self._stops, place, side="right"))
        start = place - (int(self._stops[which - 1]) if which > 0 else 0)
        return self.store.clip(int(self.episodes[which]), start * self.store.action_block, self.length, self.action_block)


class ActionVideoSource:
    """Frames with the actions between them."""

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        length: int,
        action_block: int = 1,
        name: str = "action video",
    ) -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, length, action_block)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Frame, Action, Frame, ...] of a clip."""
        return action_video_document(self._sampler.clip(item))


class VideoSource:
    """Frames without actions."""

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        length: int,
        action_block: int = 1,
        name: str = "video",
    ) -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, length, action_block)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Frame, Frame, ...] of a clip."""
        return video_document(self._sampler.clip(item))


class FrameSampler:
    """All frames of some episodes."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int]) -> None:
        self.store = store
        self.episodes = np.asarray(episodes, np.int64)
        if len(self.episodes) == 0:
            raise UserError(f"{store.path}: no episode to draw frames from")
        self._stops = np.cumsum(store.lengths[self.episodes] + 1)

    def __len__(self) -> int:
        """Number of frames."""
        return int(self._stops[-1])

    def place(self, place: int) -> tuple[int, int]:
        """(episode, frame) of frame `place`, 0 <= place < len."""
        which = int(np.searchsorted(self._stops, place, side="right"))
        return int(self.episodes[which]), place - (int(self._stops[which - 1]) if which > 0 else 0)


class CaptionSource:
    """Frames and what is true of them: picture to text."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "caption") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Frame, Text] of a frame."""
        i, t = self._sampler.place(item)
        return caption_document(self._sampler.store.frame(i, t), self._sampler.store.caption(i, t))


class CaptionedImageSource:
    """Captions and a frame each is true of: text to picture."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "captioned image") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Text, Frame] of a frame."""
        i, t = self._sampler.place(item)
        return image_document(self._sampler.store.caption(i, t), self._sampler.store.frame(i, t))


class QuestionSource:
    """Frames, a question about each, and the answer."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "question") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """[Frame, Text, Text] of a frame."""
        i, t = self._sampler.place(item)
        question, answer = self._sampler.store.question(i, t)
        return question_document(self._sampler.store.frame(i, t), question, answer)
