import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.scripts.cli import run

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--episodes", "3", "--workers", "1", "--image-size", "32", "--max-steps", "5")


def test_records_then_has_nothing_left_to_do(run_command: Command, tmp_path: Path) -> None:
    path = tmp_path / "new" / "episodes.h5"
    first = run_command("collect", "--out", path, *SMALL)
    assert first.returncode == 0, first.stderr
    assert f"{path}: 3 episodes, 18 frames" in first.stdout
    assert "recorded now: 3 episodes" in first.stdout
    with EpisodeStore(path) as store:
        assert (len(store), store.num_frames) == (3, 18)
    content = path.read_bytes()

    again = run_command("collect", "--out", path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert "recorded now: 0 episodes" in again.stdout and "complete already" in again.stderr

    other = run_command("collect", "--out", path, *SMALL, "--seed", "1")
    assert other.returncode == 2
    assert re.fullmatch(r"worldmodel collect: error: .*seed=0.*\n", other.stderr)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "worldmodel/TwoRooms-v0"], "worldmodel/TwoRoom-v0"),
        (["--episodes", "0"], "episodes"),
        (["--policies", "random", "-1"], "random=-1"),
        (["--policies", "demonstrater", "1"], "did you mean 'demonstrator'?"),
        (["--policies", "noisy", "1", "sb3:nowhere.zip", "1"], "no such file nowhere.zip"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["collect", "--out", str(tmp_path / "x.h5"), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("worldmodel collect: error: ") and words in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.h5"
    path.write_text("not episodes")
    assert run(["collect", "--out", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == "not episodes"
