import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from worldmodel.errors import UserError
from worldmodel.scripts.cli import run
from worldmodel.scripts.console import run_verb


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
    line = f"worldmodel toy: error: {sentence} (worldmodel toy --help lists the flags)\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--preset.train.lr 3e-4", "flags of a preset stand behind its name: ... preset:tiny --preset.train.lr VALUE"),
        ("--preset small", "a preset is named without dashes, behind the verb's own flags: ... preset:small"),
        ("preset:huge", "unrecognized options: preset:huge; the presets are preset:tiny, preset:small, preset:base and preset:paper"),
        ("preset:tiny --vocab-size 300", "options: --vocab-size 300; the verb's own flags stand before preset:tiny"),
        (
            "preset:tiny --preset.train.stepss 4",
            "unrecognized options: --preset.train.stepss, 4; perhaps you meant --preset.train.steps",
        ),
    ],
)
def test_presets_named_in_another_way(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "--codec", "codec", *flags.split()]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--size", "-1"], f"size -1 is negative, see {'/a/very/long/path' * 10}"),
        (["--planner.horizon", "0"], "horizon is 0, it must be at least 1"),
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
