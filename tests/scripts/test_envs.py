from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.envs import make_task, task_ids
from worldmodel.scripts.cli import run
from worldmodel.scripts.envs import COLUMNS, LABEL_HEIGHT

TASK = "worldmodel/TwoRoom-v0"


def test_table_has_a_line_for_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs"]) == 0
    header, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == task_ids()
    for line in lines:
        task = make_task(line.split()[0])
        assert line[header.index("factors") :].split()[0] == str(len(task.factors))
        assert len(line[header.index("description") :]) > 20


def test_one_task_shows_its_factors_and_its_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", "--task", TASK, "--seed", "3"]) == 0
    out = capsys.readouterr().out
    task = make_task(TASK)
    _, info = task.reset(seed=3)
    assert info["caption"] in out
    for name, factor in task.factors.items():
        assert any(line.startswith(name) and factor.description in line for line in out.splitlines())


def test_preview_is_a_sheet_whose_rows_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert run(["envs", "--task", TASK, "--preview", str(path), "--image-size", "32"]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    sheet = np.asarray(Image.open(path))
    rows = 2 + len(make_task(TASK).factors)
    assert sheet.shape == (rows * (32 + LABEL_HEIGHT), COLUMNS * 32, 3)
    pictures = sheet.reshape(rows, 32 + LABEL_HEIGHT, COLUMNS * 32, 3)[:, LABEL_HEIGHT:]
    for row in range(1, rows):
        assert not np.array_equal(pictures[0], pictures[row])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "worldmodel/TwoRooms-v0"], "worldmodel/TwoRoom-v0"),
        (["--preview", "x.png"], "needs --task"),
        (["--task", TASK, "--preview", "x.jpg"], "must end in .png"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("worldmodel envs: error: ") and words in err and err.count("\n") == 1
