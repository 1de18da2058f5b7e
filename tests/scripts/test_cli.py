import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import worldmodel
from worldmodel.scripts.cli import VERBS, run

SHARED = {"cli", "config_file", "console", "fields", "flags", "help_page", "json_flag", "preset_flag"}
"""Files of scripts/ that are no verbs."""
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_every_script_is_a_listed_verb(root: Path) -> None:
    files = {path.stem for path in (root / "scripts").glob("*.py")} - SHARED
    assert files == set(VERBS), "each file of scripts/ has a line in cli.VERBS, and each line a file"


def test_verbs_are_thin(root: Path) -> None:
    for verb in set(VERBS) - {"datasets", "play", "quickstart"}:  # eight verbs in one, a page, and all verbs in turn
        lines = len((root / "scripts" / f"{verb}.py").read_text().splitlines())
        assert lines <= 150, f"{verb}.py has {lines} lines: what others can use belongs into the library"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: worldmodel {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_flag_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--no-such-flag", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"worldmodel {verb}: error: ") and err.count("\n") == 1


def test_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {verb} " in overview and sentence in overview for verb, sentence in VERBS.items())
    assert run([]) == 2
    assert capsys.readouterr().err == overview


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"worldmodel {worldmodel.__version__}\n"


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("colect", "worldmodel: error: unknown verb 'colect'; did you mean collect?"),
        ("xyzzy", f"worldmodel: error: unknown verb 'xyzzy'; the verbs are {', '.join(VERBS)}"),
        ("--seed", f"worldmodel: error: unknown flag '--seed'; the verbs are {', '.join(VERBS)}"),
    ],
)
def test_unknown_verb(verb: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == 2
    assert capsys.readouterr() == ("", line + "\n")


def test_installed_command_passes_the_status_on(run_command: Command) -> None:
    result = run_command("envz")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "worldmodel: error: unknown verb 'envz'; did you mean envs?\n"
