"""README and docs are true: their commands and their Python run, the file tree is the disk's, links lead somewhere.

The commands run as they stand, in order, in one empty folder, made small by the flags that are appended here. Each page of docs/howto
has an empty folder of its own: its files are written, its commands and its Python run in the order of the page.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import CLI, Forks
from tests.waiting import PATIENCE
from worldmodel.scripts.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))

PROBLEMS = "--problems.problems 2 --problems.goal-offset 6 --problems.budget 6 --problems.min-distance 0.1"
PLANNER = "--evaluate.mpc.replan-every 1 --planner.horizon 2 --planner.num-samples 4 --planner.num-elites 2 --planner.iterations 1"
MIXTURE = "--mixture.corpora texts.jsonl --mixture.pictures 0 --mixture.held-out 0.4"
CODEC = (
    "--codec.masked.steps 2 --codec.joint.steps 2 --codec.decoder-steps 2 --codec.batch-size 4 --codec.probe-frames 64 "
    "--codec.decoder-frames 64"
)
TRAIN = "--train.steps 4 --train.sample-every 2 --train.log-every 2 --train.packing.rows 2"
FEW_ROWS = "--train.packing.rows 2"
DREAM = "--dream.clips 2 --dream.horizon 2"
SMALLER = {
    "doctor": "",
    "envs": "",
    "play": "--port 0 --no-browser",
    "collect": "--episodes 6 --max-steps 20 --workers 1",
    "datasets": "",
    "codec": f"{CODEC} --codec.vae-steps 2 {MIXTURE}",
    "codecs": "--probe-frames 64",
    "pretrain": f"--vocab-size 400 {MIXTURE} {TRAIN}",
    "dream": DREAM,
    "plan": f"{PROBLEMS} {PLANNER}",
    "evaluate": f"{PROBLEMS} --workers 1 {PLANNER}",
    "diagnose": (
        f"{PROBLEMS} --ladder.reader.steps 2 --ladder.reader.width 8 --ladder.dream.clips 4 --ladder.menu.problems 2 "
        "--ladder.menu.candidates 3 --workers 0 --evaluate.mpc.replan-every 1 "
        "--planner.horizon 2 --planner.num-samples 4 --planner.num-elites 2 "
        "--planner.iterations 1"
    ),
    "generate": "--steps 2 --tokens 4 --frames 2",
    "experts": "--specialisation.batches 2 --specialisation.rows 2 --specialisation.resamples 20",
    "ablate": f"--seeds 0 1 --steps 2 --batches 1 --vocab-size 400 {DREAM} {CODEC} {MIXTURE} {FEW_ROWS}",
    "isoflop": f"--budgets 2e10 --kinds dense --min-steps 1 --batches 1 --vocab-size 400 {MIXTURE} {FEW_ROWS}",
    "benchmark": (
        "--task worldmodel/TwoRoom-v0 --image-sizes 32 --seconds 0.05 --repeats 1 --episodes 2 --seeds 2 --clips 32 --steps 1 "
        "--parts speed"
    ),
    "runs": "",
    "compare": "",
    "results": "",
    "quickstart": (
        f"--episodes 6 --steps 12 --workers 1 --vocab-size 400 --language-frames 2 {CODEC} {MIXTURE} {DREAM} {TRAIN} {PROBLEMS} "
        "--train.processes 1 --ladder.reader.steps 2 --ladder.reader.width 8 --ladder.menu.problems 2 "
        f"--ladder.menu.candidates 3 {PLANNER}"
    ),
}
"""Flags that make each verb take seconds; appended, since the last of two equal flags counts."""


TRAINS_OR_SERVES = {"play", "collect", "pretrain"}
"""Verbs without --json, and `datasets` but for some of its own."""

UNTIL_IT_SERVES = """
import signal, subprocess, sys, urllib.request
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
try:
    url = process.stdout.readline().split(" at ")[1].split()[0]
    urllib.request.urlopen(url, timeout=300).close()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
finally:
    process.kill()
sys.exit(process.returncode)
"""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the sh blocks."""
    return command_lines("".join(blocks(page, "sh")))


def command_lines(block: str) -> list[list[str]]:
    """The words of each command in a block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def smaller(verb: str, flags: list[str]) -> list[str]:
    """A command's flags made small."""
    if "--resume" in flags:  # a run goes on as it was begun
        return flags
    return [*flags, *SMALLER[verb].split()]


def translate(words: list[str]) -> tuple[list[str], Path | None]:
    """What to run instead of a command of the README, and the folder to run it in if that matters."""
    match words:
        case ["worldmodel", verb, *flags]:
            assert verb in SMALLER, f"`worldmodel {verb}` of the README has no entry in SMALLER"
            command = [sys.executable, *CLI, verb, *smaller(verb, flags)]
            if verb == "play":  # it serves its page until Ctrl-C
                command = [sys.executable, "-c", UNTIL_IT_SERVES, *command]
            return command, None
        case ["torchrun", "--nproc-per-node", count, "-m", "worldmodel.scripts.pretrain", *flags]:
            run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
            return [*run, "-m", "worldmodel.scripts.pretrain", *smaller("pretrain", flags)], None
        case ["make", *_]:
            return ["make", "-n", *words[1:]], ROOT
        case ["tensorboard", *flags]:
            return [sys.executable, "-m", "tensorboard.main", "--inspect", *flags], None
    raise AssertionError(f"the README has a command that this test cannot run: {shlex.join(words)}")


def with_json(verb: str, flags: list[str]) -> list[str]:
    """The flags, with --json where the verb has it, and prints what it found."""
    if "--print-config" in flags:
        return flags
    if verb == "datasets":
        return [flags[0], "--json", *flags[1:]] if flags[0] in ("info", "check", "fetch") else flags
    return flags if verb in TRAINS_OR_SERVES else ["--json", *flags]


