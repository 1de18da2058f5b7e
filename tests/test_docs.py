"""The documentation is built as a site without a warning, holds every public module, and loads nothing from another host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = ("envs", "datasets", "worldmodel", "agents", "scripts")


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; mkdocs.yml makes every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_public_module_stands_on_the_page_of_its_folder(root: Path, site: Path) -> None:
    for folder in FOLDERS:
        page = (site / "reference" / f"{folder}.html").read_text()
        modules = [path for path in (root / folder).rglob("*.py") if path.resolve() == path and not path.stem.startswith("_")]
        assert modules
        for path in modules:
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            name = name if folder == "worldmodel" else f"worldmodel.{name}"
            assert f'id="{name}"' in page, f"{name} is not on the page of {folder}"


@pytest.mark.parametrize(
    ("page", "anchor"),
    [
        ("envs", "worldmodel.envs.make_task"),
        ("envs", "worldmodel.envs.task.Task.set_state"),
        ("datasets", "worldmodel.datasets.episodes.episode.Episode.frames"),
        ("worldmodel", "worldmodel.rollout.Rollout.rollout"),
        ("agents", "worldmodel.agents.cem.CEMConfig.num_elites"),
        ("scripts", "worldmodel.scripts.cli.run"),
    ],
)
def test_functions_methods_and_fields_have_places_to_link_to(site: Path, page: str, anchor: str) -> None:
    assert f'id="{anchor}"' in (site / "reference" / f"{page}.html").read_text()


def test_every_example_stands_on_the_page_of_examples(root: Path, site: Path) -> None:
    page = (site / "examples.html").read_text()
    names = [path.name for path in sorted((root / "docs" / "examples").glob("*.py"))]
    assert names and [name for name in names if f">{name}" in page] == names
    assert "def</span>" in page  # their code is shown


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"'](?:https?:)?//|<link\b[^>]*\bhref=[\"'](?:https?:)?//")
    pages = [*site.rglob("*.html")]
    assert len(pages) > 15
    assert [page.name for page in pages if loads.search(page.read_text())] == []
    sheets = [*site.rglob("*.css")]
    assert sheets and [sheet.name for sheet in sheets if re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text())] == []
