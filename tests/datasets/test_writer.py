import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.writer import EpisodeWriter, write_episodes
from worldmodel.errors import UserError


def test_same_episodes_same_bytes(tmp_path: Path) -> None:
    write_toy_file(tmp_path / "a.h5")
    write_toy_file(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write_toy_file(path)
    assert path.read_text() == "precious"


def test_error_in_between_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), EpisodeWriter(tmp_path / "a.h5", {}) as writer:
        writer.append(make_episode())
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        write_episodes(tmp_path / "a.h5", [], {})
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    episodes = [make_episode(0), make_episode(1, size=8)]
    with pytest.raises(ValueError, match=r"episode 1: frames rows have shape \(8, 8, 3\)"):
        write_episodes(tmp_path / "a.h5", episodes, {})
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import sys
from pathlib import Path
from tests.datasets.toys import write_toy_file
from worldmodel.errors import UserError
try:
    write_toy_file(Path(sys.argv[1]), lengths=(30,) * 40)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [5_000, 60_000, 700_000])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, root: Path, room: int) -> None:
    """A limit on the size of files stands for the full disk: the same error from the same system call."""
    path = tmp_path / "a.h5"
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        cwd=root,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert process.returncode == 0, process.stderr  # HDF5 crashes at exit after a failed write unless it is kept from it
    assert process.stdout == f"cannot write {path}: File too large; make room and try again\n"
    assert list(tmp_path.iterdir()) == []
