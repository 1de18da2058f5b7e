"""Where figures come from."""

import subprocess
from pathlib import Path

import pytest

import worldmodel
from worldmodel.system_info import commit


def test_the_commit_is_that_of_the_checkout_and_says_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "package" / "__init__.py"
    module.parent.mkdir()
    module.write_text("one\n")
    monkeypatch.setattr(worldmodel, "__file__", str(module))
    assert commit() == "", "no checkout"

    def git(*words: str) -> str:
        own = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run([*own, *words], capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    name = git("rev-parse", "HEAD")[:7]
    assert commit() == name
    module.write_text("two\n")
    assert commit() == f"{name}+"
