"""From the entries of a mixture to sources of documents: opens files and packages, and leaves out what they cannot give."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from worldmodel.datasets.episode_sources import TrainingEpisodes, episode_source, keep_actions, missing_columns
from worldmodel.datasets.episodes.inspection import short_licence
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture_stats import Part
from worldmodel.datasets.pictures.pairs import ImagePairSource, Pairs, open_pairs
from worldmodel.datasets.recipe import ACTION_KINDS, EPISODE_KINDS, Entry
from worldmodel.datasets.sources import JoinedSource, Source
from worldmodel.datasets.texts.corpus import Corpus, open_corpus
from worldmodel.datasets.texts.text import TextSource
from worldmodel.errors import UserError

IN_MEMORY_BYTES = 2 * 2**30
"""Decoded frames of all files together up to which the files are kept in memory."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedSource:
    """One source of a mixture, and what of it is held out."""

    part: Part
    corpora: list[Corpus] = field(default_factory=list)
    pictures: list[tuple[Pairs, Pairs]] = field(default_factory=list)
    """To train on, held out."""
    held_out: Part | None = None
    """The same kind of documents from held-out episodes, texts and pictures; None where too little is held out to give any."""


def open_stores(paths: Sequence[Path], entries: Sequence[Entry]) -> list[EpisodeStore]:
    """Open the given files and those that entries name, each once; kept in memory when all of them are small.

    Raises:
        UserError: a file cannot be read, there is none although an entry needs one, or their frames differ in size.
    """
    stores: dict[Path, EpisodeStore] = {}
    named = [(Path(path), "") for path in paths] + [(path, f"{entry.where}: ") for entry in entries for path in entry.files]
    for path, where in named:
        if path.resolve() not in stores:
            try:
                stores[path.resolve()] = EpisodeStore(path)
            except UserError as error:
                raise UserError(f"{where}{error}") from error
    if not stores and any(entry.kind in EPISODE_KINDS for entry in entries):
        raise UserError("no episode file was given; give one with --data, made by worldmodel collect or worldmodel datasets convert")
    sizes = {store.image_size for store in stores.values()}
    if len(sizes) > 1:
        raise UserError(f"the episode files have frames of {sorted(sizes)} pixels; collect them at one size")
    decoded = sum(store.num_frames * store.image_size**2 * 3 * (1 + len(store.cameras)) for store in stores.values())
    if decoded > IN_MEMORY_BYTES:
        return list(stores.values())
    for store in stores.values():
        store.close()
    return [EpisodeStore(store.path, in_memory=True) for store in stores.values()]


def choose_episodes(
    stores: Sequence[EpisodeStore],
    episodes: Sequence[Sequence[int]],
    entries: Sequence[Entry],
    actions: float | None,
    action_block: int,
    seed: int,
) -> list[TrainingEpisodes]:
    """Choose what may be trained on of each file, and which of its episodes keep their actions.

    Args:
        stores: the files.
        episodes: training episodes of each.
        entries: the sources; they say which files give action video.
        actions: share of the episodes that keep their actions; None: nothing is said about it.
        action_block: environment actions per model step.
        seed: of the choice.
    """
    trainings = [TrainingEpisodes(store, list(of_store)) for store, of_store in zip(stores, episodes, strict=True)]
    if actions is None:
        return trainings
    chosen = []
    for each in trainings:
        able = [entry for entry in entries if entry.kind in ACTION_KINDS and each in files_of(entry, trainings)]
        clips = [(entry.clip_length or 1) if entry.kind == "action video" else 1 for entry in able]
        if clips and each.store.has_actions:
            steps = max(clips) * action_block // each.store.action_block
            each = replace(each, with_actions=keep_actions(each.store, each.episodes, actions, steps, seed))
        chosen.append(each)
    return chosen


def files_of(entry: Entry, trainings: Sequence[TrainingEpisodes]) -> list[TrainingEpisodes]:
    """List the files that an entry may draw from."""
    named = {path.resolve() for path in entry.files}
    return [each for each in trainings if not named or each.store.path.resolve() in named]


