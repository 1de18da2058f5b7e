"""Files that are there whole or not at all: written under a temporary name, flushed to the disk, renamed."""

import contextlib
import errno
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers that mean there is no room for the file."""


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Writes `data` to `path`; after a crash at any moment the old content or the new one is there.

    Args:
        path: the file.
        data: its content.
        durable: wait until it is on the disk. Without, a power failure may leave a damaged file, but nothing else.

    Raises:
        OSError: from the system, after the temporary file is removed.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        if durable:
            _sync(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_and_rename(temporary: Path, path: Path) -> None:
    """Flushes a finished file to the disk, gives it its name, and flushes the folder."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder, and holds it until the block or the process ends; whoever holds it may remove it.

    Raises:
        UserError: another process holds it, or has just removed it; it cannot be made.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removed = not os.path.samestat(os.fstat(lock), os.stat(path))
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by another process; wait for it or name another folder") from error
        except FileNotFoundError:
            removed = True
        if removed:
            raise UserError(f"{folder} was finished by another process just now; run the command again")
        yield
    finally:
        os.close(lock)


def _open_locked(path: str, flags: int) -> int:
    """Opens a file to write it anew, and holds its lock until it is closed."""
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"{path} is being written by another process; wait for it, or choose another name") from error
    return descriptor


class BlackHoleFile(io.FileIO):
    """A file that swallows writes after the first one that failed, and remembers the failure in `error`.

    HDF5 cannot close a file whose last writes failed (it crashes the process at exit), so on a full disk it
    must believe that all went well until it has let go. The owner looks at `error` and throws the file away.

    Raises:
        UserError: another process writes it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b", opener=_open_locked)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of `data`, or nothing once a write has failed."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and self.error is None:
                written += super().write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Changes the size, or does nothing once a write has failed."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
