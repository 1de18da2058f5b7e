"""What a source of documents is: what a mixture draws from, what a recipe may name, and how one is opened.

A source has a name and a number of items, and makes a document from an item and a random generator; equal items and generators
give equal documents. A class that recipes may name says its kind, its options and what it needs (`RecipeSource`); one that reads
episode files is given the episodes that it may use (`EpisodeSource`), so that held-out ones stay unseen. `kinds.py` lists them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.episodes.inspection import short_licence
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.documents import Document
from worldmodel.datasets.mixture.samplers import find_span
from worldmodel.datasets.pictures.images import ImageFit
from worldmodel.datasets.pictures.pairs import Pairs
from worldmodel.datasets.texts.corpus import Corpus
from worldmodel.errors import UserError

Direction = Literal["both", "to text", "to image"]


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
    """Several sources as one: its items are those of its parts, end to end, so that each counts by its number of items."""

    def __init__(self, name: str, parts: Sequence[Source]) -> None:
        self.name = name
        self.parts = list(parts)
        self._stops = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make a document of the part that the item lies in."""
        which, place = find_span(self._stops, item)
        return self.parts[which].document(place, rng)


@dataclass(frozen=True)
class Entry:
    """One source of a mixture, as it was asked for."""

    name: str
    kind: str
    """One of `kinds.KINDS`."""
    weight: float
    """Share of the tokens; only ratios count."""
    where: str = ""
    """What an error message names: the recipe and the entry."""
    files: tuple[Path, ...] = ()
    """Episode files; none: all that are given."""
    corpus: tuple[str, ...] = ()
    """Text corpora, as `open_corpus` takes them."""
    field: str = "text"
    """With the text, of .jsonl lines, .parquet rows and Hugging Face datasets."""
    chunk: int | None = None
    """Greatest number of characters in a text document."""
    pairs: tuple[str, ...] = ()
    """Pictures with captions, as `open_pairs` takes them."""
    direction: Direction = "both"
    """Whether captions or pictures are learned."""
    fit: ImageFit = "pad"
    """How a picture that is not square becomes square."""
    clip_length: int | None = None
    """Model steps per video document."""
    horizon: int | None = None
    """Most model steps of a transition, and of the actions that a goal asks for."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture as it was opened."""

    source: Source
    kind: str
    """One of `kinds.KINDS`."""
    weight: float
    """Share of the tokens that was asked for; only ratios count."""
    licence: str
    """Of the data."""


@dataclass(frozen=True)
class OpenedSource:
    """One source of a mixture, and what of it is held out."""

    part: Part
    corpora: list[Corpus] = field(default_factory=list)
    pictures: list[tuple[Pairs, Pairs]] = field(default_factory=list)
    """To train on, held out."""
    held_out: Part | None = None
    """The same kind of documents from held-out episodes, texts and pictures; None where too little is held out to give any."""


@dataclass(frozen=True)
class TrainingEpisodes:
    """An episode file and what may be trained on."""

    store: EpisodeStore
    episodes: Sequence[int]
    """All training episodes."""
    with_actions: Sequence[int] | None = None
    """Training episodes that keep their actions, where the others lose them; None: not decided."""
    held_out: Sequence[int] = ()
    """Episodes that are never trained on."""


@dataclass(frozen=True)
class Opening:
    """What sources are opened with, beside the entry that asks for them."""

    trainings: Sequence[TrainingEpisodes]
    """The episode files."""
    image_size: int
    """Height and width of pictures."""
    action_block: int
    """Environment actions per model step."""
    held_out: float
    """Share of texts and pictures that is held out."""
    seed: int
    """Of the choice of what is held out."""
    shift: int = 0
    """Most pixels that frames of goals are moved by while training."""
    goal_tries: int = 1
    """Most draws of a goal until one is still to be met."""
    units: Mapping[str, ActionUnits] = field(default_factory=dict)
    """Of the actions of each task, by id; those of others stay as they are recorded."""

    def units_of(self, store: EpisodeStore) -> ActionUnits | None:
        """Return the units of a file's actions; None where they stay as they are recorded."""
        return self.units.get(store.meta["env_id"])

    def files_of(self, entry: Entry) -> list[TrainingEpisodes]:
        """List the files that an entry may draw from."""
        named = {path.resolve() for path in entry.files}
        return [each for each in self.trainings if not named or each.store.path.resolve() in named]


