"""What a user can get wrong: each mistake ends in one sentence on stderr and exit status 2, and nothing is overwritten."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.scripts.conftest import Tiny
from worldmodel.envs import make_task
from worldmodel.resume import locked
from worldmodel.scripts.cli import VERBS, run
from worldmodel.scripts.collect import CollectConfig
from worldmodel.scripts.console import run_verb
from worldmodel.tracking import read_metrics

Refused = Callable[..., str]
PROBLEMS = "--problems.problems 1 --problems.goal-offset 4 --problems.budget 6 --problems.min-distance 0.1".split()
READERS = {
    "dream": ["--dream.clips", "2", "--dream.horizon", "2"],
    "plan": PROBLEMS,
    "evaluate": [*PROBLEMS, "--workers", "0"],
    "generate": ["--frames", "2"],
}
"""Verbs that read a checkpoint and episodes."""


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command in this process, checks how it complains, and returns the sentence."""

    def check(verb: str, *flags: object) -> str:
        capfd.readouterr()
        status = run([verb, *map(str, flags)])
        return sentence(verb, status, *capfd.readouterr())

    return check


def sentence(verb: str, status: int, out: str, err: str) -> str:
    """What a complaint says; only progress may come before it."""
    assert (status, out) == (2, ""), out + err
    assert err.endswith("\n") and "Traceback" not in err
    lines = err.replace("\r", "\n").splitlines()
    start = f"worldmodel {verb}: error: "
    others = [line for line in lines[:-1] if line.strip() and not re.search(r"%\||step/s|it/s|episode/s", line)]
    assert others == [], err
    assert lines[-1].startswith(start), err
    said = lines[-1].removeprefix(start)
    return said


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below a folder with its time and content; lock files aside."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", ".lock"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def reading(tiny: Tiny, verb: str, out: Path, data: Path | None = None, checkpoint: Path | None = None) -> list[Any]:
    """A verb of `READERS` and its flags."""
    output = [] if verb == "generate" else ["--out", out / {"evaluate": "evaluation"}.get(verb, f"{verb}.mp4")]
    return [verb, "--checkpoint", checkpoint or tiny.run, "--data", data or tiny.data, *output, *READERS[verb]]


def replaced(flags: list[str], **values: object) -> list[str]:
    """The same flags with other values of some."""
    flags = list(flags)
    for name, value in values.items():
        flags[flags.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    return flags


# verbs, flags, task ids


@pytest.mark.parametrize("verb", ["pretrian", "fly", ""])
def test_an_unknown_verb(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"worldmodel: error: unknown verb '{verb}'") and "pretrain" in err


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_flag(verb: str, refused: Refused) -> None:
    needed = {"codec": ["--data", "x"], "pretrain": ["--data", "x", "--codec", "x"], "generate": ["--checkpoint", "x"]}
    needed |= dict.fromkeys(("dream", "plan", "evaluate"), ["--checkpoint", "x", "--data", "x"])
    assert "unrecognized options: --bogus" in refused(verb, *needed.get(verb, []), "--bogus", "1")


@pytest.mark.parametrize("verb", ["codec", "pretrain", "dream", "plan", "evaluate", "generate"])
def test_a_flag_that_is_required(verb: str, refused: Refused) -> None:
    message = refused(verb)
    assert any(flag in message for flag in ("--data", "--checkpoint", "--codec"))


@pytest.mark.parametrize(("verb", "flag"), [("envs", "--task"), ("collect", "--env"), ("quickstart", "--env")])
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


def test_driving_into_a_file_of_something_else(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "x.h5"
    for damage, words in ((truncated, "truncated, damaged or not HDF5"), (shutil.copy, "was not made by `worldmodel play`")):
        damage(*((tiny.data, path) if damage is shutil.copy else (path, tiny.data)))
        before = snapshot(tmp_path)
        assert words in refused("play", "--no-browser", "--port", "0", "--out", path)
        assert snapshot(tmp_path) == before and [file.name for file in tmp_path.iterdir()] == ["x.h5"]


# episode files


def truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-1000])


