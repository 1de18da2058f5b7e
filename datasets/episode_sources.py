"""Which episode file can give which kind of document, and which of its episodes keep their actions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.hindsight import GoalSource, TransitionSource
from worldmodel.datasets.recipe import ACTION_KINDS, Entry
from worldmodel.datasets.sources import (
    ActionVideoSource,
    CaptionedImageSource,
    CaptionSource,
    ChangeSource,
    InstructionSource,
    QuestionSource,
    Source,
    VideoSource,
    first_successes,
)
from worldmodel.errors import UserError

_TEXTS = {
    "caption": ("captions",),
    "captioned image": ("captions",),
    "question": ("questions", "answers"),
    "change": ("changes",),
    "instruction": ("goal_text",),
    "spoken goal": ("captions",),
}
"""Text columns that a kind is made of."""


@dataclass(frozen=True)
class TrainingEpisodes:
    """An episode file and what may be trained on."""

    store: EpisodeStore
    episodes: Sequence[int]
    """All training episodes."""
    with_actions: Sequence[int] | None = None
    """Training episodes that keep their actions, where the others lose them; None: not decided."""


def missing_columns(training: TrainingEpisodes, kind: str) -> str | None:
    """Say what a file lacks to give documents of a kind, in words; None if it can give them."""
    store = training.store
    if kind in ACTION_KINDS and not store.has_actions:
        return "actions"
    missing = [column.replace("_", " ") for column in _TEXTS.get(kind, ()) if not store.has_text(column)]
    if missing:
        return " and ".join(missing)
    if kind == "instruction" and next(first_successes(store, training.episodes), None) is None:
        return "episodes that succeed"
    return None


def episode_source(training: TrainingEpisodes, entry: Entry, action_block: int, shift: int = 0, goal_tries: int = 1) -> Source | None:
    """Open the documents of one file; None when its episodes are all on the other side of `with_actions`.

    `shift`, in pixels, and `goal_tries`: see `MixtureConfig`.
    """
    store, episodes, clip_length = training.store, training.episodes, entry.clip_length or 1
    if training.with_actions is not None and entry.kind in (*ACTION_KINDS, "video"):
        kept = set(training.with_actions)
        episodes = [i for i in episodes if (i in kept) == (entry.kind in ACTION_KINDS)]
        if not episodes:
            return None
    match entry.kind:
        case "transition":
            return TransitionSource(store, episodes, action_block, entry.horizon or 1, entry.name)
        case "goal" | "spoken goal":
            said, horizon = entry.kind == "spoken goal", entry.horizon or 1
            return GoalSource(store, episodes, action_block, horizon, shift=shift, said=said, name=entry.name, tries=goal_tries)
        case "action video":
            return ActionVideoSource(store, episodes, clip_length, action_block, entry.name)
        case "video":
            return VideoSource(store, episodes, clip_length, action_block, entry.name)
        case "caption":
            return CaptionSource(store, episodes, entry.name)
        case "captioned image":
            return CaptionedImageSource(store, episodes, entry.name)
        case "question":
            return QuestionSource(store, episodes, entry.name)
        case "change":
            return ChangeSource(store, episodes, action_block, entry.name)
        case "instruction":
            return InstructionSource(store, episodes, entry.name)
    raise ValueError(f"{entry.kind!r} is no kind that episode files give")


def share_actions(entries: Sequence[Entry], share: float) -> list[Entry]:
    """Return the mixture with actions in a share of its video tokens, while these (all documents of frames in time) stay as many.

    Args:
        entries: of the mixture.
        share: of the video tokens (those of `ACTION_KINDS` and video together) that is to carry actions, 0 to 1.

    Raises:
        UserError: there is no document with actions to take a share of.
    """
    with_actions = [entry for entry in entries if entry.kind in ACTION_KINDS and entry.weight > 0]
    without = [entry for entry in entries if entry.kind == "video" and entry.weight > 0]
    total = sum(entry.weight for entry in (*with_actions, *without))
    if not with_actions:
        raise UserError(f"mixture actions is {share}, but the mixture has no document with actions; give transition a weight above 0")
    if not without:
        without = [Entry("video", "video", 1.0, clip_length=with_actions[0].clip_length)]
    changed = [entry for entry in entries if entry.kind not in (*ACTION_KINDS, "video")]
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
