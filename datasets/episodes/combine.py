"""Several episode files into one, and one into parts for training, validation and test; episode by episode.

Both stream: an episode is read, and written, and forgotten. The new files appear whole or not at all. A split is by
episode, never by window: frames of one episode are near copies of each other, and must not be on both sides.
"""

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from worldmodel.datasets.collection.coverage import CountingWriter
from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.verified_reader import VerifiedStore
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
MUST_AGREE = ("env_id", "action_block", "feature_names", "action_names", "camera", "restorable", "licence")
"""Meta data without which one file could not speak for all."""
OF_THE_WHOLE = ("recipe", "coverage", "merged_from", "split", "repaired_from")
"""Meta data that are not true of a part, or of several files together."""


def merge(paths: Sequence[Path], out: Path) -> int:
    """Put the episodes of several files into one, in the order given, and return how many there are.

    An episode that is there twice, bit for bit, is kept once. The meta data on which the files agree stay; all those of
    each origin are kept in `meta["merged_from"]`. Frames stay coded as they are if all files code them alike; otherwise
    they are stored without loss.

    Raises:
        UserError: fewer than two files; one that cannot be read; files that differ in what one file has one of (frame
            size, columns, cameras, environment, ...); `out` exists or cannot be written.
    """
    if len(paths) < 2:
        raise UserError(f"merging takes two files or more, got {len(paths)}")
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(VerifiedStore(path)) for path in paths]
        for store in stores[1:]:
            _refuse_difference(stores[0], store)
        shared = {name: value for name, value in stores[0].meta.items() if all(s.meta.get(name) == value for s in stores)}
        metas = [{name: value for name, value in store.meta.items() if name != "coverage"} for store in stores]
        origins = [{"file": s.path.name, "episodes": len(s), "meta": meta} for s, meta in zip(stores, metas, strict=True)]
        storages = {store.storage for store in stores}
        storage = storages.pop() if len(storages) == 1 else "lossless"
        part = stack.enter_context(CountingWriter(out, _of_any_part(shared) | {"merged_from": origins}, storage))
        bar = stack.enter_context(tqdm(total=sum(map(len, stores)), unit="episode", disable=None))
        seen: set[bytes] = set()
        for store in stores:
            for i in range(len(store)):
                digest = _digest(store.episode(i))
                if digest not in seen:
                    seen.add(digest)
                    part.copy(store, i)
                bar.update()
    twice = sum(map(len, stores)) - len(seen)
    if twice:
        logger.warning("%d of the episodes were there more than once and are kept once", twice)
    return len(seen)


def split(path: Path, shares: Sequence[float], out_folder: Path, seed: int = 0) -> list[Path]:
    """Divide a file by episode into `train.h5`, `validation.h5` and `test.h5`, and return those it wrote.

    Which episodes go where depends on the seed and their number alone; each keeps its place in the order. The parts have all
    episodes between them, and what is there twice, bit for bit, is in one part alone. A part whose share is 0 is not written. Where
    some of the parts are there, from the same split that was stopped before it could write the others, they stay and the others come.

    Args:
        path: the file; it stays as it is.
        shares: of the three parts, 0 to 1, together 1.
        out_folder: where the parts go.
        seed: of the draw.

    Raises:
        UserError: shares that are not three numbers with sum 1; fewer different episodes than parts; a part that exists already;
            a file that cannot be read, or a folder that cannot be written to.
    """
    if len(shares) != len(PARTS) or not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(f"shares {' '.join(map(str, shares))} must be three numbers of at least 0 with sum 1: {', '.join(PARTS)}")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(VerifiedStore(path))
        which = _different(store)
        belongs = _draw_parts(store.path, int(which.max()) + 1, shares, seed)[which]
        numbers, parts = np.unique(belongs).tolist(), dict[int, CountingWriter]()
        there = 0
        for number in numbers:
            episodes = np.flatnonzero(belongs == number).tolist()
            drawn = {"of": path.name, "part": PARTS[number], "shares": list(shares), "seed": seed, "episodes": episodes}
            part = out_folder / f"{PARTS[number]}.h5"
            there += part.exists()
            if there < len(numbers) and _is_part(part, store, drawn):
                logger.info("%s is there already, from the same split", part)
                continue
            meta = _of_any_part(store.meta) | {"split": drawn}
            parts[number] = stack.enter_context(CountingWriter(part, meta, store.storage))
        for i in tqdm(range(len(store)), unit="episode", disable=None):
            if int(belongs[i]) in parts:
                parts[int(belongs[i])].copy(store, i)
    return [out_folder / f"{PARTS[number]}.h5" for number in numbers]