def not_hdf5(path: Path, good: Path) -> None:
    path.write_text("a,b,c\n1,2,3\n")


def of_another_program(path: Path, good: Path) -> None:
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((4, 64, 64, 3), np.uint8)


def of_another_version(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99


def without_a_column(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        del file["actions"]


def missing(path: Path, good: Path) -> None:
    pass


def a_folder(path: Path, good: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("verb", ["codec", "pretrain", *READERS])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (missing, "no such file"),
        (a_folder, "no such file"),
        (truncated, "truncated, damaged or not HDF5"),
        (not_hdf5, "truncated, damaged or not HDF5"),
        (of_another_program, "HDF5 of another program"),
        (of_another_version, "schema version 99"),
        (without_a_column, "actions has no rows"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_episode_files_that_cannot_be_read(
    verb: str, damage: Callable[[Path, Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    path, out = tmp_path / "broken.h5", tmp_path / "out"
    damage(path, tiny.data)
    before = snapshot(tmp_path)
    if verb in READERS:
        said = refused(*reading(tiny, verb, out, data=path))
    else:
        flags = tiny.codec_flags if verb == "codec" else tiny.pretrain_flags
        said = refused(*replaced(flags, data=path, out=out))
    assert str(path) in said and words in said
    assert snapshot(tmp_path) == before and not out.exists()


@pytest.mark.parametrize("verb", ["codec", "pretrain", *READERS])
def test_frames_of_the_wrong_size(verb: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    if verb in READERS:
        said = refused(*reading(tiny, verb, tmp_path, data=tiny.small_frames))
    else:
        flags = tiny.codec_flags if verb == "codec" else tiny.pretrain_flags
        said = refused(*replaced(flags, data=tiny.small_frames, out=tmp_path / "out"))
    assert "48, 48" in said and "64, 64" in said
    assert not any(path.suffix in (".mp4", ".safetensors", ".html") for path in tmp_path.rglob("*"))


def test_files_of_two_frame_sizes(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    flags = replaced(tiny.codec_flags, out=tmp_path / "out")
    assert "frames of [48, 64] pixels" in refused(*flags[:2], tiny.small_frames, *flags[2:])


# checkpoints


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def empty_folder(folder: Path) -> None:
    no_folder(folder)
    folder.mkdir()


def other_schema(folder: Path) -> None:
    edit(folder / "config.json", schema_version=99)


def other_kind(folder: Path) -> None:
    edit(folder / "config.json", kind="recipe")


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tensors_missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, folder / "model.safetensors")


def tensors_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_tensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_codec(folder: Path) -> None:
    shutil.rmtree(folder / "codec")


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


BROKEN = [
    (no_folder, ""),
    (empty_folder, "config.json"),
    (other_schema, "schema version 99"),
    (other_kind, "'recipe'"),
    (not_json, "damaged"),
    (tensors_missing, ""),
    (tensors_cut_short, "damaged"),
    (no_tensors, "missing"),
]


def name_of(value: object) -> str:
    return value.__name__ if callable(value) else ""


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(("harm", "words"), [*BROKEN, (no_tokenizer, "tokenizer"), (no_codec, "codec")], ids=name_of)
def test_checkpoints_that_cannot_be_read(
    verb: str, harm: Callable[[Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(tiny.run / "checkpoints" / "step_000002", checkpoint)
    harm(checkpoint)
    before = snapshot(tmp_path)
    said = refused(*reading(tiny, verb, out, checkpoint=checkpoint))
    assert str(checkpoint) in said and words in said
    assert snapshot(tmp_path) == before and not out.exists()


@pytest.mark.parametrize(("harm", "words"), BROKEN, ids=name_of)
def test_codecs_that_cannot_be_read(harm: Callable[[Path], None], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(tiny.codec, tmp_path / "codec")
    harm(tmp_path / "codec")
    said = refused(*replaced(tiny.pretrain_flags, codec=tmp_path / "codec", out=tmp_path / "out"))
    assert str(tmp_path / "codec") in said and words in said
    assert not (tmp_path / "out").exists()


# values


@pytest.mark.parametrize("action", [[0.0, 1.5], [np.nan, 0.0], [0.0, 0.0, 0.0]], ids=["bound", "nan", "shape"])
def test_an_action_out_of_bounds(action: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    def main(config: CollectConfig) -> None:
        task = make_task("worldmodel/TwoRoom-v0")
        task.reset(seed=0)
        task.step(np.array(action, np.float32))

    assert "action" in sentence("toy", run_verb("toy", lambda: main, []), *capfd.readouterr())


SHARES = "action-video video caption captioned-image question text pictures".split()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([f"--mixture.{name}=0" for name in SHARES], "all weights of the mixture are 0"),
        (["--mixture.text", "-1"], "text is -1.0"),
        (["--mixture.video", "nan"], "video is nan"),
        (["--mixture.clip-length", "0"], "clip_length is 0"),
        (["--mixture.clip-length", "50"], "none of 3 episodes holds a clip of 50 steps"),
        (["--mixture.held-out", "1"], "held_out is 1.0"),
        (["--mixture.corpora", "speech.pdf"], "speech.pdf"),
        (["--vocab-size", "3"], "vocab_size is 3"),
        (["--preset.model.trunk.heads", "5"], "width 48 must divide by heads 5"),
        (["--preset.model.trunk.depth", "0"], "depth is 0"),
        (["--preset.model.channels", "64"], "width 48"),
        (["--preset.train.device", "abacus"], "unknown device 'abacus'"),
        (["--preset.train.steps", "0"], "steps must be at least 1"),
        (["--preset.train.seed", "-1"], "seed must be at least 0"),
        (["--preset.train.packing.rows", "0"], "rows is 0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_trainings_that_cannot_be(flags: list[str], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    asked = replaced(tiny.pretrain_flags, out=tmp_path / "out")
    place = len(asked) if flags[0].startswith("--preset") else asked.index("preset:tiny")
    assert words in refused(*asked[:place], *flags, *asked[place:])
    assert not (tmp_path / "out" / "config.json").exists(), "a mistake must not bind the folder"


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("evaluate", ["--only", "genius"], "no controller 'genius'"),
        ("evaluate", ["--rollout.num-steps", "0"], "num_steps is 0"),
        ("evaluate", ["--manifest", "none.json"], "none.json"),
        ("plan", ["--problems.problems", "1000"], "of 1000 problems found"),
        ("plan", ["--problems.seed", "-1"], "seed is -1"),
        ("dream", ["--dream.horizon", "50"], "none of 2 episodes holds a clip"),
        ("dream", ["--dream.seed", "-1"], "seed is -1"),
        ("dream", ["--shown", "0"], "shown is 0"),
        ("generate", ["--draw", "a disc", "--steps", "0"], "steps is 0"),
        ("generate", ["--draw", "a disc", "--out", "x.gif"], "must end in .png"),
        ("generate", ["--text", "a", "--temperature", "-1"], "temperature is -1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_values_that_make_no_sense(verb: str, flags: list[str], words: str, tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    assert words in refused(*reading(tiny, verb, tmp_path), *flags)


def test_nothing_to_generate(tiny: Tiny, refused: Refused) -> None:
    assert "give --text, --draw or --data" in refused("generate", "--checkpoint", tiny.run)


def test_a_device_that_is_not_there(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    said = refused(*replaced(tiny.codec_flags, out=tmp_path / "out"), "--device", "abacus")
    assert "unknown device 'abacus'" in said


# folders


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file as another process would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_folder_in_use(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    with locked(tiny.run):
        assert f"{tiny.run} is in use" in refused(*tiny.pretrain_flags)
    with held(tiny.codec / ".lock"):
        assert f"{tiny.codec} is in use" in refused(*tiny.codec_flags)
    with held(tmp_path / "x.h5.parts" / "lock"):
        for verb in ("collect", "play"):
            assert "x.h5.parts is in use" in refused(verb, "--out", tmp_path / "x.h5", *(["--port", 0] if verb == "play" else []))
    with locked(tmp_path / "quick"):
        assert f"{tmp_path / 'quick'} is in use" in refused("quickstart", "--out", tmp_path / "quick")


def test_what_is_there_is_not_overwritten(tiny: Tiny, refused: Refused) -> None:
    before = snapshot(tiny.data.parent)
    assert "seed=0" in refused("collect", "--out", tiny.data, "--episodes", "5", "--max-steps", "12", "--seed", "1")
    assert "another configuration" in refused(*tiny.codec_flags, "--codec.seed", "1")
    assert "train.lr was" in refused(*tiny.pretrain_flags, "--preset.train.lr", "0.5")
    assert "belongs to something else" in refused(*replaced(tiny.pretrain_flags, out=tiny.codec))
    assert "holds something else" in refused(*replaced(tiny.codec_flags, out=tiny.run))
    assert "is a file" in refused(*replaced(tiny.codec_flags, out=tiny.data))
    for flags in (replaced(tiny.pretrain_flags, out=tiny.data), ["quickstart", "--out", tiny.data]):
        assert "File exists" in refused(*flags)
    assert "File exists" in refused("evaluate", "--checkpoint", tiny.run, "--data", tiny.data, "--out", tiny.data, *PROBLEMS)
    assert snapshot(tiny.data.parent) == before


def test_a_quickstart_that_failed_at_once_leaves_its_folder_free(tmp_path: Path, refused: Refused) -> None:
    for wrong in (["--env", "worldmodel/Room-v0"], ["--episodes", "0"]):
        assert "settings" not in refused("quickstart", "--out", tmp_path / "out", *wrong)


# in processes of their own


@pytest.mark.parametrize("verb", ["envs", "collect", "evaluate"])
def test_no_headless_opengl(verb: str, tiny: Tiny, tmp_path: Path, root: Path) -> None:
    flags: dict[str, list[Any]] = {
        "envs": ["envs", "--task", "worldmodel/TwoRoom-v0", "--preview", tmp_path / "x.png"],
        "collect": ["collect", "--out", tmp_path / "x.h5", "--workers", "2", "--episodes", "2"],
        "evaluate": [*reading(tiny, "evaluate", tmp_path), "--workers", "1"],
    }
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PYOPENGL_PLATFORM")}
    env |= {"MUJOCO_GL": "glfw", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "worldmodel.scripts.cli", *map(str, flags[verb])]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    said = sentence(verb, result.returncode, result.stdout, result.stderr)
    assert "cannot render with MUJOCO_GL=glfw" in said and "apt-get install" in said and "MUJOCO_GL=egl" in said
    assert not any(path.suffix in (".png", ".h5", ".html") for path in tmp_path.rglob("*"))


def test_a_killed_training_goes_on_with_the_same_command(tiny: Tiny, tmp_path: Path, root: Path) -> None:
    def command(out: Path) -> list[str]:
        steps = ["--preset.train.steps", "40", "--preset.train.checkpoint-every", "5", "--preset.train.log-every", "1"]
        flags = replaced(tiny.pretrain_flags, out=out)
        return [sys.executable, "-m", "worldmodel.scripts.cli", *flags, *steps]

    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run(command(tmp_path / "whole"), env=env, check=True, capture_output=True)
    process = subprocess.Popen(command(tmp_path / "killed"), env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(read_metrics(tmp_path / "killed" / "metrics.jsonl")) < 7:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended or hangs before step 7"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(read_metrics(tmp_path / "killed" / "metrics.jsonl")) < 40
    subprocess.run(command(tmp_path / "killed"), env=env, check=True, capture_output=True)
    names = [f"checkpoints/step_000040/{name}" for name in ("model.safetensors", "tokenizer.json")]
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
