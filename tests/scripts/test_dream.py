"""`worldmodel dream`: what its tables say, on a tiny checkpoint and by hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused
from worldmodel.checkpoint import read_checkpoint, save_pretrained
from worldmodel.rollout import Rollout
from worldmodel.scripts.cli import run


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


def test_the_film_takes_flow_steps_of_its_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken, rollout = [], Rollout.rollout

    def noted(self: Rollout, *given: Any) -> Any:
        taken.append(self.config.num_steps)
        return rollout(self, *given)

    monkeypatch.setattr(Rollout, "rollout", noted)
    flags = ["--dream.clips", "2", "--dream.horizon", "1", "--film-steps", "3", "--out", str(tmp_path / "dream.mp4")]
    assert run(["dream", "--checkpoint", str(tiny.run), "--data", str(tiny.data), *flags]) == 0
    assert taken == [1, 1, 3]
