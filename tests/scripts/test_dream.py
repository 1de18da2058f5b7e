"""`worldmodel dream`: what its tables say, on a tiny checkpoint and by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.scripts.conftest import Tiny
from worldmodel.evaluation import DreamErrors
from worldmodel.scripts.cli import run
from worldmodel.scripts.dream import table


def test_errors_of_latents_and_state_are_told_as_far_as_episodes_allow(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "dream.mp4"
    assert run(["dream", "--checkpoint", str(tiny.run), "--data", str(tiny.data), "--dream.clips", "4", "--out", str(film)]) == 0
    printed = capsys.readouterr().out
    assert film.stat().st_size > 0
    latents, state = printed.split("error of the true state")
    for part, columns in ((latents, ("dream", "shuffled actions", "copy last frame")), (state, ("read off true frames",))):
        assert all(column in part for column in columns)
        horizons = [line.split()[0] for line in part.splitlines() if "+- " in line and line.split()[0].isdigit()]
        assert horizons == ["1", "2", "3"], "four model steps of three actions, one of them between the frames given"
    assert "shuffled / true actions one step ahead" in printed


def test_actions_as_text_in_blocks(tiny: Tiny, tmp_path: Path) -> None:
    flags = ["--dream.clips", "2", "--dream.horizon", "1", "--rollout.action-form", "text", "--out", str(tmp_path / "dream.mp4")]
    assert run(["dream", "--checkpoint", str(tiny.run), "--data", str(tiny.data), *flags]) == 0


def test_table_by_hand() -> None:
    latent = {"learned": [(0.5, 0.1)], "shuffled_actions": [(1.25, 0.2)], "copy_last_frame": [(0.75, 0.3)]}
    state = {"learned": [(0.4, 0.01)], "true_frames": [(0.125, 0.02)]}
    nothing = np.zeros((2, 1, 4, 4, 3), np.uint8)
    lines = table(DreamErrors(latent, {}, nothing, nothing, state, episodes=7)).splitlines()
    assert lines[0].endswith("over 7 episodes)")
    assert lines[2].split() == "1 0.5000 +- 0.1000 1.2500 +- 0.2000 0.7500 +- 0.3000".split()
    assert lines[6].split() == "1 0.4000 +- 0.0100 0.1250 +- 0.0200".split()
    assert lines[-1] == "shuffled / true actions one step ahead: 2.50 (1: the actions do not matter)"
