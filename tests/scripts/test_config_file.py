"""A run is a file: `--print-config` prints it, `--config` reads it, and what cannot be read is told in one line."""

import json
import tomllib
import typing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.commands import COMMANDS, commands, example, read
from tests.scripts.conftest import Tiny
from tests.scripts.refusals import Refused
from worldmodel.agents.mppi import MPPIConfig
from worldmodel.presets import PRESETS, base, small
from worldmodel.scripts.cli import run
from worldmodel.scripts.fields import all_fields, draft, unchecked, with_value
from worldmodel.training.resume import locked_run_folder

NASTY = 'a "b" \\ c\n\té \x7f # ü 😀'
MORE = {
    "collect": ["--policies", "noisy", "0.5", "sb3:no/ppo 1.zip", "0", "--cameras", "top", "--ray", "--ray-address", NASTY],
    "pretrain": [
        "--preset",
        "small",
        "--train.betas",
        "0.5",
        "1e-5",
        "--train.processes",
        "2",
        "--model.stem.tokens",
        "0",
        "--model.flow.shift",
        "None",
    ],
    "evaluate": ["--controller", "cem", "policy", "--candidates", "4", "8", "--planner", "mppi", "--planner.std", "2"],
    "plan": ["--planner", "random_shooting", "--planner.num-samples", "7", "--overwrite"],
    "generate": ["--text", NASTY, "--draw", NASTY, "x", "--temperature", "0"],
    "quickstart": ["--policies", "noisy", "1", "--variation", "all", "--preset", "base", "--planner", "mppi"],
    "isoflop": ["--budgets", "1e18", "2e18", "--kinds", "moe"],
    "datasets split": ["--shares", "0.5", "0.25", "0.25"],
    "play": ["--no-browser"],
}
"""Flags of all kinds, for commands whose example has few."""
PRETRAIN = ("--codec", "codec", "--data", "x.h5")


