"""Four folders at the top are sub-packages of worldmodel through links, and a wheel holds them all."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

LINKED = ("envs", "datasets", "agents", "scripts")


@pytest.mark.parametrize("folder", LINKED)
def test_links_point_to_the_folders_beside(root: Path, folder: str) -> None:
    link = root / "worldmodel" / folder
    assert link.is_symlink(), f"{link} is no link; was the checkout made with core.symlinks=false?"
    assert os.readlink(link) == f"../{folder}"
    assert link.resolve() == root / folder


@pytest.mark.parametrize("folder", ["datasets", "agents", "scripts"])
def test_folders_shadow_no_package_of_the_same_name(root: Path, folder: str) -> None:
    assert not (root / folder / "__init__.py").exists(), f"{folder}/__init__.py would hide other people's '{folder}'"


def test_every_dependency_is_pinned_inside_its_range(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {normal_name(name): version for name, version in (line.split("==") for line in lines)}
    extras = project["optional-dependencies"]
    for text in project["dependencies"] + extras["docs"] + extras["test"]:
        requirement = Requirement(text)
        version = pins.get(normal_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement.name}=={version} is outside {text}"


@pytest.fixture(scope="module")
def unpacked_wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy, so that nothing is left in the checkout, and unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    for name in ("worldmodel", *LINKED):
        shutil.copytree(root / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("worldmodel-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_holds_every_module_and_nothing_else(root: Path, unpacked_wheel: Path) -> None:
    wanted = {path.relative_to(root) for path in (root / "worldmodel").rglob("*.py") if path.resolve() == path}
    for folder in LINKED:
        wanted |= {Path("worldmodel") / path.relative_to(root) for path in (root / folder).rglob("*.py")}
    assert {path.relative_to(unpacked_wheel) for path in unpacked_wheel.rglob("*.py")} == wanted
    assert (unpacked_wheel / "worldmodel" / "py.typed").exists()
    assert {path.name for path in unpacked_wheel.iterdir() if path.suffix != ".dist-info"} == {"worldmodel"}


def test_wheel_imports_from_an_empty_folder(unpacked_wheel: Path, tmp_path: Path) -> None:
    script = """
import importlib, pathlib, sys
import worldmodel
folder = pathlib.Path(worldmodel.__file__).parent
for name in ("envs", "datasets", "agents", "scripts"):
    for path in sorted((folder / name).glob("[a-z]*.py")):
        module = importlib.import_module(f"worldmodel.{name}.{path.stem}")
        assert pathlib.Path(module.__file__) == path, module.__file__
print(folder)
"""
    environment = os.environ | {"PYTHONPATH": str(unpacked_wheel)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == unpacked_wheel / "worldmodel"


def normal_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
