import errno
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from worldmodel.errors import UserError
from worldmodel.home import home
from worldmodel.precision import choose_device
from worldmodel.scripts.cli import run
from worldmodel.scripts.console import check_processes, command, complain, harmless, print_columns, run_verb, stages
from worldmodel.scripts.fields import MAX_SEED


@dataclass(frozen=True)
class Inner:
    horizon: int = 3
    """Steps ahead."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise UserError(f"horizon is {self.horizon}, it must be at least 1")


@dataclass(frozen=True)
class ToyConfig:
    """A verb with two flags."""

    size: int = 4
    """Pixels."""
    planner: Inner = Inner()
    """How to plan."""

    def __post_init__(self) -> None:
        if self.size < 0:
            path = "/a/very/long/path" * 10
            raise UserError(f"size {self.size} is negative,\nsee {path}")


def verb_that(act: Callable[[ToyConfig], None]) -> Callable[[], Callable[[ToyConfig], None]]:
    def main(config: ToyConfig) -> None:
        act(config)

    return lambda: main


def fail_with(error: BaseException) -> Callable[[ToyConfig], None]:
    def act(config: ToyConfig) -> None:
        raise error

    return act


def test_flags_fill_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[ToyConfig] = []
    assert run_verb("toy", verb_that(seen.append), ["--size", "7", "--planner.horizon", "2"]) == 0
    assert seen == [ToyConfig(7, Inner(2))]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--siez", "7"], "unrecognized options: --siez, 7; perhaps you meant --size"),
        (
            ["--planner.horizn", "7"],
            "unrecognized options: --planner.horizn, 7; perhaps you meant --planner.horizon",
        ),
        (["--bogus"], "unrecognized options: --bogus"),
        (["stray"], "unrecognized options: stray"),
        (["--size", "big"], "error parsing --size: invalid literal for int() with base 10: 'big'"),
        (["--size"], "missing value for argument '--size'. Expected 1 values"),
    ],
)
def test_flags_that_do_not_parse(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("toy", verb_that(fail_with(AssertionError("must not run"))), flags) == 2
    line = f"worldmodel toy: error: {sentence} (worldmodel toy --help-all lists the flags)\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--size", "-1"], f"--size -1 is negative, see {'/a/very/long/path' * 10}"),
        (["--planner.horizon", "0"], "--planner.horizon is 0, it must be at least 1"),
    ],
)
def test_values_that_the_config_refuses(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("toy", verb_that(fail_with(AssertionError("must not run"))), flags) == 2
    assert capsys.readouterr() == ("", f"worldmodel toy: error: {sentence}\n")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("the file x.h5 is empty; collect again"), "the file x.h5 is empty; collect again"),
        (FileNotFoundError(2, "No such file or directory", "x.h5"), "No such file or directory: x.h5"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x"),
        (FileNotFoundError("no x here"), "no x here"),
    ],
)
def test_mistakes_become_one_line(error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("toy", verb_that(fail_with(error)), []) == 2
    assert capsys.readouterr() == ("", f"worldmodel toy: error: {sentence}\n")


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("toy", verb_that(fail_with(KeyboardInterrupt())), []) == 130
    assert capsys.readouterr() == ("", "worldmodel toy: interrupted\n")


@pytest.mark.parametrize("bug", [ValueError("a bug"), KeyError("frame"), RuntimeError("a bug")])
def test_our_own_bugs_keep_their_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        run_verb("toy", verb_that(fail_with(bug)), [])


def test_a_mistake_found_while_the_verb_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    def load() -> Callable[[ToyConfig], None]:
        raise UserError("no headless OpenGL")

    assert run_verb("toy", load, []) == 2
    assert capsys.readouterr().err == "worldmodel toy: error: no headless OpenGL\n"


def test_a_reader_that_leaves_early(root: Path) -> None:
    flood = (
        "import sys; from worldmodel.scripts import console;"
        "from tests.scripts.test_console import verb_that;"
        "sys.exit(console.run_verb('toy', verb_that(lambda config: print('x' * 10_000_000)), []))"
    )
    command = f'{sys.executable} -c "{flood}" | head -c 1'
    result = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("x", "")


# ---------------------------------------------------------------- Streams and surroundings


def shell(line: str, root: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a line in which $PY is Python, run in a folder."""
    line = line.replace("$PY", shlex.quote(sys.executable))
    known = os.environ | {"PYTHONPATH": str(root)} | environment
    return subprocess.run(["bash", "-c", line], cwd=folder, env=known, capture_output=True, text=True)


