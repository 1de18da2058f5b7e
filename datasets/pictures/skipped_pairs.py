"""Pairs that cannot be used: the error that says why, and the count of what is left out, with names as far as memory allows."""

import logging

logger = logging.getLogger(__name__)

NAMED = 1000
LOGGED = 10


class BadPairError(Exception):
    """A picture or caption that cannot be used, and why. Never leaves the datasets: the pair is skipped and counted."""


class SkippedPairs:
    """Counter of pairs that cannot be used."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Name -> reason, of the first 1000."""
        self.count = 0
        """All of them."""
        self._logged = 0

    def add(self, name: str, reason: str) -> None:
        """Count a pair that was found unusable before anything was read from it."""
        if len(self.names) < NAMED:
            self.names[name] = reason
        self.count += 1

    def warn(self, name: str, reason: str) -> None:
        """Count a pair that was found unusable when it was read, and log the first ten of them."""
        self._logged += 1
        if self._logged < LOGGED:
            logger.warning("skipped %s: %s", name, reason)
        elif self._logged == LOGGED:
            logger.warning("skipped %s: %s; further ones are counted, not logged", name, reason)
        self.add(name, reason)

    def __str__(self) -> str:
        if not self.count:
            return "nothing is skipped"
        name, reason = next(iter(self.names.items()))
        return f"{self.count:,} skipped, the first: {name}: {reason}"
