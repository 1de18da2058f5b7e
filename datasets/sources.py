"""Sources of documents that read episode files: action video, video, captions both ways, questions.

A source has a name and makes one document from a random generator; equal generators give equal documents.
Every source here is told which episodes it may use, so that validation episodes stay unseen.
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

    def document(self, rng: np.random.Generator) -> Document:
        """A document drawn with `rng` and nothing else."""
        ...


class ClipSampler:
    """Draws windows of a fixed length, uniformly over all places where one fits.

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

    def draw(self, rng: np.random.Generator) -> Clip:
        """One clip."""
        place = int(rng.integers(self._stops[-1]))
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

    def document(self, rng: np.random.Generator) -> Document:
        """[Frame, Action, Frame, ...] of a random clip."""
        return action_video_document(self._sampler.draw(rng))


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

    def document(self, rng: np.random.Generator) -> Document:
        """[Frame, Frame, ...] of a random clip."""
        return video_document(self._sampler.draw(rng))


class FrameSampler:
    """Draws single frames, uniformly over all frames of some episodes."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int]) -> None:
        self.store = store
        self.episodes = np.asarray(episodes, np.int64)
        if len(self.episodes) == 0:
            raise UserError(f"{store.path}: no episode to draw frames from")
        self._stops = np.cumsum(store.lengths[self.episodes] + 1)

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(episode, frame) of one frame."""
        place = int(rng.integers(self._stops[-1]))
        which = int(np.searchsorted(self._stops, place, side="right"))
        return int(self.episodes[which]), place - (int(self._stops[which - 1]) if which > 0 else 0)


class CaptionSource:
    """Frames and what is true of them: picture to text."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "caption") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def document(self, rng: np.random.Generator) -> Document:
        """[Frame, Text] of a random frame."""
        i, t = self._sampler.draw(rng)
        return caption_document(self._sampler.store.frame(i, t), self._sampler.store.caption(i, t))


class CaptionedImageSource:
    """Captions and a frame each is true of: text to picture."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "captioned image") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def document(self, rng: np.random.Generator) -> Document:
        """[Text, Frame] of a random frame."""
        i, t = self._sampler.draw(rng)
        return image_document(self._sampler.store.caption(i, t), self._sampler.store.frame(i, t))


class QuestionSource:
    """Frames, a question about each, and the answer."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "question") -> None:
        self.name = name
        self._sampler = FrameSampler(store, episodes)

    def document(self, rng: np.random.Generator) -> Document:
        """[Frame, Text, Text] of a random frame."""
        i, t = self._sampler.draw(rng)
        question, answer = self._sampler.store.question(i, t)
        return question_document(self._sampler.store.frame(i, t), question, answer)
