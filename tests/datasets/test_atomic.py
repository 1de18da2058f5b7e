import errno
import fcntl
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.atomic import Temporary, build_once, is_leftover, locked_folder, replacing, temporary_beside, write_atomic
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


@contextmanager
def little_room() -> Iterator[None]:
    """No file may become longer than 1000 bytes, the one that tests are logged to among them; the system says so as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kill(temporary: Temporary) -> Path:
    """Let go of a temporary file as a killed process does."""
    os.close(temporary._descriptor)
    return temporary.path


def test_one_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "b"):
        with pytest.raises(UserError, match="in use by another process"), locked_folder(tmp_path / "a" / "b"):
            pass
    with locked_folder(tmp_path / "a" / "b"):
        pass


@pytest.mark.parametrize("made_again", [True, False])
def test_a_folder_that_was_removed_before_it_could_be_locked(
    made_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, flock = tmp_path / "a", fcntl.flock

    def slow(*args: Any) -> None:
        monkeypatch.undo()
        shutil.rmtree(folder)
        if made_again:
            folder.mkdir()
            (folder / "lock").touch()
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(UserError, match="finished by another process just now"), locked_folder(folder):
        pass
    with locked_folder(folder):
        pass


def test_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"), locked_folder(tmp_path / "file" / "a"):
        pass
    with pytest.raises(UserError, match="cannot write to"), locked_folder(tmp_path / "a\0b"):
        pass


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked_folder(tmp_path / "run"):
        assert "without locks" in caplog.text
    write_episodes(tmp_path / "x.h5", [make_episode(0)], {})
    with replacing(tmp_path / "folder", folder=True) as folder:
        (folder / "a").touch()
    build_once(tmp_path / "cache", lambda part: (part / "a").touch(), Path.is_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "x.h5", "folder", "cache", ".cache.lock"}
    half = kill(Temporary(tmp_path / "y"))
    Temporary(tmp_path / "y").discard()
    assert half.exists(), "another process may be writing it, nobody can tell"


def test_temporary_names_cannot_be_foretold_and_fit(tmp_path: Path) -> None:
    for name in ("x.h5", "é" * 120, "a" * 255):
        names = [temporary_beside(tmp_path / name).name for _ in range(2)]
        assert names[0] != names[1] and all(map(is_leftover, names)) and all(len(os.fsencode(each)) <= 255 for each in names)
        write_atomic(tmp_path / name, b"1") if len(os.fsencode(name)) <= 255 else None
    assert not is_leftover("x.tmp") and not is_leftover(".x.tmp")


def test_nothing_is_written_through_a_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)  # let the planter know the name
    for planted in (temporary_beside(tmp_path / "x.h5"), temporary_beside(tmp_path / "folder")):
        planted.symlink_to(precious)
    for path in ("x.h5", "folder"):
        with pytest.raises(OSError, match="File exists"):
            write_atomic(tmp_path / path, b"theirs")
        with pytest.raises(OSError, match="File exists"), replacing(tmp_path / path, folder=path == "folder"):
            raise AssertionError("not reached")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(precious)
    with pytest.raises(UserError, match="cannot write to"), locked_folder(tmp_path / "run"):
        pass
    (tmp_path / "parts").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match="is a link"), locked_folder(tmp_path / "parts", link=False):
        pass
    (tmp_path / "out").symlink_to(precious)
    monkeypatch.undo()
    write_atomic(tmp_path / "out", b"new")
    assert precious.read_text() == "mine" and (tmp_path / "out").read_bytes() == b"new" and not (tmp_path / "out").is_symlink()


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with replacing(path) as temporary:
        temporary.write_bytes(b"newer")
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o600, b"newer")


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_goes_and_what_another_writes_stays(folder: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    half = kill(Temporary(path, folder))
    if folder:
        (half / "half").touch()
    other = kill(Temporary(tmp_path / "x.y", folder))
    with replacing(path, folder) as temporary:
        assert not half.exists() and temporary.exists()
        with pytest.raises(UserError, match="being written by another process"), replacing(path, folder):
            pass
    assert {each.name for each in tmp_path.iterdir()} == {"x", other.name}


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    for folder in (False, True):
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x", folder):
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    with pytest.raises(OSError, match="File too large: .*x.json"), little_room():
        write_atomic(path, bytes(2000))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
