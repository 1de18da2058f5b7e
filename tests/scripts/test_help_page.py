import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.commands import COMMANDS, commands, example, main_of, read
from worldmodel.scripts.cli import VERBS
from worldmodel.scripts.fields import all_fields, draft, unchecked
from worldmodel.scripts.flags import read_config
from worldmodel.scripts.help_page import example_of, metavar

LONGEST = 80


def page(capsys: pytest.CaptureFixture[str], words: str, flag: str = "--help") -> str:
    verb, *what = words.split()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        read_config(verb, main_of(verb), [*what, flag])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", sorted({*VERBS, *COMMANDS}))
def test_help_is_a_sentence_an_example_and_few_lines(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = page(capsys, words).splitlines()
    assert re.fullmatch(r"[A-Z].*[.?]", lines[0]) and len(lines) <= LONGEST
    assert lines[2].startswith(f"example: worldmodel {words}") and lines[4].startswith(f"usage: worldmodel {words} ")
    assert max(map(len, lines)) <= 140 and all(len(line) <= 80 for line in lines[6:])


@pytest.mark.parametrize("words", COMMANDS)
def test_the_example_of_every_command_parses(words: str) -> None:
    assert isinstance(read(words, *example(words)), commands()[words])


@pytest.mark.parametrize("words", COMMANDS)
def test_help_names_each_plain_flag_and_each_group_and_help_all_every_flag(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with unchecked(commands()[words]):
        fields = list(all_fields(draft(commands()[words])))
    brief, whole = page(capsys, words), page(capsys, words, "--help-all")
    for each in fields:
        assert each.doc, f"{each.flag} of {words} is not explained"
        if not each.is_group:
            assert each.positional or f"{each.flag} " in whole or f"{each.flag}," in whole or f"{each.flag}\n" in whole, each.flag
            head = each.flag.partition(".")[0] + ".* (" if "." in each.path else each.path
            assert each.positional or head in brief, each.flag


@pytest.mark.parametrize("columns", ["1", "0"])
def test_help_ends_on_the_narrowest_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "--json" in page(capsys, "runs", "--help-all") and os.environ["COLUMNS"] == columns


def test_help_says_what_is_required_by_default_and_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    said = page(capsys, "evaluate")
    assert re.search(r"\n  --checkpoint PATH +[^-]*\(required\)", said)
    assert said.index("--checkpoint") < said.index("--data"), "what must be given stands first"
    assert re.search(r"\n  --workers N +Task processes. \(default: 2\)", said)
    assert re.search(r"\n  --planner mppi +Settings of MPPI", said) and "(default: cem)" in said
    assert re.search(r"\n  --planner\.\* \(8 flags\)", said)
    assert "--episodes N" in page(capsys, "collect") and re.search(r"--repeats N[^-]*\.\.\. \(default: 5\)", page(capsys, "benchmark"))


def test_an_example_is_the_first_command_of_a_docstring() -> None:
    assert example_of("Do it.\n\n    `worldmodel fly --to\n    moon` and `worldmodel fly`", "fly") == "worldmodel fly --to moon"
    assert example_of("Do it with `worldmodel flying`", "fly") == "" and example_of(None, "fly") == ""


def test_types_are_told_in_a_word() -> None:
    assert [metavar(kind) for kind in (int, float, str, Path, dict[str, float])] == ["N", "X", "TEXT", "PATH", "NAME NUMBER ..."]
    assert metavar(tuple[Path, ...]) == "PATH ..." and metavar(int | None) == "N"


@pytest.mark.parametrize("args", [["--help"], ["envs"], ["envs", "--help"], ["collect", "--help"]])
def test_what_needs_no_torch_does_not_load_it(args: list[str], root: Path) -> None:
    probe = f"import sys; from worldmodel.scripts.cli import run\ntry: run({args})\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=root, capture_output=True).returncode == 0