def available(entries: Sequence[Entry], trainings: Sequence[TrainingEpisodes]) -> list[Entry]:
    """List the entries that there is data for; logs what is left out.

    Raises:
        UserError: there is none for an entry that was asked for, that is, has a `where`.
    """
    kept: list[Entry] = []
    lost: dict[Path, dict[str, str]] = {}
    without_actions = 0.0  # the default shares of what needs actions, when no file has any
    for entry in entries:
        files = files_of(entry, trainings) if entry.kind in EPISODE_KINDS else []
        missing = {each.store.path: what for each in files if (what := missing_columns(each, entry.kind))}
        for path, what in missing.items():
            lost.setdefault(path, {})[entry.kind] = what
        if len(missing) < len(files) or not files:
            kept.append(entry)
        elif entry.where:
            said = ", ".join(f"{path} has no {what}" for path, what in missing.items())
            remedy = "for video alone set mixture actions to 0" if entry.kind in ACTION_KINDS else "leave it out"
            raise UserError(f"{entry.where}: no episode file gives documents of kind {entry.kind!r}: {said}; {remedy}")
        elif entry.kind in ACTION_KINDS:
            without_actions += entry.weight
            kept += (
                []
                if any(other.kind == "video" for other in (*entries, *kept))
                else [replace(entry, kind="video", name="video", weight=0.0)]
            )
    for path, kinds in lost.items():
        what = ", ".join(dict.fromkeys(kinds.values()))
        _log.warning("%s has no %s: it gives no %s, the other sources and files make up for it", path, what, ", ".join(kinds))
    return [replace(entry, weight=entry.weight + without_actions) if entry.kind == "video" else entry for entry in kept]


def open_entry(
    entry: Entry,
    trainings: Sequence[TrainingEpisodes],
    image_size: int,
    action_block: int,
    held_out: float,
    seed: int,
    unseen: Sequence[Sequence[int]] = (),
    shift: int = 0,
    goal_tries: int = 1,
) -> OpenedSource:
    """Open one source.

    Args:
        entry: what is asked for.
        trainings: the episode files.
        image_size: height and width of pictures.
        action_block: environment actions per model step.
        held_out: share of texts and pictures that is held out.
        seed: of the choice of what is held out.
        unseen: held-out episodes of each file.
        shift: most pixels that frames of goals are moved by while training.
        goal_tries: most draws of a goal until one is still to be met.

    Raises:
        UserError: it cannot be read, or is empty; names the entry when it is a recipe's.
    """
    try:
        match entry.kind:
            case "text":
                corpora = [open_corpus(corpus, entry.chunk or 1, held_out, seed, entry.field) for corpus in entry.corpus]
                licences = [corpus.licence for corpus in corpora]
                texts = [TextSource(corpus.train, name=entry.name) for corpus in corpora]
                kept = [TextSource(corpus.held_out, name=entry.name) for corpus in corpora if len(corpus.held_out)]
                return OpenedSource(_part(entry, texts, licences), corpora=corpora, held_out=_held_out(entry, kept, licences))
            case "pairs":
                pairs = [open_pairs(source, image_size, entry.fit) for source in entry.pairs]
                split = [each.split(held_out, seed) for each in pairs]
                licences = [each.licence for each in pairs]
                pictures = [ImagePairSource(train, entry.direction, entry.name) for train, _ in split]
                shown = [ImagePairSource(rest, entry.direction, entry.name) for _, rest in split if len(rest)]
                return OpenedSource(_part(entry, pictures, licences), pictures=split, held_out=_held_out(entry, shown, licences))
            case _:
                able = [each for each in files_of(entry, trainings) if not missing_columns(each, entry.kind)]
                found = [(each, episode_source(each, entry, action_block, shift, goal_tries)) for each in able]
                sources = [source for _, source in found if source is not None]
                licences = [short_licence(each.store.meta) for each, source in found if source is not None]
                rest = dict(zip([each.store.path for each in trainings], unseen, strict=False))
                tests = [
                    _unseen(TrainingEpisodes(each.store, rest.get(each.store.path, ())), entry, action_block, goal_tries)
                    for each in able
                ]
                return OpenedSource(_part(entry, sources, licences), held_out=_held_out(entry, [s for s in tests if s], licences))
    except UserError as error:
        raise UserError(f"{entry.where}: {error}" if entry.where else str(error)) from error


def _unseen(kept: TrainingEpisodes, entry: Entry, action_block: int, goal_tries: int) -> Source | None:
    """Open the documents of a file's held-out episodes; None where these give none, being too few or too short."""
    if not kept.episodes or missing_columns(kept, entry.kind):
        return None
    try:
        return episode_source(kept, entry, action_block, goal_tries=goal_tries)
    except UserError:
        return None


def _held_out(entry: Entry, sources: Sequence[Source], licences: Sequence[str]) -> Part | None:
    return _part(entry, sources, licences) if sources else None


def _part(entry: Entry, sources: Sequence[Source], licences: Sequence[str]) -> Part:
    if not sources:
        raise UserError(f"no training episode is left that gives {entry.kind}")
    whole = sources[0] if len(sources) == 1 else JoinedSource(entry.name, sources)
    return Part(whole, entry.kind, entry.weight, "; ".join(dict.fromkeys(licences)))
