"""Collection: workers play episodes, each finished one becomes a shard, the shards are merged into one file.

    1. lock     `<out>.parts/` belongs to one process at a time and to one set of arguments (`config.json`)
    2. play     spawned workers record the episodes that have no shard yet; a shard appears whole or not at all
    3. merge    meanwhile the shards are put together; `<out>` appears, whole, when all are in it, and they are deleted

An episode whose environment or policy fails is named and left out; the file's meta data (`left_out`) say which ones.
Episode i depends on (seed, i) alone, so the file is the same bytes whatever the number of workers, and
however often the collection was killed on the way: run it again with the same arguments and it goes on.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from worldmodel.datasets.atomic import is_leftover, locked_folder, write_atomic
from worldmodel.datasets.collection.attempts import LeftOut, load_left_out, remove_left_out
from worldmodel.datasets.collection.coverage import CountingWriter
from worldmodel.datasets.collection.episode_shards import PATTERN, load_shard, shard_path
from worldmodel.datasets.collection.recording import CollectConfig, as_the_task_says
from worldmodel.datasets.collection.workers import CollectionWorkers
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import EpisodeWriter
from worldmodel.datasets.records import parse_json
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.datasets.collection.ray_workers import RayPool

logger = logging.getLogger(__name__)

RECIPE = "config.json"
FIRST = 10
"""Episodes after which a collection ends when most of them fail."""


@dataclass(frozen=True)
class CollectResult:
    """What a collection did."""

    path: Path
    episodes: int
    frames: int
    new_episodes: int
    """Episodes recorded by this call; the others were there already."""
    seconds: float
    """Time this call took, start of the workers and merging included."""
    coverage: dict[str, Any]
    """What the episodes cover; see `coverage.py`."""
    left_out: tuple[int, ...] = ()
    """Numbers of the episodes that failed."""


def collect(config: CollectConfig) -> CollectResult:
    """Record the episodes that are missing and write the file.

    Raises:
        UserError: unknown task or factor; the file exists with other arguments; another process collects it;
            the disk is full; a worker died, or its first frame does not come; most episodes fail.
        KeyboardInterrupt: on Ctrl-C; finished episodes are kept.
    """
    start = time.perf_counter()
    config = as_the_task_says(config)
    if config.path.exists():
        with EpisodeStore(config.path) as store:
            _refuse_other_recipe(config, store.meta.get("recipe"), config.path)
        logger.info("%s is complete already", config.path)
        _remove_leftovers(config)
        return _result(config, 0, start)
    with _own_shards(config) as shards:
        missing = [i for i in range(config.episodes) if not _is_whole(shard_path(shards, i)) and load_left_out(shards, i) is None]
        if len(missing) < config.episodes:
            there = config.episodes - len(missing)
            logger.info("%s: %d of %d episodes are there, going on", shards, there, config.episodes)
        with CountingWriter(config.path, {}, config.storage) as writer:
            tried = _play(config, shards, missing, writer)
        _remove(shards)
    return _result(config, tried, start)


class _Merger:
    """Appends the shards to the file, in the order of their numbers, as soon as they are there; names those left out.

    What goes wrong with the file meanwhile must not stop the recording: it is raised at the end.
    """

    def __init__(self, episodes: int, shards: Path, writer: EpisodeWriter) -> None:
        self._episodes, self._shards, self._writer = episodes, shards, writer
        self._there: set[int] = set()
        self._next = 0
        self._left_out: list[LeftOut] = []
        self._error: UserError | None = None

    def add(self, episode: int) -> None:
        """Note that a shard is there, or that there will be none, and append the shards whose turn has come."""
        self._there.add(episode)
        while self._next in self._there and self._error is None:
            left_out = load_left_out(self._shards, self._next)
            if left_out is None:
                try:
                    self._writer.append(load_shard(shard_path(self._shards, self._next)))
                except UserError as error:
                    self._error = error
            else:
                logger.warning("episode %d (seed %d) is left out: %s", left_out.episode, left_out.seed, left_out.error)
                self._left_out.append(left_out)
            self._next += 1
            self._refuse_failure()

    def _refuse_failure(self) -> None:
        """End the collection when most of its episodes so far fail; those that failed are tried again when it goes on."""
        if self._next >= min(FIRST, self._episodes) and 2 * len(self._left_out) > self._next:
            remove_left_out(self._shards)
            raise UserError(
                f"{len(self._left_out)} of the first {self._next} episodes failed, nothing is written; mend the environment or the "
                f"policy and run the command again; the first failure: {self._left_out[0].error}"
            )

    def finish(self) -> None:
        """Complete the meta data; raise what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._next == self._episodes, "every episode has been appended"
        self._writer.meta["left_out"] = [asdict(each) for each in self._left_out]


