"""How sure a success rate is."""

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
    rate, square = successes / trials, z * z
    center = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)
