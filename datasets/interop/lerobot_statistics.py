"""Statistics as LeRobot keeps them: of each episode, and of all of them from these; they normalize a policy's inputs.

The quantiles of the whole are the mean of the episodes' quantiles, as LeRobot computes them, not those of all rows.
"""

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FRAMES_PER_EPISODE = 32
"""As many frames of an episode, evenly spaced, are looked at."""
Statistics = dict[str, dict[str, np.ndarray]]


def describe(numbers: dict[str, np.ndarray], views: dict[str, np.ndarray]) -> Statistics:
    """Compute the statistics of one episode.

    Args:
        numbers: column -> (rows,) or (rows, n).
        views: camera -> uint8 (rows, H, W, 3); their statistics are of each color, (3, 1, 1), in [0, 1].
    """
    found = {name: _of_rows(np.asarray(rows, np.float64).reshape(len(rows), -1)) for name, rows in numbers.items()}
    for name, view in views.items():
        picked = view[np.linspace(0, len(view) - 1, min(len(view), FRAMES_PER_EPISODE)).astype(int)]
        colours = _of_rows(picked.reshape(-1, 3) / 255)
        found[name] = {kind: value.reshape(3, 1, 1) for kind, value in colours.items() if kind != "count"}
        found[name]["count"] = np.array([len(picked)])
    return found


def _of_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0), "count": np.array([len(rows)])}
    return found | dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))


def aggregate(before: Statistics, new: Statistics) -> Statistics:
    """Compute the statistics of everything before (empty at the start) and one more episode."""
    return {name: _join(before[name], new[name]) for name in new} if before else new


def _join(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = a["count"] + b["count"]
    share = (b["count"] / count)[0]
    joined = {kind: a[kind] + share * (b[kind] - a[kind]) for kind in ("mean", *QUANTILES)}
    # Spread within both parts, and between their means.
    variance = (1 - share) * a["std"] ** 2 + share * b["std"] ** 2 + share * (1 - share) * (a["mean"] - b["mean"]) ** 2
    extremes = {"min": np.minimum(a["min"], b["min"]), "max": np.maximum(a["max"], b["max"])}
    return joined | extremes | {"std": np.sqrt(variance), "count": count}
