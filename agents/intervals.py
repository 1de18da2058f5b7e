"""How sure a success rate is."""

from collections.abc import Sequence
from math import sqrt


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a success probability (Wilson 1927), 95 % by default.

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


def wilson_of_shares(shares: Sequence[float], repeats: int = 1, z: float = 1.959964) -> tuple[float, float]:
    """Interval of the mean success probability of problems that were each tried several times.

    Tries of one problem are alike, so they are not counted as independent: the Wilson interval is taken at the effective number of
    tries, the number at which independent ones would spread as much as the shares do (Korn and Graubard 1998), between one for each
    problem, which is certain to be there, and all of them. One try each gives `wilson`.

    Args:
        shares: of each problem, how many of its tries were successes, 0 to 1; at least one problem.
        repeats: tries of each problem.
        z: normal quantile of the level.

    Raises:
        ValueError: for shares that cannot be.
    """
    count = len(shares)
    if count < 1 or repeats < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares {list(shares)} of {repeats} tries are impossible")
    rate = sum(shares) / count
    spread = sum((share - rate) ** 2 for share in shares) / count
    trials = count * rate * (1 - rate) / spread if spread > 0 else count
    return _wilson(rate, min(max(trials, count), count * repeats), z)


def _wilson(rate: float, trials: float, z: float) -> tuple[float, float]:
    square = z * z
    center = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)
