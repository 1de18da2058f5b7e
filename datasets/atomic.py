"""Files and folders that are there whole or not at all: written under a temporary name, flushed to the disk, renamed.

Nobody can foretell a temporary name, it is made new, and no link is followed: what others have put into the folder stays as it is.
A temporary file is locked while its process lives, so whoever writes the same file next removes what a killed process left.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from worldmodel.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers that mean there is no room for the file."""
NOT_WRITABLE = (*DISK_FULL, errno.EACCES, errno.EROFS, errno.EPERM, errno.ELOOP)
"""Error numbers that mean that a folder cannot be written to."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
"""Error numbers by which a file system says that it locks nothing, or nothing that was opened to be read."""
LONGEST_NAME = 200
"""Bytes of a name that a temporary name repeats; a file system takes 255."""

logger = logging.getLogger(__name__)


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path`; after a crash at any moment the old content or the new one is there.

    A file that is there keeps its mode; a link is replaced, not followed.

    Args:
        path: the file.
        data: its content.
        durable: wait until it is on the disk. Without, a power failure may leave a damaged file, but nothing else.

    Raises:
        OSError: from the system, with `path` as its file name, after the temporary file is removed.
    """
    temporary = temporary_beside(path)
    try:
        descriptor = _create(temporary)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            _keep_mode(temporary, path)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_and_rename(temporary: Path, path: Path) -> None:
    """Flush a finished file or folder to the disk, give it its name (and the mode of the file there), and flush the folder."""
    _sync(temporary)
    _keep_mode(temporary, path)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_mode(temporary: Path, path: Path) -> None:
    """Give a new file the mode of the file that it replaces: what only its owner may read stays so."""
    with contextlib.suppress(FileNotFoundError):
        before = path.lstat()
        if stat.S_ISREG(before.st_mode):
            temporary.chmod(stat.S_IMODE(before.st_mode))


def temporary_beside(path: Path, ending: str = ".tmp") -> Path:
    """Make up a hidden name in the folder of `path` that is not there and cannot be foretold."""
    return path.with_name(f".{_stem(path)}.{secrets.token_hex(8)}{ending}")


def is_leftover(name: str) -> bool:
    """Test whether a name is one of `temporary_beside`; of a process that lives or was killed."""
    return _LEFTOVER.fullmatch(name) is not None


_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\.\w+)?", re.DOTALL)


def _stem(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= LONGEST_NAME else hashlib.blake2b(name, digest_size=16).hexdigest()


def _create(path: Path) -> int:
    """Make a file that is not there yet, opened to be read and written."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed: whether it is locked now, None where its file system knows no locks."""
    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None


class Temporary:
    """An empty file or folder next to the one that it shall become, locked until it is renamed or discarded.

    What killed processes left of the same file is removed first. `path` is the temporary name; a tool may want to see the format in
    its `ending`, as in `.tmp.mp4`.

    Raises:
        UserError: another process writes `path` at this moment.
        OSError: from the system, with `path` as its file name.
    """

    def __init__(self, path: Path, folder: bool = False, ending: str = ".tmp") -> None:
        self.target = path
        try:
            _remove_leftovers(path)
            while True:
                self.path = temporary_beside(path, ending)
                if folder:
                    self.path.mkdir()
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW) if folder else _create(self.path)
                lock(self._descriptor)
                if self.path.exists():  # else another process has just taken it for a leftover
                    return
                os.close(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def rename(self) -> None:
        """Give the temporary file its name, on the disk for good; a file that has that name is replaced, and so is an empty folder."""
        sync_and_rename(self.path, self.target)

    def discard(self) -> None:
        """Remove what has not been renamed; must be called at the end."""
        _remove(self.path)
        os.close(self._descriptor)


@contextlib.contextmanager
def replacing(path: Path, folder: bool = False, ending: str = ".tmp") -> Iterator[Path]:
    """Yield the name of a `Temporary` to write to, which becomes `path` when the block ends well; else nothing is left."""
    temporary = Temporary(path, folder, ending)
    try:
        yield temporary.path
        temporary.rename()
    finally:
        temporary.discard()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder that `path` is about to be written to; raise what the system says meanwhile as a UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room or name another place") from error


@contextlib.contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes `folder`'s name and place when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = temporary_beside(folder, ".old")
    with replacing(folder, folder=True) as beside:
        yield beside
        for path in beside.rglob("*"):
            _sync(path)
        if folder.exists():  # a folder that holds something cannot be replaced in one step
            folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of a file; UserError where another process is still at it."""
    mine = re.compile(re.escape(f".{_stem(path)}.") + r"[0-9a-f]{16}\.tmp(\.\w+)?")
    for found in [each for each in path.parent.iterdir() if mine.fullmatch(each.name)]:
        try:
            status = found.lstat()
            if status.st_uid != os.getuid() or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                continue  # not made by this user: it is planted
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            locked = lock(descriptor)
            if locked:
                _remove(found)
        finally:
            os.close(descriptor)
        if locked is False:
            raise UserError(f"{path} is being written by another process; wait for it, or choose another name")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path, link: bool = True) -> Iterator[None]:
    """Make a folder, and hold it until the block or the process ends; whoever holds it may remove it.

    A file system without locks holds nothing, which is said.

    Args:
        folder: the folder.
        link: it may be a link to one; not where its name can be foretold and is not what the user named.

    Raises:
        UserError: another process holds it, or has just removed it; it cannot be made.
    """
    path = folder / "lock"
    if not link and folder.is_symlink():
        raise UserError(f"{folder} is a link, and nothing is written through it: remove it or name another file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise UserError(f"cannot write to {folder}: {getattr(error, 'strerror', error)}") from error
    try:
        locked = lock(held)
        if locked is None:
            logger.warning("%s is on a file system without locks: see to it that no other process writes there", folder)
        try:
            removed = not os.path.samestat(os.fstat(held), os.stat(path))
        except FileNotFoundError:
            removed = True
        if locked is False:
            raise UserError(f"{folder} is in use by another process; wait for it or name another folder")
        if removed:
            raise UserError(f"{folder} was finished by another process just now; run the command again")
        yield
    finally:
        os.close(held)


def build_once(folder: Path, make: Callable[[Path], None], is_whole: Callable[[Path], bool]) -> Path:
    """Return the folder, made now unless it is there; other processes that ask meanwhile wait and share it.

    Args:
        folder: the folder. A damaged one (`is_whole` says no) is replaced.
        make: fills the empty folder it is given, which gets its name at the end; what it leaves behind when it
            fails or is killed is thrown away.
        is_whole: whether a folder is there with all it should hold.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # the file of the lock stays, since removing it would let two in
        held = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if lock(held, wait=True) is None:
                logger.warning("%s is on a file system without locks: do not start two processes at once", folder.parent)
            if not is_whole(folder):
                with atomic_dir(folder) as part:
                    make(part)
        finally:
            os.close(held)
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            room = "free some space or set WORLDMODEL_HOME to another disk"
            raise UserError(f"cannot write {folder}: {error.strerror}; {room}") from error
        raise
    return folder


class DeferredErrorFile(io.FileIO):
    """A file that swallows writes after the first one that failed, and remembers the failure in `error`.

    HDF5 cannot close a file whose last writes failed (it crashes the process at exit), so on a full disk it
    must believe that all went well until it has closed the file. The owner reads `error` and throws the file away.
    No link is followed: the name is that of a `Temporary`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or nothing once a write has failed."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view) and self.error is None:
                written += super().write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or do nothing once a write has failed."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
