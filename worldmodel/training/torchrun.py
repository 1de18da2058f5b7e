"""What torchrun, or whatever replaces it, says in the environment about the processes that train together."""

from collections.abc import Mapping
from dataclasses import dataclass

from worldmodel.errors import UserError

NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets in addition to WORLD_SIZE, and that processes cannot find each other without."""


@dataclass(frozen=True)
class Surroundings:
    """This process among the others."""

    rank: int
    """Of this process, from 0."""
    world_size: int
    """How many there are."""
    local_rank: int
    """Of this process on its machine."""
    place: str
    """Where they meet; empty if there is but one."""


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Read the variables; without WORLD_SIZE this process is alone.

    Raises:
        UserError: it is said that there are others, and not where, or what cannot be.
    """
    size = environment.get("WORLD_SIZE", "1")
    if size == "1":
        return Surroundings(0, 1, 0, "")
    if not size.isdecimal() or int(size) < 1:
        raise UserError(f"WORLD_SIZE is {size!r}, it must be the number of processes; unset it, or start them with torchrun")
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} {are} not set; unset it, or start the processes with torchrun, "
            "which sets all of them"
        )
    rank = _number(environment, "RANK", int(size))
    local_rank = _number(environment, "LOCAL_RANK", int(size)) if environment.get("LOCAL_RANK") else rank
    port = _number(environment, "MASTER_PORT", 2**16)
    return Surroundings(rank, int(size), local_rank, f"{environment['MASTER_ADDR']}:{port}")


def _number(environment: Mapping[str, str], name: str, end: int) -> int:
    value = environment[name]
    if not value.isdecimal() or int(value) >= end:
        raise UserError(f"{name} is {value!r}, it must be a number below {end}; start the processes with torchrun, which sets it")
    return int(value)
