"""What was made before: indices of big files on the disk, and the values used last in memory."""

import hashlib
import io
import logging
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from worldmodel.datasets.atomic import write_atomic
from worldmodel.home import cache_dir

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]
Value = TypeVar("Value")
_STAMP = "stamp"


def cached_index(path: Path, kind: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return `make(path)`, or what it gave when the file had the size and the time of change that it has now.

    It is kept under WORLDMODEL_HOME, so that a file is looked through once and not at every start.

    Args:
        path: the file that the index is about.
        kind: what the index holds, and its version; indices of other kinds of the same file are kept, too.
        make: reads the file and returns arrays without Python objects.
    """
    path = path.resolve()
    status = path.stat()
    stamp = np.array([status.st_size, status.st_mtime_ns], np.int64)
    name = hashlib.sha256(os.fsencode(path) + b"\0" + kind.encode()).hexdigest()[:32]
    kept = cache_dir() / "indices" / f"{name}.npz"
    found = _load(kept, stamp)
    if found is not None:
        return found
    made = make(path)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **made, **{_STAMP: stamp})
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, content.getvalue(), durable=False)
    except OSError as error:  # a full or read-only home costs time, nothing else
        logger.warning("the index of %s cannot be kept in %s: %s", path, kept.parent, error.strerror)
    return made


def _load(path: Path, stamp: np.ndarray) -> Arrays | None:
    """Load the arrays of a kept index; None when there is none, it is damaged, or it is about another state of the file."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    kept = arrays.pop(_STAMP, None)
    return arrays if kept is not None and np.array_equal(kept, stamp) else None


class LRUCache(Generic[Value]):
    """Keeps the values that were used last, so many of them.

    Threads may share one: it has no lock (which a fork could copy while it is held), only single operations of a dictionary,
    and takes a value that another thread has just dropped for one that was never there. A pickled copy starts empty.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """Return the value, or None when it is not kept."""
        value = self._values.get(key)
        if value is not None:
            try:
                self._values.move_to_end(key)
            except KeyError:
                pass
        return value

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, and drop those not used for longest that are too many."""
        if self.capacity < 1:
            return
        self._values[key] = value
        while len(self._values) > self.capacity:
            try:
                self._values.popitem(last=False)
            except KeyError:
                return

    def __getstate__(self) -> dict[str, int]:
        return {"capacity": self.capacity}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["capacity"])  # type: ignore[misc]
