from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.preview import COLUMNS, GAP, LABEL_HEIGHT, MARGIN, TITLE_HEIGHT, VARIED, contact_sheet
from worldmodel.scripts.cli import run
from worldmodel.scripts.envs import print_task

TASK = "worldmodel/TwoRoom-v0"


def test_table_has_a_line_for_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs"]) == 0
    header, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == task_ids()
    for line in lines:
        task = make_task(line.split()[0])
        numbers = {"action": len(task.action_names), "steps": task.max_episode_steps, "factors": len(task.factors)}
        for column, number in numbers.items():
            assert line[header.index(column) :].split()[0] == str(number)
        assert line[header.index("cameras") :].startswith(", ".join(task.cameras))
        assert len(line[header.index("description") :]) > 20


def test_one_task_shows_its_factors_and_its_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", "--task", TASK, "--seed", "3"]) == 0
    out = capsys.readouterr().out
    task = make_task(TASK)
    _, info = task.reset(seed=3)
    assert info["caption"] in out
    for name, factor in task.factors.items():
        assert any(line.startswith(name) and factor.description in line for line in out.splitlines())


def test_one_task_shows_its_keys_its_cameras_and_every_phrasing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", "--task", TASK, "--seed", "3"]) == 0
    out = capsys.readouterr().out
    task = make_task(TASK)
    task.reset(seed=3)
    assert any(line.split() == "dx a d move left, move right".split() for line in out.splitlines())
    assert any(line.split() == ["cameras", "top,", "tilted"] for line in out.splitlines())
    said = [line[len("language  ") :] for line in out.splitlines()]
    assert set(task.language.captions()) <= set(said) and set(task.language.goals()) <= set(said)
    assert any(text.startswith("what happens if you ") for text in said)
    action = next(text for text in said if text.startswith("action: "))
    words = task.describe_action(task.parse_action(action), "words")
    assert words in said


def test_a_task_named_short_says_how_it_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", "--task", "PushT"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("worldmodel/PushT-v0: ")
    (line,) = (line for line in out.splitlines() if line.startswith("recorded "))
    assert "3000 episodes of 40 steps (play 0.5, noisy 0.25, smooth 0.15, random 0.1); goals 25 steps ahead, in at most 50" in line
    assert "worldmodel quickstart --task worldmodel/PushT-v0" in out


class WithoutFactors:
    """A task that has no factors of variation."""

    factors: dict[str, Any] = {}

    def __init__(self, **settings: Any) -> None:
        self._task = make_task(TASK, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def test_a_task_without_factors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    print_task("x", WithoutFactors(), seed=0)  # type: ignore[arg-type]
    assert "no factors of variation" in capsys.readouterr().out
    monkeypatch.setattr("worldmodel.envs.preview.make_task", lambda env_id, **settings: WithoutFactors(**settings))
    assert contact_sheet("x", 16, seed=0).height == 16 + LABEL_HEIGHT


def test_a_task_of_another_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", "--task", "InvertedPendulum-v5"]) == 0
    assert "action      1 numbers in [-1, 1]" in capsys.readouterr().out


def test_preview_is_a_sheet_whose_rows_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert run(["envs", "--task", TASK, "--preview", str(path), "--image-size", "32"]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    sheet = np.asarray(Image.open(path))
    rows = 2 + len(make_task(TASK).factors)
    assert sheet.shape == (rows * (32 + LABEL_HEIGHT), COLUMNS * 32, 3)
    pictures = sheet.reshape(rows, 32 + LABEL_HEIGHT, COLUMNS * 32, 3)[:, LABEL_HEIGHT:]
    names = ["no variation", *make_task(TASK).factors, "all"]
    unchanged = [name for name, picture in zip(names, pictures, strict=True) if np.array_equal(pictures[0], picture)]
    assert unchanged == ["no variation", "sensor.proprio_noise"]


def test_the_gallery_has_a_row_for_each_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, size = [TASK, "worldmodel/Reacher-v0"], 32
    monkeypatch.setattr("worldmodel.envs.preview.task_ids", lambda: ids)
    sheets = []
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        flags = ["--gallery", str(tmp_path / "new" / name), "--image-size", str(size), "--seed", str(seed)]
        assert run(["envs", *flags]) == 0
        assert f"wrote {tmp_path / 'new' / name}" in capsys.readouterr().out
        sheets.append((tmp_path / "new" / name).read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]

    sheet = np.asarray(Image.open(tmp_path / "new" / "a.png").convert("RGB"), float)  # of 256 colours
    assert sheet.shape[1] == 2 * MARGIN + (2 + VARIED) * (size + GAP) - GAP
    for row, env_id in enumerate(ids):
        top = MARGIN + LABEL_HEIGHT + row * (TITLE_HEIGHT + size + GAP) + TITLE_HEIGHT
        cells = [sheet[top : top + size, MARGIN + c * (size + GAP) :][:, :size] for c in range(2 + VARIED)]
        assert len({cell.tobytes() for cell in cells}) == 2 + VARIED
        task = make_task(env_id, image_size=2 * size)
        obs, info = task.reset(seed=0)
        for cell, frame in ((cells[0], obs["pixels"]), (cells[-1], info["goal"])):
            middle = frame.reshape(size, 2, size, 2, 3).mean((1, 3))[8:-8, 8:-8]
            assert np.abs(cell[8:-8, 8:-8] - middle).mean() <= 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "worldmodel/TwoRooms-v0"], "worldmodel/TwoRoom-v0"),
        (["--preview", "x.png"], "needs --task"),
        (["--task", TASK, "--preview", "x.jpg"], "must end in .png"),
        (["--gallery", "x.jpg"], "must end in .png"),
        (["--task", TASK, "--gallery", "x.png"], "--preview for one task"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envs", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("worldmodel envs: error: ") and words in err and err.count("\n") == 1