def _is_part(path: Path, store: EpisodeStore, drawn: dict[str, Any]) -> bool:
    """Test whether a file is this part of this split of a file, with the same episodes; any other is left to be refused."""
    if not path.exists():
        return False
    try:
        with EpisodeStore(path) as part:
            same = part.meta.get("split") == drawn
            return same and list(part.identities) == [store.identities[i] for i in drawn["episodes"]]
    except UserError:
        return False


def _different(store: EpisodeStore) -> np.ndarray:
    """Assign numbers to the different episodes of a file, int64 (episodes,): equal ones have the same number.

    Whole episodes are read only where what happened in them is equal already.
    """
    alike: dict[str, list[int]] = {}
    for i, name in enumerate(store.identities):
        alike.setdefault(name, []).append(i)
    firsts: dict[bytes, int] = {}
    same_as = np.arange(len(store))
    for group in alike.values():
        for i in group if len(group) > 1 else ():
            same_as[i] = firsts.setdefault(_digest(store.episode(i)), i)
    if (same_as != np.arange(len(store))).any():
        logger.warning("%d episodes of %s equal others and stay with them", (same_as != np.arange(len(store))).sum(), store.path)
    return np.unique(same_as, return_inverse=True)[1]


def _draw_parts(path: Path, episodes: int, shares: Sequence[float], seed: int) -> np.ndarray:
    """Draw the part of each episode, int64 (episodes,): shares as near as whole episodes allow, no part with a share empty."""
    wanted = [number for number, share in enumerate(shares) if share > 0]
    if episodes < len(wanted):
        raise UserError(f"{path} has {episodes} different episodes; {len(wanted)} parts need one each, give fewer shares")
    counts = np.array([max(1, math.floor(share * episodes)) if share > 0 else 0 for share in shares])
    while counts.sum() != episodes:  # the part that is furthest from its share gives or takes one
        excess = counts - np.array(shares) * episodes
        step = 1 if counts.sum() < episodes else -1
        able = [number for number in wanted if counts[number] + step >= 1]
        counts[min(able, key=lambda number: step * excess[number])] += step
    belongs = np.empty(episodes, np.int64)
    belongs[np.random.default_rng(seed).permutation(episodes)] = np.repeat(np.arange(len(shares)), counts)
    return belongs


def _of_any_part(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in OF_THE_WHOLE}


def _shapes(store: EpisodeStore) -> dict[str, Any]:
    """Return what the columns of a file have once, under the names a user knows."""
    height, width = store.row_shape("frames")[:2]
    widths = {f"width of {name}": store.row_shape(name)[0] for name in ("actions", "proprio", "state", "features", "goal_state")}
    return {"frame size": f"{width} x {height} px", "additional cameras": ", ".join(store.cameras) or "none"} | widths


def _refuse_difference(first: EpisodeStore, other: EpisodeStore) -> None:
    """Raise UserError, naming the first thing in which two files differ that one file must have one of."""
    if first.path.resolve() == other.path.resolve():
        raise UserError(f"{first.path} is given twice; name each file once")
    pairs = {f"meta data {name}": (first.meta.get(name), other.meta.get(name)) for name in MUST_AGREE}
    shapes, other_shapes = _shapes(first), _shapes(other)
    pairs |= {name: (shapes[name], other_shapes[name]) for name in shapes}
    for name, (one, two) in pairs.items():
        if one != two:
            raise UserError(
                f"{first.path} and {other.path} cannot be one file, they differ in {name}: {one} and {two}; "
                "give them to --data side by side instead"
            )


def _digest(episode: Episode) -> bytes:
    """Compute a digest, equal for episodes that are equal in every field: another goal or question alone makes another one."""
    digest = hashlib.blake2b(digest_size=16)
    values = [(item.name, getattr(episode, item.name)) for item in fields(Episode) if item.name != "views"]
    for name, value in [*values, *sorted(episode.views.items())]:
        is_array = isinstance(value, np.ndarray)
        digest.update(f"{name} {value.shape if is_array else json.dumps(value, sort_keys=True)}".encode())
        if is_array:
            digest.update(value.tobytes())
    return digest.digest()