def _result(config: CollectConfig, new_episodes: int, start: float) -> CollectResult:
    with EpisodeStore(config.path) as store:
        return CollectResult(
            config.path,
            len(store),
            store.num_frames,
            new_episodes,
            time.perf_counter() - start,
            store.meta["coverage"],
            tuple(each["episode"] for each in store.meta.get("left_out", [])),
        )


def _play(config: CollectConfig, shards: Path, missing: list[int], writer: EpisodeWriter) -> int:
    """Record the missing episodes and append all of them to the file; return how many were recorded."""
    merger = _Merger(config.episodes, shards, writer)
    there = sorted(set(range(config.episodes)) - set(missing))
    with (
        _pool(config, shards, min(config.workers, max(1, len(missing)))) as pool,
        tqdm(total=config.episodes, initial=len(there), unit="episode", disable=None) as bar,
    ):
        recipe = config.recipe()
        meta = {"env_id": config.env, "seed": config.seed, "package_version": recipe["package_version"], "recipe": recipe}
        writer.meta.update(meta | pool.wait_until_ready())
        recorded, frames, start = 0, 0, time.perf_counter()
        for episode, num_frames in pool.record(missing):
            recorded += num_frames > 0
            frames += num_frames
            bar.update()
            bar.set_postfix_str(f"{frames / (time.perf_counter() - start):.0f} frames/s", refresh=False)
            merger.add(episode)
    for episode in there:
        merger.add(episode)
    merger.finish()
    return recorded


def _pool(config: CollectConfig, shards: Path, count: int) -> "CollectionWorkers | RayPool":
    if not config.ray:
        return CollectionWorkers(config, shards, count)
    from worldmodel.datasets.collection.ray_workers import RayPool  # an optional extra

    return RayPool(config, shards, count)


@contextlib.contextmanager
def _own_shards(config: CollectConfig) -> Iterator[Path]:
    """Make the folder of shards, locked for this process and checked to belong to the same arguments."""
    shards = _shards_of(config)
    with locked_folder(shards, link=False):
        try:
            if config.path.exists():
                raise UserError(f"{config.path} was finished by another process just now; run the command again")
            _check_or_write_config(shards, config)
            yield shards
        finally:
            if not _has_episodes(shards):  # a start that failed leaves nothing behind
                _remove(shards)


def _shards_of(config: CollectConfig) -> Path:
    return config.path.with_name(config.path.name + ".parts")


def _remove(shards: Path) -> None:
    """Remove the folder, the episodes first: it says what they are for as long as there are any."""
    for shard in shards.glob(PATTERN):
        shard.unlink()
    shutil.rmtree(shards, ignore_errors=True)


def _remove_leftovers(config: CollectConfig) -> None:
    """Remove the shards of a file that is complete: a collection was killed before it could."""
    shards = _shards_of(config)
    if not shards.exists():
        return
    with contextlib.suppress(UserError), locked_folder(shards, link=False):  # else another process is at it
        if not _has_episodes(shards) or _recipe_of(shards) == config.recipe():
            _remove(shards)


def _check_or_write_config(shards: Path, config: CollectConfig) -> None:
    """Mark the folder with the arguments it is for; UserError when it holds episodes of other arguments."""
    try:
        for leftover in shards.iterdir():
            if is_leftover(leftover.name):
                leftover.unlink(missing_ok=True)
        if _has_episodes(shards):
            _refuse_other_recipe(config, _recipe_of(shards), shards)
            return
        remove_left_out(shards)  # perhaps of other arguments
        write_atomic(shards / RECIPE, json.dumps(config.recipe(), indent=2).encode())
    except OSError as error:
        raise UserError(f"cannot use {shards}: {error}") from error


def _recipe_of(shards: Path) -> Any:
    """Read the arguments that a folder of shards is for; None when it does not say."""
    try:
        return parse_json((shards / RECIPE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _has_episodes(shards: Path) -> bool:
    return any(shards.glob(PATTERN))


def _refuse_other_recipe(config: CollectConfig, found: Any, path: Path) -> None:
    """Raise UserError unless `found` is what this configuration would record."""
    if not isinstance(found, dict) or "env" not in found:
        raise UserError(f"{path} was not made by `worldmodel collect`; choose another --out")
    different = [name for name, value in config.recipe().items() if found.get(name) != value]
    if different:
        was = ", ".join(f"{name}={found.get(name)}" for name in different)
        now = ", ".join(f"{name}={config.recipe()[name]}" for name in different)
        raise UserError(f"{path} was collected with {was}, not {now}; choose another --out, or remove it to start over")


def _is_whole(shard: Path) -> bool:
    """Test whether a shard can be read; one that cannot (the power failed) is removed, to be recorded again."""
    if not shard.exists():
        return False
    try:
        load_shard(shard)
    except (OSError, ValueError):
        logger.warning("%s is damaged, its episode is recorded again", shard)
        shard.unlink()
        return False
    return True