@pytest.mark.parametrize(("verb", "encoding"), [("plan", "latin-1"), ("datasets mix", "ascii")])
def test_help_is_printed_on_a_terminal_that_lacks_some_signs(verb: str, encoding: str, root: Path, tmp_path: Path) -> None:
    done = shell(f"$PY -m worldmodel {verb} --help-all", root, tmp_path, PYTHONIOENCODING=encoding, COLUMNS="200")
    assert done.returncode == 0 and f"worldmodel {verb}" in done.stdout and done.stderr == ""
    sign = "from worldmodel.scripts.console import prepare_streams; prepare_streams(); print('• a sign')"
    assert shell(f"$PY -c {shlex.quote(sign)}", root, tmp_path, PYTHONIOENCODING=encoding).stdout == "? a sign\n"


@pytest.mark.parametrize("arguments", ["--version", "--help", "envs", "envs --help"])
def test_a_closed_or_full_output_is_no_traceback(arguments: str, root: Path, tmp_path: Path) -> None:
    closed = shell(f"$PY -m worldmodel {arguments} >&-", root, tmp_path)
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")
    full = shell(f"$PY -m worldmodel {arguments} > /dev/full", root, tmp_path)
    assert full.stdout == "" and "Traceback" not in full.stderr and full.returncode in (1, 2)
    assert full.stderr.count("\n") <= 1 and "Exception ignored" not in full.stderr
    left = shell(f"$PY -m worldmodel {arguments} | true", root, tmp_path)
    assert left.stderr == ""


