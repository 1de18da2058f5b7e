"""Coverage: which part of the world a collection has seen, counted episode by episode while the file is written.

A narrow data set shows here before a model is trained on it: features that stay in a few bins, actions that are
always at their bounds, factors of variation that were never sampled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldmodel.datasets.episodes.episode import Episode
from worldmodel.datasets.episodes.verified_reader import CopyingWriter
from worldmodel.datasets.outputs import aligned

BINS = 20
"""Bins of a histogram over [-1, 1]; what lies outside counts in the outermost one."""
FACTOR_BINS = 10
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = ".:-=+*%#"


class Coverage:
    """Counts of what was seen, which `report` gives as JSON values.

    Feature names are of the columns of `Episode.features`, action names of one environment action; a factor is {"choices": [...]} or
    {"low": ..., "high": ...}.
    """

    def __init__(self, feature_names: Sequence[str], action_names: Sequence[str], factors: Mapping[str, Mapping[str, Any]]) -> None:
        self._feature_names, self._action_names, self._factors = list(feature_names), list(action_names), factors
        self._features = np.zeros((len(feature_names), BINS), np.int64)
        self._joint = np.zeros((BINS, BINS), np.int64)
        self._actions = np.zeros((len(action_names), BINS), np.int64)
        self._values = {name: np.zeros(len(factor.get("choices", ())) or FACTOR_BINS, np.int64) for name, factor in factors.items()}
        self._policies: dict[str, list[int]] = {}  # policy -> [episodes, episodes that reached the goal]
        self._frames = 0

    def add(self, episode: Episode) -> None:
        """Count one episode."""
        features = _bins(episode.features)
        _count(self._features, features)
        if features.shape[1] > 1:
            cells = np.bincount(features[:, 0] * BINS + features[:, 1], minlength=BINS * BINS)
            self._joint += cells.reshape(BINS, BINS)
        _count(self._actions, _bins(episode.actions.reshape(-1, len(self._action_names))))
        for name, counts in self._values.items():
            if name in episode.variation:
                counts[_place(episode.variation[name], self._factors[name])] += 1
        played = self._policies.setdefault(episode.policy, [0, 0])
        played[0] += 1
        played[1] += int(episode.success.any())
        self._frames += len(episode.frames)

    def report(self) -> dict[str, Any]:
        """Return the counts and the shares that were visited, as JSON values."""
        episodes, reached = (sum(numbers) for numbers in zip(*self._policies.values(), strict=True))
        report: dict[str, Any] = {
            "episodes": episodes,
            "frames": self._frames,
            "success": round(reached / episodes, 4),
            "policies": {
                name: {"episodes": count, "success": round(solved / count, 4)}
                for name, (count, solved) in sorted(self._policies.items())
            },
            "features": _histograms(self._feature_names, self._features),
            "actions": _histograms(self._action_names, self._actions),
            "factors": _histograms(self._values, list(self._values.values())),
        }
        if len(self._feature_names) > 1:
            joint = {"features": self._feature_names[:2], "counts": self._joint.tolist()}
            report["joint"] = joint | {"visited": _visited(self._joint)}
        return report


class CountingWriter(CopyingWriter):
    """An episode file that says in `meta["coverage"]` what its episodes cover, where its other meta data allow to count that."""

    _coverage: Coverage | None = None

    def append(self, episode: Episode) -> None:
        """Add and count one episode; the meta data must be there when the first one comes."""
        super().append(episode)
        facts = [self.meta.get(name) for name in ("feature_names", "action_names", "factors")]
        if self._coverage is None and isinstance(facts[2], dict) and None not in facts:  # converted files list names of factors alone
            self._coverage = Coverage(*facts)  # type: ignore[arg-type]  # checked
        if self._coverage is not None:
            self._coverage.add(episode)

    def _finish(self) -> None:
        if self._coverage is not None:
            self.meta["coverage"] = self._coverage.report()
        super()._finish()


def _bins(values: np.ndarray) -> np.ndarray:
    """Compute the bin of each value of [-1, 1], int64; what is no number counts as 0."""
    inside = np.clip(np.nan_to_num(values.astype(np.float64)), -1.0, 1.0)
    return np.minimum(((inside + 1.0) * (BINS / 2)).astype(np.int64), BINS - 1)


def _count(counts: np.ndarray, bins: np.ndarray) -> None:
    """Add the bins (rows, n) to the histograms (n, BINS)."""
    n = len(counts)
    counts += np.bincount((bins + np.arange(n) * BINS).ravel(), minlength=n * BINS).reshape(n, BINS)


def _place(value: Any, factor: Mapping[str, Any]) -> int:
    if "choices" in factor:
        return list(factor["choices"]).index(value)
    span = factor["high"] - factor["low"]
    place = int((value - factor["low"]) / span * FACTOR_BINS) if span > 0 else 0
    return min(max(place, 0), FACTOR_BINS - 1)


def _visited(counts: np.ndarray) -> float:
    return round(float((counts > 0).mean()), 4)


def _histograms(names: Any, rows: Any) -> dict[str, Any]:
    return {name: {"counts": row.tolist(), "visited": _visited(row)} for name, row in zip(names, rows, strict=True)}


def coverage_table(report: Mapping[str, Any], bars: str = BARS) -> str:
    """Write a report of `Coverage` as text: a line per feature, action component and factor, with a bar per bin, low to high."""
    lines = [f"coverage: {report['success']:.0%} of {report['episodes']} episodes reached their goal, {report['frames']} frames"]
    rows = [(f"  {name}", f"{row['episodes']} episodes", f"{row['success']:.0%} reached") for name, row in report["policies"].items()]
    rows += [("feature", "visited", "-1 to 1"), *_rows(report["features"], bars)]
    if "joint" in report:
        rows.append((f"  {' x '.join(report['joint']['features'])}", f"{report['joint']['visited']:.0%}", "of the cells"))
    rows += [("action", "visited", "-1 to 1"), *_rows(report["actions"], bars)]
    varied = {name: row for name, row in report["factors"].items() if np.count_nonzero(row["counts"]) > 1}
    if varied:
        rows += [("factor", "visited", "choices, or low to high"), *_rows(varied, bars)]
    lines.append(aligned(rows, right=(1,)))
    if len(varied) < len(report["factors"]):
        lines.append(f"factors that did not vary: {len(report['factors']) - len(varied)} of {len(report['factors'])} (--variation)")
    return "\n".join(lines)


def _rows(histograms: Mapping[str, Any], bars: str) -> list[tuple[str, str, str]]:
    return [(f"  {name}", f"{row['visited']:.0%}", _sparkline(row["counts"], bars)) for name, row in histograms.items()]


def _sparkline(counts: Sequence[int], bars: str) -> str:
    """Draw one character per bin, higher for more; a blank for none."""
    top = max(max(counts), 1)
    return "".join(bars[min(count * len(bars) // top, len(bars) - 1)] if count else " " for count in counts)
