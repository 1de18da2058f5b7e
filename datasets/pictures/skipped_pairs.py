"""Pairs that cannot be used: the error that says why, and the count of what is left out, with names as far as memory allows."""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

NAMED = 1000
LOGGED = 10


class BadPairError(Exception):
    """A picture or caption that cannot be used, and why. Never leaves the datasets: the pair is skipped and counted."""


def read_part(path: Path, start: int = 0, size: int | None = None) -> bytes:
    """Read part of a file, or all of it. It is opened each time, which is cheap beside decoding: no descriptor is shared by forks.

    Raises:
        BadPairError: it cannot be read, or has become shorter.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = file.read() if size is None else os.pread(file.fileno(), size, start)
    except OSError as error:
        raise BadPairError(f"{path} cannot be read: {error.strerror}") from error
    if size is not None and len(data) < size:
        raise BadPairError(f"{path} has become shorter")
    return data


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