def check_document(printed: str) -> None:
    """Fail unless a verb has printed one JSON document and nothing else, without NaN."""
    assert json.loads(printed, parse_constant=pytest.fail)


def outputs(words: list[str]) -> list[str]:
    """The files and folders that a command says it writes."""
    if words[:2] == ["worldmodel", "play"]:  # nobody drives here, so there is nothing to write
        return []
    return [after for flag, after in zip(words, words[1:], strict=False) if flag in ("--out", "--preview", "--gallery")]


def prepare(folder: Path) -> dict[str, str]:
    """Put the small corpus of `MIXTURE` into a folder; returns the environment variables of what runs there."""
    lines = [json.dumps({"text": f"The Congress met {n} times, and our economy grew."}) for n in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return os.environ | {"PYTHONPATH": str(ROOT), "WORLDMODEL_HOME": str(folder / "home")}


def run_command(words: list[str], page: Path, folder: Path, env: dict[str, str], forked: Forks) -> str:
    """Run a command of a page, made small, in a folder; returns what it printed. Of verbs that have it, with --json."""
    asked = [*words[:2], *with_json(words[1], words[2:])] if words[0] == "worldmodel" else words
    command, elsewhere = translate(asked)
    if tuple(command[1:3]) == CLI:
        result = forked.python(*command[1:], folder=folder, env=env)
    else:
        result = subprocess.run(command, cwd=elsewhere or folder, env=env, capture_output=True, text=True, timeout=2 * PATIENCE)
    name = f"{page.name}: {shlex.join(words)}"
    assert result.returncode == 0, f"{name}\n{result.stderr}"
    if asked != words:
        check_document(result.stdout)
    missing = [out for out in outputs(words) if not (folder / out).exists()]
    assert not missing, f"{name} did not write {missing}"
    return result.stdout


def run_python(block: str, page: Path, folder: Path, env: dict[str, str], forked: Forks) -> None:
    """Run a block of Python of a page in a folder; warnings are errors."""
    result = forked.python("-c", block, folder=folder, env=env)
    assert result.returncode == 0, f"{page.name}:\n{block}\n{result.stderr}"


def test_every_command_and_the_python_run_as_written(tmp_path: Path, forked: Forks) -> None:
    env = prepare(tmp_path)
    seen = {}
    for page in PAGES:
        for words in commands(page):
            seen[shlex.join(words)] = run_command(words, page, tmp_path, env, forked)
        for block in blocks(page, "python"):
            run_python(block, page, tmp_path, env, forked)
    assert "worldmodel quickstart" in seen["make quickstart"] and "pytest" in seen["make test"]
    assert "loss/text" in seen["tensorboard --logdir run"]
    shown = {words.split()[1] for words in seen if words.startswith("worldmodel ")}
    assert shown == set(VERBS), "each verb has an example"


@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_a_howto_page_runs_as_written(page: Path, tmp_path: Path, forked: Forks) -> None:
    env = prepare(tmp_path)
    for language, title, block in re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL):
        if title:  # a file that the reader is to write
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(block)
        elif language == "python":
            run_python(block, page, tmp_path, env, forked)
        elif language == "sh":
            for words in command_lines(block):
                if words[0] == "export":
                    env |= [words[1].split("=", 1)]
                else:
                    run_command(words, page, tmp_path, env, forked)


@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_what_a_howto_page_says_of_a_file_stands_in_it(page: Path) -> None:
    """In tables whose first column is a file, every name in the row is to be found in that file."""
    rows = re.findall(r"^\| `([\w./]+\.\w+)` \| (.*) \|$", page.read_text(), re.MULTILINE)
    for file, text in rows:
        assert (ROOT / file).is_file(), f"{page.name} names {file}, which is not there"
        lost = [name for name in re.findall(r"`([^`]+)`", text) if name not in (ROOT / file).read_text()]
        assert lost == [], f"{page.name} says of {file} what is not in it"


def test_every_verb_that_prints_figures_has_a_document() -> None:
    """Those are run with --json by the tests above."""
    flagged = {path.stem for path in (ROOT / "scripts").glob("*.py") if "(JsonFlag" in path.read_text()}
    assert flagged == set(VERBS) - TRAINS_OR_SERVES


def test_a_verb_without_an_entry_fails() -> None:
    with pytest.raises(AssertionError, match="no entry in SMALLER"):
        translate(["worldmodel", "fly", "--out", "x"])
    with pytest.raises(AssertionError, match="cannot run"):
        translate(["rm", "-r", "x"])


def test_the_table_lists_every_verb() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert rows == list(VERBS)


def anchors(page: Path) -> set[str]:
    """What links may name behind a #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *HOWTO], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [target for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not target.startswith("http")]
    lost = []
    for target in links:
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            lost.append(target)
    assert lost == []


def tree() -> dict[str, str]:
    """Path of every .py file in the tree of docs/layout.md, and its comment."""
    found: dict[str, str] = {}
    folders: dict[int, str] = {}
    for line in (ROOT / "docs" / "layout.md").read_text().splitlines():
        entry = re.fullmatch(r"    ( *)(\w+/|\w+\.py)  +(\S.*)", line)
        if not entry:
            continue
        indent, name, comment = len(entry[1]), entry[2], entry[3]
        path = folders.get(indent - 2, "") + name
        if name.endswith("/"):
            folders[indent] = path
        else:
            assert path not in found, f"{path} stands twice in the tree"
            found[path] = comment
    return found


def test_the_tree_is_what_lies_on_disk() -> None:
    folders = ("envs", "datasets", "worldmodel", "agents", "scripts")
    on_disk = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path.resolve() == path  # worldmodel/ links to the other folders
    }
    assert set(tree()) == on_disk
