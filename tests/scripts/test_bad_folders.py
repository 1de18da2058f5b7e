"""Folders in use or in the way, OpenGL that is missing, a training that was killed: nothing is overwritten or lost."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forks import CLI, Forks
from tests.scripts.conftest import Tiny
from tests.scripts.refusals import PROBLEMS, Refused, reading, replaced, sentence, snapshot
from worldmodel.datasets.atomic import locked_folder
from worldmodel.scripts.cli import run
from worldmodel.training.metric_rows import read_rows


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file as another process would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_folder_in_use(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    with locked_folder(tiny.run):
        assert f"{tiny.run} is in use" in refused(*tiny.pretrain_flags)
    with held(tiny.codec / "lock"):
        assert f"{tiny.codec} is in use" in refused(*tiny.codec_flags)
    with held(tmp_path / "x.h5.parts" / "lock"):
        for verb in ("collect", "play"):
            assert "x.h5.parts is in use" in refused(verb, "--out", tmp_path / "x.h5", *(["--port", 0] if verb == "play" else []))
    with locked_folder(tmp_path / "quick"):
        assert f"{tmp_path / 'quick'} is in use" in refused("quickstart", "--out", tmp_path / "quick")


def test_what_is_there_is_not_overwritten(tiny: Tiny, refused: Refused) -> None:
    before = snapshot(tiny.data.parent)
    assert "seed=0" in refused("collect", "--out", tiny.data, "--episodes", "5", "--max-steps", "12", "--seed", "1")
    assert "config.seed was 0 and is now 1" in refused(*tiny.codec_flags, "--codec.seed", "1")
    assert "train.lr was" in refused(*tiny.pretrain_flags, "--train.lr", "0.5")
    assert "belongs to something else" in refused(*replaced(tiny.pretrain_flags, out=tiny.codec))
    assert "holds something else" in refused(*replaced(tiny.codec_flags, out=tiny.run))
    assert "is a file" in refused(*replaced(tiny.codec_flags, out=tiny.data))
    for flags in (replaced(tiny.pretrain_flags, out=tiny.data), ["quickstart", "--out", tiny.data]):
        assert "File exists" in refused(*flags)
    assert "is a file, not a folder" in refused(
        "evaluate", "--checkpoint", tiny.run, "--data", tiny.data, "--out", tiny.data, *PROBLEMS
    )
    assert snapshot(tiny.data.parent) == before


def test_a_quickstart_that_failed_at_once_leaves_its_folder_free(tmp_path: Path, refused: Refused) -> None:
    for wrong in (["--task", "worldmodel/Room-v0"], ["--episodes", "0"]):
        assert "settings" not in refused("quickstart", "--out", tmp_path / "out", *wrong)


@pytest.mark.parametrize("verb", ["envs", "collect", "evaluate"])
def test_no_headless_opengl(verb: str, tiny: Tiny, tmp_path: Path, forked: Forks) -> None:
    flags: dict[str, list[Any]] = {
        "envs": ["envs", "--task", "worldmodel/TwoRoom-v0", "--preview", tmp_path / "x.png"],
        "collect": ["collect", "--out", tmp_path / "x.h5", "--workers", "2", "--episodes", "2"],
        "evaluate": [*reading(tiny, "evaluate", tmp_path), "--workers", "1"],
    }
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PYOPENGL_PLATFORM")}
    result = forked.python(*CLI, *flags[verb], folder=tmp_path, env=env | {"MUJOCO_GL": "glfw"})
    said = sentence(verb, result.returncode, result.stdout, result.stderr)
    assert "cannot render with MUJOCO_GL=glfw" in said and "apt-get install" in said and "MUJOCO_GL=egl" in said
    assert not any(path.suffix in (".png", ".h5", ".html") for path in tmp_path.rglob("*"))


KILLED_AFTER_STEP_7 = """
import os, signal, sys
from worldmodel.scripts.cli import run
from worldmodel.training.run import Run

def log_and_die(self, *arguments):
    log(self, *arguments)
    if self.progress.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)

log, Run.log = Run.log, log_and_die
run(sys.argv[1:])
"""


def test_a_killed_training_goes_on_with_the_same_command(tiny: Tiny, tmp_path: Path, forked: Forks) -> None:
    def command(out: Path) -> list[str]:
        steps = ["--train.steps", "12", "--train.checkpoint-every", "5", "--train.log-every", "1"]
        return [*replaced(tiny.pretrain_flags, out=out), *steps]

    assert run(command(tmp_path / "whole")) == 0
    killed = forked.python("-c", KILLED_AFTER_STEP_7, *command(tmp_path / "killed"), folder=tmp_path, env=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row["step"] for row in read_rows(tmp_path / "killed" / "metrics.jsonl")] == list(range(1, 8))
    assert forked.python(*CLI, *command(tmp_path / "killed"), folder=tmp_path, env=os.environ).returncode == 0
    names = [f"checkpoints/step_000012/{name}" for name in ("model.safetensors", "tokenizer.json")]
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
