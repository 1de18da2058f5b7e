"""Which episode files are opened, which entries of a mixture they can serve, and which of their episodes keep their actions."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.kinds import KINDS
from worldmodel.datasets.mixture.source import Entry, EpisodeSource, Opening, TrainingEpisodes
from worldmodel.datasets.mixture.video_sources import VideoSource
from worldmodel.errors import UserError

IN_MEMORY_BYTES = 2 * 2**30
"""Decoded frames of all files together up to which the files are kept in memory."""
_log = logging.getLogger(__name__)


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
    if not stores and any(issubclass(KINDS[entry.kind], EpisodeSource) for entry in entries):
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


def choose_episodes(opening: Opening, entries: Sequence[Entry], actions: float | None) -> Opening:
    """Choose which training episodes of each file keep their actions, where these entries ask for any.

    `actions` is the share of the episodes that do; None: nothing is said about it.
    """
    if actions is None:
        return opening
    chosen = []
    for each in opening.trainings:
        able = [entry for entry in entries if KINDS[entry.kind].actions and each in opening.files_of(entry)]
        clips = [(entry.clip_length or 1) if "clip_length" in KINDS[entry.kind].options else 1 for entry in able]
        if clips and each.store.has_actions:
            steps = max(clips) * opening.action_block // each.store.action_block
            each = replace(each, with_actions=keep_actions(each.store, each.episodes, actions, steps, opening.seed))
        chosen.append(each)
    return replace(opening, trainings=chosen)


def available(entries: Sequence[Entry], opening: Opening) -> list[Entry]:
    """List the entries that there is data for, and log what is left out; UserError for one that was asked for (has a `where`)."""
    kept: list[Entry] = []
    lost: dict[Path, dict[str, str]] = {}
    without_actions = 0.0  # the default shares of what needs actions, when no file has any
    for entry in entries:
        source = KINDS[entry.kind]
        files, missing = list[TrainingEpisodes](), dict[Path, str]()
        if issubclass(source, EpisodeSource):
            files = opening.files_of(entry)
            missing = {each.store.path: what for each in files if (what := source.missing(each.store, each.episodes))}
        for path, what in missing.items():
            lost.setdefault(path, {})[entry.kind] = what
        if len(missing) < len(files) or not files:
            kept.append(entry)
        elif entry.where:
            said = ", ".join(f"{path} has no {what}" for path, what in missing.items())
            remedy = "for video alone set mixture actions to 0" if source.actions else "leave it out"
            raise UserError(f"{entry.where}: no episode file gives documents of kind {entry.kind!r}: {said}; {remedy}")
        elif source.actions:
            without_actions += entry.weight
            if not any(other.kind == VideoSource.kind for other in (*entries, *kept)):
                kept.append(replace(entry, kind=VideoSource.kind, name=VideoSource.kind, weight=0.0))
    for path, kinds in lost.items():
        what = ", ".join(dict.fromkeys(kinds.values()))
        _log.warning("%s has no %s: it gives no %s, the other sources and files make up for it", path, what, ", ".join(kinds))
    return [replace(entry, weight=entry.weight + without_actions) if entry.kind == VideoSource.kind else entry for entry in kept]


def share_actions(entries: Sequence[Entry], share: float) -> list[Entry]:
    """Return the mixture with actions in a share, 0 to 1, of its video tokens: those of all kinds whose `actions` is True or False.

    Video tokens, all documents of frames in time, stay as many. UserError where no document has actions.
    """
    with_actions = [entry for entry in entries if KINDS[entry.kind].actions and entry.weight > 0]
    without = [entry for entry in entries if KINDS[entry.kind].actions is False and entry.weight > 0]
    total = sum(entry.weight for entry in (*with_actions, *without))
    if not with_actions:
        raise UserError(f"mixture actions is {share}, but the mixture has no document with actions; give transition a weight above 0")
    if not without:
        without = [Entry(VideoSource.kind, VideoSource.kind, 1.0, clip_length=with_actions[0].clip_length)]
    changed = [entry for entry in entries if KINDS[entry.kind].actions is None]
    for group, part in ((with_actions, share), (without, 1 - share)):
        factor = part * total / sum(entry.weight for entry in group)
        changed += [replace(entry, weight=factor * entry.weight, where=entry.where or "mixture actions") for entry in group]
    return [entry for entry in changed if entry.weight > 0]


def keep_actions(store: EpisodeStore, episodes: Sequence[int], share: float, steps: int, seed: int) -> list[int]:
    """Choose the episodes that keep their actions by a seed; the choice for a share holds those for smaller ones.

    Args:
        store: the episode file.
        episodes: to choose from.
        share: of the episodes, 0 to 1; at least one keeps its actions and one loses them, except for 0 and 1.
        steps: recorded steps that an episode must have to be of use.
        seed: of the choice.

    Raises:
        UserError: fewer than two episodes are of use and the share is neither 0 nor 1.
    """
    long_enough = [i for i in episodes if store.lengths[i] >= steps]
    if share in (0, 1):
        return list(episodes) if share else []
    if len(long_enough) < 2:
        raise UserError(
            f"mixture actions is {share}, which divides the training episodes of {store.path}; of {len(episodes)} only "
            f"{len(long_enough)} can hold a clip, two are needed"
        )
    order = np.random.default_rng([seed, len(store)]).permutation(len(long_enough)).tolist()
    count = min(max(1, round(share * len(long_enough))), len(long_enough) - 1)
    return sorted(long_enough[place] for place in order[:count])
