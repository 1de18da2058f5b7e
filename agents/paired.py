"""Two controllers, of one run or of two, on the same problems: by how much the one does better, problem by problem."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from scipy.stats import binomtest

from worldmodel.studies.scaling_fit import student


@dataclass(frozen=True)
class Difference:
    """What a second controller gains over a first."""

    value: float
    """Its share of problems minus that of the first."""
    low: float | None
    """Low end of the 95 % interval; None for problems of a single episode."""
    high: float | None
    """High end."""
    better: int
    """Problems on which the second did better."""
    worse: int
    """Problems on which it did worse."""
    p: float
    """Of as uneven a split of these if both were as good: McNemar's exact test, which takes problems for independent."""


def paired_difference(first: Sequence[float], second: Sequence[float], groups: Sequence[int] | None = None) -> Difference:
    """Compare the shares of successful tries, 0 to 1, that two controllers had on each problem.

    The interval is that of Agresti and Min (2005), which adds one problem lost and one won with half the weight each, and two that are
    equal: where no problem differs it is not empty. Its variance is that between groups, with Student's quantile for their number.

    Args:
        first: of each problem, the share of tries of the first controller that were successes.
        second: the same of the second one.
        groups: which problems are alike, a number for each, as those of one episode; by default none are.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    if not first or len(first) != len(second) or (groups is not None and len(groups) != len(first)):
        raise ValueError(f"{len(first)} and {len(second)} problems are no pairs")
    gains = np.asarray(second, float) - np.asarray(first, float)
    _, index = np.unique(np.arange(len(gains)) if groups is None else groups, return_inverse=True)
    sizes, sums = np.bincount(index), np.bincount(index, gains)
    better, worse, number = int((gains > 0).sum()), int((gains < 0).sum()), len(sizes)
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    low = high = None
    if number > 1:
        center = float(gains.sum()) / (len(gains) + 2)
        between = float(np.square(sums - center * sizes).sum()) * number / (number - 1)
        half = student(number - 1) * sqrt(between + 1 + 2 * center**2) / (len(gains) + 2)
        low, high = max(-1.0, center - half), min(1.0, center + half)
    return Difference(float(gains.mean()), low, high, better, worse, p)


def digest_of(problems: Sequence[Mapping[str, Any]]) -> str:
    """Hash the problems of a manifest, as JSON has them: two evaluations with the same digest solved the same problems."""
    return hashlib.blake2b(json.dumps(problems, sort_keys=True).encode(), digest_size=16).hexdigest()
