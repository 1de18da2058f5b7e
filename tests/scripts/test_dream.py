"""`worldmodel dream`: what its tables say, on a tiny checkpoint and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.checkpoint import read_checkpoint, save_pretrained
from worldmodel.evaluation import DreamErrors
from worldmodel.rollout import Rollout
from worldmodel.scripts.cli import run
from worldmodel.scripts.dream import film, table


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
    flags = ["--dream.clips", "2", "--dream.horizon", "1", "--rollout.action-form", "text", "--out", str(tmp_path / "dream.gif")]
    assert run(["dream", "--checkpoint", str(tiny.run), "--data", str(tiny.data), *flags, "--film-steps", "1"]) == 0
    assert (tmp_path / "dream.gif").read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize(
    ("verb", "flags", "says"),
    [
        ("dream", ["--dream.clips", "2", "--dream.horizon", "1", "--out", "dream.mp4"], "truth above, dream below"),
        ("plan", [*PROBLEMS, "--controller", "random", "--out", "plan.mp4"], "random: "),
        ("evaluate", [*PROBLEMS, "--controller", "random", "--workers", "0", "--out", "evaluation"], "over 1 held-out problems"),
        ("generate", ["--frames", "2", "--tokens", "2"], "asked: "),
    ],
)
def test_without_data_the_file_of_the_checkpoint_is_taken_and_named(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    verb: str,
    flags: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([verb, "--checkpoint", str(tiny.run), *flags]) == 0
    assert says in capsys.readouterr().out
    assert f"data: {tiny.data}, which the model was trained on\n" in caplog.text


def test_without_data_and_without_the_file_it_is_said(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    trained = read_checkpoint(tiny.run)
    for i, (card, words) in enumerate(
        [
            ({"files": ["/gone/a.h5"]}, "was trained on are gone from /gone/a.h5: say where they are with --data FILE"),
            ({"files": None}, "does not say where its episodes are"),
        ]
    ):
        folder = tmp_path / str(i)
        save_pretrained(folder, trained.model, trained.tokenizer, trained.codec, trained.card | card)
        for verb in ("dream", "plan", "evaluate", "diagnose", "generate"):
            assert words in refused(verb, "--checkpoint", folder)


def test_the_card_of_a_checkpoint_tells_tasks_actions_and_files(tiny: Tiny) -> None:
    card = read_checkpoint(tiny.run).card
    assert card["tasks"] == {"worldmodel/TwoRoom-v0": ["dx", "dy"]} and card["files"] == [str(tiny.data)]
    assert card["actions"] == {"worldmodel/TwoRoom-v0": {"size": 2, "low": -1.0, "high": 1.0, "block": 3}}
    assert card["mixture"]["held_out"] == 0.4 and card["mixture"]["split_seed"] == 0


def test_table_by_hand() -> None:
    latent = {"learned": [(0.5, 0.1)], "shuffled_actions": [(1.25, 0.2)], "copy_last_frame": [(0.75, 0.3)]}
    state = {"learned": [(0.4, 0.01)], "true_frames": [(0.125, 0.02)]}
    nothing = np.zeros((2, 1, 4, 4, 3), np.uint8)
    lines = table(DreamErrors(latent, {}, nothing, nothing, state, episodes=7)).splitlines()
    assert lines[0].endswith("over 7 episodes)")
    assert lines[2].split() == "1 0.5000 +- 0.1000 1.2500 +- 0.2000 0.7500 +- 0.3000".split()
    assert lines[6].split() == "1 0.4000 +- 0.0100 0.1250 +- 0.0200".split()
    assert lines[-1] == "shuffled / true actions one step ahead: 2.50 (1: the actions do not matter)"


def test_the_film_says_what_is_given_and_what_is_dreamt() -> None:
    truth, dream = np.full((2, 4, 8, 8, 3), 200, np.uint8), np.full((2, 2, 8, 8, 3), 40, np.uint8)
    frames = film(truth, dream)
    height = 18 + 8 * 24
    assert frames.shape == (4, 2 * height, 384, 3), "two clips side by side, enlarged"
    assert (frames[:, 18:height] == 200).all() and (frames[:2, height + 18 :] == 200).all() and (frames[2:, height + 18 :] == 40).all()
    lines = frames[:, height : height + 18]
    assert (lines[0] == lines[1]).all() and (lines[1] != lines[2]).any() and (lines[2] != lines[3]).any(), "given, given, 1, 2 ahead"


def test_the_film_takes_flow_steps_of_its_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken, rollout = [], Rollout.rollout

    def noted(self: Rollout, *given: Any) -> Any:
        taken.append(self.config.num_steps)
        return rollout(self, *given)

    monkeypatch.setattr(Rollout, "rollout", noted)
    flags = ["--dream.clips", "2", "--dream.horizon", "1", "--film-steps", "3", "--out", str(tmp_path / "dream.mp4")]
    assert run(["dream", "--checkpoint", str(tiny.run), "--data", str(tiny.data), *flags]) == 0
    assert taken == [1, 1, 3]
