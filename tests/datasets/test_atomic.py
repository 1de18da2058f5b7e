import fcntl
import shutil
from pathlib import Path
from typing import Any

import pytest

from worldmodel.datasets.atomic import locked_folder
from worldmodel.errors import UserError


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
