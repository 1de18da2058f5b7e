"""Verbs, flags and values that cannot be: each ends in one sentence on stderr and exit status 2."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import Refused, reading, replaced, sentence, snapshot
from worldmodel.envs import make_task
from worldmodel.scripts.cli import VERBS, run
from worldmodel.scripts.collect import CollectConfig
from worldmodel.scripts.console import run_verb


@pytest.mark.parametrize("verb", ["pretrian", "fly", ""])
def test_an_unknown_verb(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"worldmodel: error: unknown verb '{verb}'") and "pretrain" in err


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_flag(verb: str, refused: Refused) -> None:
    needed = {"codec": ["--data", "x"], "pretrain": ["--data", "x", "--codec", "x"], "generate": ["--checkpoint", "x"]}
    needed |= dict.fromkeys(("dream", "plan", "evaluate", "diagnose", "experts"), ["--checkpoint", "x", "--data", "x"])
    needed |= {"codecs": ["x", "--data", "x"], "ablate": ["shift"], "isoflop": ["--codec", "x"]}
    assert "unrecognized options: --bogus" in refused(verb, *needed.get(verb, []), "--bogus", "1")


@pytest.mark.parametrize("verb", ["codec", "pretrain", "dream", "plan", "evaluate", "generate"])
def test_a_flag_that_is_required(verb: str, refused: Refused) -> None:
    message = refused(verb)
    assert any(flag in message for flag in ("--data", "--checkpoint", "--codec"))


@pytest.mark.parametrize(("verb", "flag"), [("envs", "--task"), ("collect", "--task"), ("quickstart", "--task")])
def test_an_unknown_task(verb: str, flag: str, tmp_path: Path, refused: Refused) -> None:
    out = ["--out", tmp_path / "new" / "x.h5"] if verb != "envs" else []
    said = refused(verb, flag, "worldmodel/TwoRooms-v0", *out)
    assert "unknown task 'worldmodel/TwoRooms-v0'" in said and "worldmodel/Reacher-v0" in said
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cameras", "back"], "unknown camera 'back': this task has top, tilted"),
        (["--cameras", "top"], "this camera takes the observation already"),
        (["--policies", "demonstrater", "1"], "unknown policy 'demonstrater': .*did you mean 'demonstrator'"),
        (["--policies", "sb3:ppo.zip", "1"], "no such file ppo.zip"),
        (["--action-block", "7"], "--max-steps 50 must be a multiple of --action-block 7"),
        (["--variation", "disk.color"], "unknown factor of variation 'disk.color'"),
        (["--ray-address", "127.0.0.1:6379"], "--ray-address .* needs --ray"),
    ],
)
def test_a_collection_that_cannot_be(flags: list[str], words: str, tmp_path: Path, refused: Refused) -> None:
    said = refused("collect", "--out", tmp_path / "new" / "x.h5", "--workers", "1", *flags)
    assert re.search(words, said), said
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("action", [[0.0, 1.5], [np.nan, 0.0], [0.0, 0.0, 0.0]], ids=["bound", "nan", "shape"])
def test_an_action_out_of_bounds(action: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    def main(config: CollectConfig) -> None:
        task = make_task("worldmodel/TwoRoom-v0")
        task.reset(seed=0)
        task.step(np.array(action, np.float32))

    assert "action" in sentence("toy", run_verb("toy", lambda: main, []), *capfd.readouterr())


SHARES = "transition goal spoken-goal action-video video caption captioned-image question text pictures".split()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([f"--mixture.{name}=0" for name in SHARES], "all weights of the mixture are 0"),
        (["--mixture.text", "-1"], "--mixture.text is -1.0"),
        (["--mixture.video", "nan"], "--mixture.video is nan"),
        (["--mixture.clip-length", "0"], "--mixture.clip-length is 0"),
        (["--mixture.clip-length", "50"], "none of 3 episodes holds a clip of 50 steps"),
        (["--mixture.held-out", "1"], "--mixture.held-out is 1.0"),
        (["--mixture.corpora", "speech.pdf"], "speech.pdf"),
        (["--vocab-size", "3"], "vocab_size is 3"),
        (["--model.trunk.heads", "5"], "width 48 must divide by heads 5"),
        (["--model.trunk.depth", "0"], "--model.trunk.depth is 0"),
        (["--model.stem.tokens", "0", "--model.channels", "64"], "width 48"),
        (["--model.stem.width", "12"], "--model.stem.width is 12"),
        (["--train.device", "abacus"], "unknown device 'abacus'"),
        (["--train.steps", "0"], "--train.steps must be at least 1"),
        (["--train.seed", "-1"], "--train.seed -1 must be at least 0"),
        (["--train.packing.rows", "0"], "--train.packing.rows is 0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_trainings_that_cannot_be(flags: list[str], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert words in refused(*replaced(tiny.pretrain_flags, out=tmp_path / "out"), *flags)
    assert not (tmp_path / "out" / "config.json").exists(), "a mistake must not bind the folder"


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("evaluate", ["--controller", "genius"], "genius"),
        ("evaluate", ["--rollout.num-steps", "0"], "--rollout.num-steps is 0"),
        ("evaluate", ["--manifest", "none.json"], "none.json"),
        ("plan", ["--problems.problems", "1000"], "of 1000 problems found"),
        ("plan", ["--problems.seed", "-1"], "--problems.seed -1 must be"),
        ("dream", ["--dream.horizon", "50"], "none of 2 episodes holds a clip"),
        ("dream", ["--dream.seed", "-1"], "--dream.seed -1 must be"),
        ("dream", ["--shown", "0"], "--shown is 0"),
        ("generate", ["--draw", "a disc", "--steps", "0"], "steps is 0"),
        ("generate", ["--draw", "a disc", "--out", "x.gif"], "must end in .png"),
        ("generate", ["--text", "a", "--temperature", "-1"], "temperature is -1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_values_that_make_no_sense(verb: str, flags: list[str], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert words in refused(*reading(tiny, verb, tmp_path), *flags)


def test_a_device_that_is_not_there(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    said = refused(*replaced(tiny.codec_flags, out=tmp_path / "out"), "--device", "abacus")
    assert "unknown device 'abacus'" in said
