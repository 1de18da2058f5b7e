"""Folders that are made once, by whichever process asks first, and are there whole or not at all."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from worldmodel.datasets.atomic import DISK_FULL, lock, replacing
from worldmodel.errors import UserError

logger = logging.getLogger(__name__)


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
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not is_whole(folder):
                _make(folder, make)
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EACCES, errno.EROFS, errno.EPERM, errno.ELOOP):
            raise UserError(
                f"cannot write {folder}: {error.strerror}; free some space or set WORLDMODEL_HOME to another disk"
            ) from error
        raise
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    with replacing(folder, folder=True) as part:
        make(part)
        if folder.exists():
            shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for a lock that ends with the process; its file stays, since removing it would let two in."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if lock(held, wait=True) is None:
            logger.warning("%s is on a file system without locks: do not start two processes at once", path.parent)
        yield
    finally:
        os.close(held)
