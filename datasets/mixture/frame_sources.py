"""Sources of single frames with what is said about them: captions both ways, questions, instructions."""

from collections.abc import Iterator, Sequence

import numpy as np

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.documents import (
    Document,
    caption_document,
    image_document,
    instruction_document,
    question_document,
)
from worldmodel.datasets.mixture.samplers import EpisodeFrameSampler, find_span, with_text
from worldmodel.datasets.mixture.source import Entry, EpisodeSource, Opening, Source
from worldmodel.errors import UserError


class FrameSource(EpisodeSource):
    """One document for each frame of the episodes."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "") -> None:
        self.name = name or self.kind
        self._sampler = EpisodeFrameSampler(store, episodes)

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        return cls(store, episodes, entry.name)


class CaptionSource(FrameSource):
    """Frames and what is true of them: picture to text."""

    kind, texts = "caption", ("captions",)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text] of a frame."""
        frame, caption = self._sampler.caption(item, rng)
        return caption_document(frame, caption)


class CaptionedImageSource(CaptionSource):
    """Captions and a frame each is true of: text to picture."""

    kind = "captioned image"

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Text, Frame] of a frame."""
        frame, caption = self._sampler.caption(item, rng)
        return image_document(caption, frame)


class QuestionSource(FrameSource):
    """Frames, a question about each, and the answer."""

    kind, texts = "question", ("questions", "answers")

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text, Text] of a frame; where nothing was asked, that of another frame drawn with `rng`."""
        store = self._sampler.store

        def read(place: int) -> tuple[tuple[int, int], tuple[str, str]]:
            at = self._sampler.place(place)
            return at, store.question(*at)

        at, asked = with_text(read, item, len(self), rng, lambda found: list(found[1]), store)
        return question_document(store.frame(*at), *asked)


class InstructionSource(EpisodeSource):
    """A frame, the instruction of its episode, and the first frame that fulfils it; of the episodes that succeed.

    UserError where no episode has an instruction and comes to fulfill it.
    """

    kind, texts = "instruction", ("goal_text",)

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], name: str = "instruction") -> None:
        self.name = name
        self._store = store
        self._reached = dict(first_successes(store, episodes))
        self._episodes = list(self._reached)
        if not self._episodes:
            raise UserError(f"{store.path}: none of {len(episodes)} episodes has an instruction that it comes to fulfill")
        self._stops = np.cumsum(list(self._reached.values()))

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        return cls(store, episodes, entry.name)

    @classmethod
    def missing(cls, store: EpisodeStore, episodes: Sequence[int]) -> str | None:
        """Say what a file lacks: instructions, or episodes that come to fulfill theirs."""
        reached = next(first_successes(store, episodes), None)
        return super().missing(store, episodes) or ("episodes that succeed" if reached is None else None)

    def __len__(self) -> int:
        return int(self._stops[-1])

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Text, Frame] of a frame before the goal is reached."""
        which, t = find_span(self._stops, item)
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
