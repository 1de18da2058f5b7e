"""How sure a success rate is."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from worldmodel.studies.scaling_fit import student

STUDENT_LIMIT = 1.959964
"""Student's 97.5 % quantile for ever more groups."""


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Compute the Wilson score interval of a success probability (Wilson 1927), 95 % by default.

    Unlike the normal approximation it stays inside [0, 1] and is not empty at 0 or all successes.

    Args:
        successes: number of successes, 0 to `trials`.
        trials: number of independent trials, at least 1.
        z: normal quantile of the level.

    Raises:
        ValueError: for counts that cannot be.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials is impossible")
    return _wilson(successes / trials, trials, z)


def wilson_of_shares(
    shares: Sequence[float], repeats: int = 1, groups: Sequence[int] | None = None, z: float = 1.959964
) -> tuple[float, float]:
    """Compute the interval of a mean success probability where tries come in groups that are alike: of one problem, of one episode.

    The Wilson interval is taken at the effective number of tries, the number at which independent ones would spread as much as the
    groups' sums do (Korn and Graubard 1998), widened by Student's quantile for how few groups tell that spread, and drawn by one part
    in so many as there are groups toward what holds at worst, one try for each group. Between that and all tries it lies in any
    case; one try in each group gives `wilson`. `docs/results/coverage.json` has how often it covers the truth.

    Args:
        shares: of each problem, how many of its tries were successes, 0 to 1; at least one problem.
        repeats: tries of each problem.
        groups: which problems are alike, a number for each; by default none are.
        z: normal quantile of the level.

    Raises:
        ValueError: for shares that cannot be, or another number of groups.
    """
    count = len(shares)
    if count < 1 or repeats < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares {list(shares)} of {repeats} tries are impossible")
    if groups is not None and len(groups) != count:
        raise ValueError(f"{count} shares have {len(groups)} groups")
    _, index = np.unique(np.arange(count) if groups is None else groups, return_inverse=True)
    sizes, sums = np.bincount(index), np.bincount(index, np.asarray(shares, float))
    rate, number = float(sums.sum()) / count, len(sizes)
    tries, least = count * repeats, count**2 / float(np.square(sizes).sum())  # least: were all tries of a group one
    if number == 1 or not 0 < rate < 1:
        return _wilson(rate, least, z)
    worst = tries / least
    variance = float(np.square(sums - rate * sizes).sum()) * number / (number - 1) / count**2
    effect = variance * tries / (rate * (1 - rate))  # of the grouping on the variance, 1 for none
    effect = ((number - 1) * effect + worst) / number * (student(number - 1) / STUDENT_LIMIT) ** 2
    return _wilson(rate, tries / min(max(effect, 1.0), worst), z)


def _wilson(rate: float, trials: float, z: float) -> tuple[float, float]:
    square = z * z
    center = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)