class RecipeSource:
    """A source that recipes may name. Its class says what it understands and needs, and opens it."""

    kind: ClassVar[str]
    options: ClassVar[dict[str, str]]
    """What a recipe may say in addition to `name`, `kind` and `weight` (fields of `Entry`) -> the field of `MixtureConfig` that is
    taken where it does not, "" for none."""
    default_name: ClassVar[str] = ""
    """Name of the source where a share asks for it; by default its kind."""
    actions: ClassVar[bool | None] = None
    """True: it shows or asks actions; False: it is video without actions; None: neither."""

    @classmethod
    def open(cls, entry: Entry, opening: Opening) -> OpenedSource:
        """Open what an entry asks for; UserError where it cannot be read, or is empty."""
        raise NotImplementedError

    @classmethod
    def check(cls, entry: Entry) -> None:
        """Refuse, with a UserError, an entry that needs a package which is missing."""


class EpisodeSource(RecipeSource):
    """A source of one episode file, made of episodes that it is given."""

    options: ClassVar[dict[str, str]] = {"files": ""}
    texts: ClassVar[tuple[str, ...]] = ()
    """Text columns that its documents are made of."""
    _sampler: Any
    """Its items."""

    def __len__(self) -> int:
        return len(self._sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make the document of an item, see `Source`."""
        raise NotImplementedError

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        """Make the source of some episodes of a file; UserError where they give no document."""
        raise NotImplementedError

    @classmethod
    def missing(cls, store: EpisodeStore, episodes: Sequence[int]) -> str | None:
        """Say what a file lacks to give such documents, in words; None if it can give them."""
        if cls.actions and not store.has_actions:
            return "actions"
        return " and ".join(column.replace("_", " ") for column in cls.texts if not store.has_text(column)) or None

    @classmethod
    def open(cls, entry: Entry, opening: Opening) -> OpenedSource:
        """Open the documents of all files that can give them, and those of their held-out episodes."""
        able = [each for each in opening.files_of(entry) if not cls.missing(each.store, each.episodes)]
        used = [(each, chosen) for each in able if (chosen := cls._usable(each))]
        sources = [cls.of(each.store, chosen, entry, opening) for each, chosen in used]
        licences = [short_licence(each.store.meta) for each, _ in used]
        still = replace(opening, shift=0)
        held_out = [source for each in able if (source := cls._held_out(each, entry, still)) is not None]
        return opened(entry, sources, held_out, licences)

    @classmethod
    def _usable(cls, training: TrainingEpisodes) -> Sequence[int]:
        """List the training episodes of a file that are on this kind's side of `with_actions`."""
        if training.with_actions is None or cls.actions is None:
            return training.episodes
        kept = set(training.with_actions)
        return [i for i in training.episodes if (i in kept) == cls.actions]

    @classmethod
    def _held_out(cls, training: TrainingEpisodes, entry: Entry, opening: Opening) -> Source | None:
        """Open the documents of a file's held-out episodes; None where these give none, being too few or too short."""
        if not training.held_out or cls.missing(training.store, training.held_out):
            return None
        try:
            return cls.of(training.store, training.held_out, entry, opening)
        except UserError:
            return None


def opened(
    entry: Entry,
    sources: Sequence[Source],
    held_out: Sequence[Source],
    licences: Sequence[str],
    corpora: Sequence[Corpus] = (),
    pictures: Sequence[tuple[Pairs, Pairs]] = (),
) -> OpenedSource:
    """Join what an entry asks for into one source, and what of it is held out into another; UserError where there is nothing."""
    if not sources:
        raise UserError(f"no training episode is left that gives {entry.kind}")
    unseen = _part(entry, held_out, licences) if held_out else None
    return OpenedSource(_part(entry, sources, licences), list(corpora), list(pictures), unseen)


def _part(entry: Entry, sources: Sequence[Source], licences: Sequence[str]) -> Part:
    whole = sources[0] if len(sources) == 1 else JoinedSource(entry.name, sources)
    return Part(whole, entry.kind, entry.weight, "; ".join(dict.fromkeys(licences)))
