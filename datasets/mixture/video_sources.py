"""Sources of several frames in time: video with and without actions, and what changed in a step."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from worldmodel.datasets.episodes.action_units import ActionUnits, in_units
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.documents import Document, action_video_document, change_document, video_document
from worldmodel.datasets.mixture.samplers import ClipSampler, with_text
from worldmodel.datasets.mixture.source import Entry, EpisodeSource, Opening, Source


class VideoSource(EpisodeSource):
    """Frames without actions."""

    kind, actions = "video", False
    options: ClassVar[dict[str, str]] = {"files": "", "clip_length": "clip_length"}

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], length: int, action_block: int = 1, name: str = "video") -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, length, action_block)

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        return cls(store, episodes, entry.clip_length or 1, opening.action_block, entry.name)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Frame, ...] of a clip."""
        return video_document(self._sampler.clip(item))


class ActionVideoSource(VideoSource):
    """Frames with the actions between them; `units` are those of the actions' vectors."""

    kind, actions = "action video", True

    def __init__(
        self,
        store: EpisodeStore,
        episodes: Sequence[int],
        length: int,
        action_block: int = 1,
        name: str = "action video",
        units: ActionUnits | None = None,
    ) -> None:
        super().__init__(store, episodes, length, action_block, name)
        self._units = units

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        units = opening.units_of(store)
        return cls(store, episodes, entry.clip_length or 1, opening.action_block, entry.name, units)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Action, Frame, ...] of a clip."""
        clip = self._sampler.clip(item)
        return action_video_document(replace(clip, actions=in_units(clip.actions, self._units)))


class ChangeSource(EpisodeSource):
    """Two frames, one model step apart, and what changed from the first to the second."""

    kind, texts = "change", ("changes",)

    def __init__(self, store: EpisodeStore, episodes: Sequence[int], action_block: int = 1, name: str = "change") -> None:
        self.name = name
        self._sampler = ClipSampler(store, episodes, 1, action_block)

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        return cls(store, episodes, opening.action_block, entry.name)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make [Frame, Frame, Text] of a step; where no change was recorded, that of another step drawn with `rng`."""
        sampler = self._sampler
        return change_document(
            with_text(sampler.clip, item, len(self), rng, lambda clip: [clip.changes[0].strip("; ")], sampler.store)
        )
