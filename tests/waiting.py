"""Waiting for other processes: by conditions, for as long as a slow and busy machine may need."""

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 300.0
"""Seconds after which a test that waits for another process fails: a guard against hanging, not a claim about speed."""


def wait_for(condition: Callable[[], object], what: str, alive: Callable[[], object] = lambda: True) -> None:
    """Wait until it is so, for as long as those are alive who shall bring it about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert (alive() or condition()) and time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.002)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has asked about since has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