def printed(capsys: pytest.CaptureFixture[str], words: str, *flags: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run([*words.split(), *flags, "--print-config"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS)
def test_what_is_printed_is_read_again(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.datasets.collection.recording.check_policies", lambda shares: None)
    flags = [*example(words), *MORE.get(words, [])]
    file = tmp_path / "run.toml"
    file.write_text(printed(capsys, words, *flags))
    assert read(words, "--config", str(file)) == read(words, *flags)
    assert printed(capsys, words, "--config", str(file)) == file.read_text(), "and printed alike"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_text_or_path_that_may_be_none_is_none_by_default(words: str) -> None:
    """A file leaves it out, so every preset must have none there."""
    for name in PRESETS:
        with unchecked(commands()[words]):
            config = draft(commands()[words])
            for each in [each for each in all_fields(config) if each.name == "preset" and each.choice]:
                config = with_value(config, each.place, PRESETS[name]())
            for each in all_fields(config):
                kinds = set(typing.get_args(each.kind))
                assert each.value is None or type(None) not in kinds or not {str, Path} & kinds, each.flag


def test_a_file_is_what_flags_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('codec = "codec"\ndata = ["a.h5"]\npreset = "small"\n[train]\nlr = 1\nsteps = 7\n[model.trunk]\nheads = 3\n')
    config = read("pretrain", "--config", str(file), "--train.steps", "9", "--data", "b.h5", "c.h5")
    assert (config.codec, config.data) == (Path("codec"), (Path("b.h5"), Path("c.h5")))
    assert config.preset.train == replace(small().train, lr=1.0, steps=9) and isinstance(config.preset.train.lr, float)
    assert config.preset.model == replace(small().model, trunk=replace(small().model.trunk, heads=3))
    assert read("pretrain", "--train.steps", "9", f"--config={file}").preset.train.steps == 9


def test_shares_of_a_flag_replace_those_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[policies]\nnoisy = 1\nrandom = 0.5\n")
    assert read("collect", "--config", str(tmp_path / "run.toml")).policies == {"noisy": 1.0, "random": 0.5}
    assert read("collect", "--policies", "smooth", "1", "--config", str(tmp_path / "run.toml")).policies == {"smooth": 1.0}


def test_another_choice_than_the_files_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "run.toml"
    file.write_text('checkpoint = "run"\n[planner]\nname = "cem"\nmargin = 0.5\nhorizon = 9\n[evaluate]\nstreams = 3\n')
    config = read("evaluate", "--config", str(file), "--planner", "mppi")
    assert config.evaluate.planner == MPPIConfig() and config.evaluate.streams == 3
    assert f"--planner mppi: what {file} says of cem is left out (planner.margin, planner.horizon)" in caplog.text
    file.write_text('preset = "tiny"\nvocab_size = 300\n[train]\nlr = 1\n[model]\ntext_weight = 3\n')
    config = read("pretrain", *PRETRAIN, "--config", str(file), "--preset", "base")
    assert config.preset == base() and config.vocab_size == 300
    assert read("pretrain", *PRETRAIN, "--config", str(file), "--preset", "tiny").preset.train.lr == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz = 3", "unknown key stepz; --print-config prints all that it can say"),
        ("[train]\nstepz = 3", "unknown key train.stepz; did you mean train.steps?"),
        ("[preset.train]\nsteps = 3", "unknown key preset.train.steps"),
        ("train = 3", "unknown key train"),
        ("[model.trunk]\n[codec]\nkind = 'vae'", "unknown key codec.kind; did you mean codec?"),
        ("codec = 3", "codec is 3, expected Path"),
        ('[train]\nsteps = "3"', "train.steps is '3', expected int"),
        ("[train]\nsteps = true", "train.steps is True, expected int"),
        ("[train]\nlr = nan", "train.lr is nan, expected float"),
        ('[train]\noptimizer = "sgd"', "train.optimizer is 'sgd', expected one of 'adamw', 'muon'"),
        ("data = [1]", "data is 1, expected Path"),
        ("data = 'x.h5'", "data is 'x.h5', expected"),
        ("[train]\nbetas = [0.9]", "train.betas is [0.9], expected"),
        ("preset = 'huge'", "preset is 'huge', must be one of tiny, small, base, paper"),
        ("preset = 3", "preset is 3, must be one of tiny"),
        ("vocab_size = 3\nvocab_size = 4", "is no TOML: Cannot overwrite a value (at "),
        ("vocab_size 3", "is no TOML"),
        (f"vocab_size = {'[' * 5000}{']' * 5000}", "is no TOML: it is nested too deeply"),
        (f"vocab_size = {'{a = ' * 200}1{'}' * 200}", "is no TOML: it is nested too deeply"),
        ("a" + ".a" * 5000 + " = 1", "is no TOML: it has a key of very many parts"),
        ("# " + "x" * 2**20, "is no TOML: it is larger than 1,048,576 bytes"),
    ],
)
def test_files_that_cannot_be_read(text: str, said: str, tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    complaint = refused("pretrain", *PRETRAIN, "--config", file)
    assert complaint.startswith(f"--config {file}") and said in complaint


def test_values_of_a_file_are_checked_as_those_of_flags(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run.toml").write_text("[train]\nsteps = 0\n")
    assert refused("pretrain", *PRETRAIN, "--config", tmp_path / "run.toml").startswith("--train.steps must be at least 1")


def test_no_file(tmp_path: Path, refused: Refused) -> None:
    said = refused("collect", "--config", tmp_path / "no.toml")
    assert said == f"--config {tmp_path / 'no.toml'} cannot be read: No such file or directory; --print-config prints what it reads"
    (tmp_path / "run.toml").write_bytes(b"out = '\xff'")
    assert "is no TOML: 'utf-8' codec can't decode" in refused("collect", "--config", tmp_path / "run.toml")


# ---------------------------------------------------------------- Folders of runs


def record_of(config: Any) -> dict[str, Any]:
    """What quickstart writes to its folder."""
    return json.loads(json.dumps(asdict(config) | {"out": None}, default=str))


def test_the_folder_of_a_pretrained_model_is_such_a_file(tiny: Tiny, refused: Refused) -> None:
    given = read("pretrain", *tiny.pretrain_flags[1:])
    again = read("pretrain", "--config", str(tiny.run), "--out", "other", "--train.lr", "0.5")
    assert again.preset == replace(given.preset, train=replace(given.preset.train, lr=0.5)) and again.out == Path("other")
    assert (again.mixture, again.vocab_size, again.codec) == (given.mixture, given.vocab_size, given.codec.resolve())
    assert "is no folder of a run that this verb began" in refused("quickstart", "--config", tiny.run)
    assert "config.json" in refused("pretrain", "--config", tiny.run / "checkpoints")


@pytest.mark.parametrize(
    "arguments", [[1], {"train": 1}, {"preset": [None]}, {"preset": "tiny"}, {"preset": {"train": 3}}, {"mixture": []}, {"codec": [2]}]
)
def test_a_folder_with_wrong_arguments_is_one_sentence(arguments: Any, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "arguments.json").write_text(json.dumps({"arguments": arguments}))
    assert refused("pretrain", "--config", tmp_path).startswith(f"--config {tmp_path}")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("planner", ["cem", "mppi", "random_shooting"])
def test_the_folder_of_a_quickstart_is_such_a_file(
    preset: str, planner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", preset, "--train.steps", "9", "--planner", planner, "--planner.horizon", "4", "--policies", "noisy", "1"]
    config = read("quickstart", *flags)
    with locked_run_folder(tmp_path / "run", record_of(config)):
        pass
    assert read("quickstart", "--config", str(tmp_path / "run")) == config
    told = tomllib.loads(printed(capsys, "quickstart", "--config", str(tmp_path / "run")))
    assert (told["preset"], told["planner"]["name"], told["train"]["steps"]) == (preset, planner, 9)
