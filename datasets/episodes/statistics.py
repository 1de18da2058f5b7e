"""Statistics of the columns of an episode file, streamed: memory stays bounded however large the file is.

Two passes over a column. The first finds range, mean and deviation of each component, the second counts its values
in bins between the least and the greatest one, which gives the quantiles to 1/4096 of the range. Not all frames are
decoded: an even sample of them says the same in a second.
"""

import shlex
from collections.abc import Callable, Iterator

import numpy as np

from worldmodel.datasets.episodes.schema import ACTION_COLUMNS, open_file
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.errors import UserError

Statistics = dict[str, np.ndarray]

COLUMNS = ("proprio", "state", "features", "success", *ACTION_COLUMNS)
"""Numeric columns with a row for each step."""
QUANTILES = {"q01": 0.01, "q50": 0.5, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
ROWS_PER_READ = 8192
FRAMES_PER_READ = 64
BINS = 4096


def column_statistics(store: EpisodeStore, max_frames: int = 1024) -> dict[str, Statistics]:
    """Compute range, mean, standard deviation and quantiles of each component of the numeric columns.

    Args:
        store: the episode file.
        max_frames: number of frames that are looked at, evenly spread over the file.

    Returns:
        column -> name -> float64 (n,), a number for each of the column's n components (the colors of `frames`, 0 to 255;
        one of `reward`; one of `success`, `terminated` and `truncated`, 0 or 1). The names are min, max, mean, std, q01, q50, q99,
        and count: how many values are numbers.
        NaN and infinities are left out; a component without any number, as of a column that a file of an earlier schema lacks, has
        NaN everywhere.

    Raises:
        UserError: the file is damaged.
    """
    statistics = {"frames": summarize(lambda: _frames(store, max_frames))}
    for name in COLUMNS:
        statistics[name] = summarize(lambda name=name: _rows(store, name))  # type: ignore[misc]
    return statistics


def summarize(blocks: Callable[[], Iterator[np.ndarray]]) -> Statistics:
    """Compute statistics of the rows (r, n) of all blocks; `blocks` is called twice and must give the same ones."""
    count, mean, squares, low, high = (np.zeros(0) for _ in range(5))
    for number, block in enumerate(blocks()):
        if number == 0:
            count, mean, squares = (np.zeros(block.shape[1]) for _ in range(3))
            low, high = np.full(block.shape[1], np.inf), np.full(block.shape[1], -np.inf)
        finite = np.isfinite(block)
        low = np.minimum(low, np.where(finite, block, np.inf).min(axis=0))
        high = np.maximum(high, np.where(finite, block, -np.inf).max(axis=0))
        # Mean and squared deviations of two sets put together (Chan et al. 1983): sums of squares would cancel.
        here = finite.sum(axis=0)
        mean_here = np.where(finite, block, 0.0).sum(axis=0) / np.maximum(here, 1)
        squares_here = np.where(finite, (block - mean_here) ** 2, 0.0).sum(axis=0)
        shift, total = mean_here - mean, np.maximum(count + here, 1)
        squares += squares_here + shift**2 * count * here / total
        mean += shift * here / total
        count += here
    none = count == 0
    result = {"min": low, "max": high, "mean": mean, "std": np.sqrt(squares / np.maximum(count, 1))}
    result |= _quantiles(blocks, np.where(none, 0.0, low), np.where(none, 1.0, high), count)
    return {name: np.where(none, np.nan, values) for name, values in result.items()} | {"count": count}


def _quantiles(blocks: Callable[[], Iterator[np.ndarray]], low: np.ndarray, high: np.ndarray, count: np.ndarray) -> Statistics:
    """Find for each component the least edge of a bin below which at least that share of its values lies."""
    n = len(low)
    counts = np.zeros((n, BINS + 1), np.int64)
    width = np.where(high > low, (high - low) / BINS, 1.0)
    for block in blocks():
        finite = np.isfinite(block)
        place = np.where(finite, (np.where(finite, block, low) - low) / width, 0).astype(np.int64).clip(0, BINS)
        for component in range(n):
            counts[component] += np.bincount(place[finite[:, component], component], minlength=BINS + 1)
    below = np.cumsum(counts, axis=1)
    places = {
        name: np.array([np.searchsorted(row, max(1, np.ceil(share * total))) for row, total in zip(below, count, strict=True)])
        for name, share in QUANTILES.items()
    }
    return {name: np.minimum(low + place * width, high) if n else np.zeros(0) for name, place in places.items()}


def _frames(store: EpisodeStore, most: int) -> Iterator[np.ndarray]:
    """Read the colors of the pixels of an even sample of frames, float64 (pixels, 3)."""
    rows = np.unique(np.linspace(0, store.num_frames - 1, min(most, store.num_frames)).astype(np.int64))
    for start in range(0, len(rows), FRAMES_PER_READ):
        yield store.frames(rows[start : start + FRAMES_PER_READ]).reshape(-1, 3).astype(np.float64)


def _rows(store: EpisodeStore, name: str) -> Iterator[np.ndarray]:
    """Yield the rows of a numeric column in order, float64 (rows, n)."""
    if name in store.missing_columns:
        yield np.full((1, 1), np.nan)
        return
    with open_file(store.path) as file:
        column = file[name]
        for start in range(0, column.shape[0], ROWS_PER_READ):
            try:
                rows = column[start : start + ROWS_PER_READ]
            except OSError as error:
                raise UserError(
                    f"{store.path} is damaged (column {name} cannot be read); "
                    f"`worldmodel datasets check {shlex.quote(str(store.path))} --repair` saves the whole episodes"
                ) from error
            yield rows.reshape(len(rows), -1 if rows.size else int(np.prod(rows.shape[1:]))).astype(np.float64)
