"""The package `datasets` itself: what `hf:` names streams out of it, although this repository has a folder of that name."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.datasets.picture_sets import json_lines
from worldmodel.datasets.texts.corpus import open_corpus
from worldmodel.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of 40 texts in a folder, which the package takes as one from the hub."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("datasets.load")  # `datasets` alone can be imported without the package: it is a folder here
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.jsonl").write_text(json_lines([{"text": f"story {i}", "title": f"title {i}"} for i in range(40)]))
    return tmp_path / "stories"


def test_a_dataset_is_streamed_by_name_and_column(stories: Path) -> None:
    for source, word in ((f"hf:{stories}", "story"), (f"hf:{stories}::title", "title")):
        corpus = open_corpus(source, chunk=100, held_out=0.1)
        assert sorted([*corpus.train, *corpus.held_out]) == sorted(f"{word} {i}" for i in range(40))
    with pytest.raises(UserError, match="no column 'prose' of texts; its columns are text, title"):
        open_corpus(f"hf:{stories}::prose")
    with pytest.raises(UserError, match="cannot read the Hugging Face dataset"):
        open_corpus(f"hf:{stories}-absent")


@pytest.mark.parametrize("folder", [ROOT, ROOT / "worldmodel", Path("/")])
def test_our_folder_does_not_hide_the_package(stories: Path, folder: Path) -> None:
    code = f"from worldmodel.datasets.texts.corpus import open_corpus; print(len(open_corpus('hf:{stories}').train))"
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.strip() == "38", done.stderr
