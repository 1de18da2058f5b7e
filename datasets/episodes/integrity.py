"""Whether an episode file is whole, and saving what is whole of one that is not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.schema import TEXTS, DamagedColumn, damaged
from worldmodel.datasets.episodes.verified_reader import CopyingWriter, SalvagedStore, VerifiedStore
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Report:
    """What a check found."""

    whole: bool
    """Every byte of every column is as it was written."""
    episodes: int
    """In the file, damaged or not; 0 when it cannot be opened."""
    problem: str | None = None
    """The first thing that is wrong, where, and what to do."""


def check(path: Path) -> Report:
    """Read every chunk of every column: checksums, texts, JPEGs, and whether all fits together; UserError for no such file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is a folder: name an episode file in it" if path.is_dir() else f"{path}: no such file")
    try:
        store = VerifiedStore(path)
    except UserError as error:
        return Report(False, 0, str(error))
    with store:
        for i, found in _episodes(store):
            if isinstance(found, ValueError):
                return Report(
                    False, len(store), str(damaged(path, f"{_cause(found)} cannot be read, first in episode {i} of {len(store)}"))
                )
        for name in TEXTS:
            if not store.text_is_closed(name):
                return Report(False, len(store), str(damaged(path, f"column {name} holds text of no row")))
        return Report(True, len(store))


def repair(path: Path, out: Path | None = None) -> int:
    """Save every whole episode of a truncated or damaged file into a new one, and return how many there are.

    The damaged file stays as it is. JPEGs are copied as they are; an episode is saved only if all that belongs to it is
    confirmed by its checksums. The new file, by default `repaired_path(path)`, says in `meta["repaired_from"]` which episodes it has.

    Raises:
        UserError: nothing can be saved; `out` exists or cannot be written.
    """
    path = Path(path)
    out = Path(out) if out is not None else repaired_path(path)
    if out.exists():
        raise UserError(f"{out} exists already; remove it or choose another name")
    with SalvagedStore(path) as store:
        saved = [i for i, found in _episodes(store) if isinstance(found, Episode)]
        if not saved:
            raise UserError(f"no episode of {path} can be saved: each lacks something; collect it again or take a copy")
        # The arguments and the coverage of a collection are those of all its episodes: with them `worldmodel collect` would
        # take this file for the whole one.
        meta = {name: value for name, value in store.meta.items() if name not in ("recipe", "coverage")}
        repaired = {"file": path.name, "episodes": saved, "of_at_least": len(store), "recipe": store.meta.get("recipe")}
        meta["repaired_from"] = repaired
        with CopyingWriter(out, meta, storage=store.storage) as writer:
            for i in saved:
                writer.copy(store, i)
    return len(saved)


def repaired_path(path: Path) -> Path:
    """Return where the episodes of a damaged file are saved: `<stem>.repaired.h5` next to it."""
    return path.with_name(f"{path.stem}.repaired.h5")


def _episodes(store: VerifiedStore) -> Iterator[tuple[int, Episode | ValueError]]:
    """Yield each episode, or why it cannot be read."""
    for i in tqdm(range(len(store)), desc=store.path.name, unit="episode", disable=None):
        try:
            yield i, store.episode(i)
        except ValueError as error:
            yield i, error


def _cause(error: ValueError) -> str:
    return f"column {error.column}" if isinstance(error, DamagedColumn) else f"an episode ({error})"
