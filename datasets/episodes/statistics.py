"""Statistics of the columns of an episode file. Of the frames an even sample is decoded, which says the same in a second."""

import numpy as np

from worldmodel.datasets.episodes.schema import ACTION_COLUMNS
from worldmodel.datasets.episodes.store import EpisodeStore

Statistics = dict[str, np.ndarray]

COLUMNS = ("proprio", "state", "features", "success", *ACTION_COLUMNS)
"""Numeric columns with a row for each step."""
QUANTILES = {"q01": 0.01, "q50": 0.5, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
FRAME_BYTES = 2**26
"""Of the sample of frames, at most."""


def column_statistics(store: EpisodeStore, max_frames: int = 1024) -> dict[str, Statistics]:
    """Compute range, mean, standard deviation and quantiles of each component of the numeric columns, one column in memory at a time.

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
    most = max(1, min(max_frames, store.num_frames, FRAME_BYTES // int(np.prod(store.row_shape("frames")))))
    sample = np.unique(np.linspace(0, store.num_frames - 1, most).astype(np.int64))
    statistics = {"frames": summarize(store.frames(sample).reshape(-1, 3))}
    for name in COLUMNS:
        rows = np.full(1, np.nan) if name in store.missing_columns else store.column(name)
        statistics[name] = summarize(rows.reshape(len(rows), int(np.prod(rows.shape[1:]))))
    return statistics


def summarize(rows: np.ndarray) -> Statistics:
    """Compute the statistics of the columns of an array (r, n); a quantile is the least value with at least that share up to it."""
    found = [_summary(column[np.isfinite(column)]) for column in rows.T]
    return {name: np.array([each[name] for each in found], np.float64) for name in (*NAMES, "count")}


def _summary(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(NAMES, np.nan) | {"count": 0}
    moments = {"mean": values.mean(dtype=np.float64), "std": values.std(dtype=np.float64)}
    quantiles = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    return {"min": values.min(), "max": values.max(), **moments, **dict(zip(QUANTILES, quantiles, strict=True)), "count": len(values)}