def test_a_file_does_not_take_the_place_of_a_closed_output(root: Path, tmp_path: Path) -> None:
    write = (
        "import os, sys; from worldmodel.scripts.console import prepare_streams; prepare_streams();"
        "f = open('data', 'w'); print('printed'); sys.stdout.flush(); os.system('echo of a child'); f.write('data'); f.close()"
    )
    for closed in (">&-", "<&- >&- 2>&-"):
        done = shell(f"$PY -c {shlex.quote(write)} {closed}", root, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and (tmp_path / "data").read_text() == "data"


def test_mistakes_are_reported_though_nobody_can_be_told(root: Path, tmp_path: Path) -> None:
    for redirection in ("2>&-", "2>/dev/full"):
        assert shell(f"$PY -m worldmodel fly {redirection}", root, tmp_path).returncode == 2


@pytest.mark.parametrize("number", ["ENAMETOOLONG", "ENOSPC", "EROFS", "ELOOP", "EDQUOT", "ENOLCK"])
def test_what_the_file_system_cannot_is_one_line(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "some file")
    assert run_verb("toy", verb_that(fail_with(error)), []) == 2
    assert capsys.readouterr().err == f"worldmodel toy: error: {error.strerror}: some file\n"


def test_a_name_of_250_letters_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / ("x" * 250 + ".h5")
    assert run(["collect", "--out", str(out), "--episodes", "1", "--workers", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_an_empty_home_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", "")
    assert home() == Path("~/.worldmodel").expanduser()
    monkeypatch.setenv("WORLDMODEL_HOME", "~nobody_of_that_name/x")
    with pytest.raises(UserError, match="no such home; set WORLDMODEL_HOME"):
        home()


# ---------------------------------------------------------------- Seeds, devices, processes


@dataclass(frozen=True)
class Drawn:
    seed: int = 0
    """Of what is drawn."""


@dataclass(frozen=True)
class SeedConfig:
    """A verb with seeds."""

    seed: int = 0
    """Of everything."""
    problems: Drawn = Drawn()
    """Which to draw."""


@pytest.mark.parametrize(("flag", "seed"), [("seed", -1), ("seed", 2**63), ("problems.seed", 2**64), ("seed", 10**30)])
def test_a_seed_that_no_generator_takes(flag: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: SeedConfig) -> None:
        raise AssertionError("must not run")

    assert run_verb("toy", lambda: main, [f"--{flag}", str(seed)]) == 2
    said = f"worldmodel toy: error: --{flag} {seed} must be at least 0 and below 2 ** 63\n"
    assert capsys.readouterr().err == said


def test_the_largest_seed_can_be_used() -> None:
    import torch

    torch.Generator().manual_seed(MAX_SEED - 1)
    assert np.random.default_rng([MAX_SEED - 1, 3]).integers(9) < 9


@pytest.mark.parametrize("device", ["mps", "meta", "xpu", "vulkan:0"])
def test_a_device_of_another_kind_is_refused(device: str) -> None:
    with pytest.raises(UserError, match="use auto, cpu, cuda or cuda:N"):
        choose_device(device)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK and MASTER_ADDR and MASTER_PORT are not set; unset it, or start"),
        ({"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "host"}, "WORLD_SIZE is 4, but MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two', it must be the number of processes"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', it must be the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', it must be the number of processes"),
    ],
)
def test_other_processes_that_are_not_there(environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=words):
        check_processes(environment)
    check_processes({"WORLD_SIZE": "1"})
    check_processes({})


def test_who_waits_for_others_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    others = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    check_processes(others)
    assert "process 1 of 2 (0 is the first): they wait for each other at host:29500" in caplog.text


def test_a_world_size_alone_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert run(["pretrain", "--codec", "nowhere", "--data", "nowhere.h5"]) == 2
    assert "WORLD_SIZE is 2" in capsys.readouterr().err


# ---------------------------------------------------------------- Stages


class Stream(io.StringIO):
    """A stderr that is a terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_stages_are_told_one_after_another_on_a_terminal_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    told = []
    with stages("reading", "drawing") as end:
        for _ in range(2):
            told.append(("reading" in stderr.getvalue(), "drawing" in stderr.getvalue()))
            end()
    assert told == ([(True, False), (True, True)] if terminal else [(False, False)] * 2)
    assert "2/2" not in stderr.getvalue().split("\r")[-1], "nothing is left of it"


# ---------------------------------------------------------------- Commands


def test_commands_can_be_pasted_into_a_shell() -> None:
    assert command("codec", "--data", Path("my runs/a b.h5")) == "worldmodel codec --data 'my runs/a b.h5'"
    assert shlex.split(command("generate", "--text", "it's")) == ["worldmodel", "generate", "--text", "it's"]


def test_no_command_that_is_printed_holds_a_path_without_quotes(root: Path) -> None:
    holds_one = re.compile(
        r"worldmodel [a-z]+ [^\"`\n]*\{(?!shlex|next\(iter)[^}\n]*(?:path|file|out|data|checkpoint|target|parts)\b[^}\n]*\}"
    )
    texts = {path: path.read_text() for folder in ("scripts", "datasets", "agents") for path in (root / folder).rglob("*.py")}
    assert [(path.name, match[0]) for path, text in texts.items() for match in holds_one.finditer(text)] == []


def test_what_a_model_or_a_file_says_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless("a\tdisc\nin \x1b[2J\x9b1m\x00 \u00e4\u2581") == "a\tdisc\nin \ufffd[2J\ufffd1m\ufffd \u00e4\u2581"
    print_columns([("name", "kind"), ("\x1b]0;me\x07", "x")])
    complain("runs", "there is no \x1b[31m folder")
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out and "there is no \ufffd[31m folder" in said.err
