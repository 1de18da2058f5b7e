"""Data and weights that packages ship: what there is, under which license, where it lies, and how to fetch it.

Fetching runs the package managers that are there (pip, apt-get, npm) and unpacks what they bring under WORLDMODEL_HOME;
nothing is installed and nothing of a package is executed.
"""

import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from worldmodel.datasets.atomic import build_once
from worldmodel.errors import UserError
from worldmodel.home import home

SYSTEM = Path("/")
"""Where the system's own packages are installed."""


@dataclass(frozen=True)
class Package:
    """A package with data or weights in it."""

    name: str
    what: str
    """In a few words."""
    size: int
    """Bytes to fetch."""
    licence: str
    manager: Literal["pip", "apt", "npm"]
    requirement: str
    """The package as its manager calls it, with the version where the manager takes one."""
    folder: str
    """Where the data lie in the unpacked package; of a pip package, the name of its module."""
    extra: str = ""
    """The extra of worldmodel that installs it; empty for none."""

    @property
    def by_hand(self) -> str:
        """How to get the package without `fetch`."""
        match self.manager:
            case "pip":
                return f"`pip install --no-deps {self.requirement}`"
            case "apt":
                return f"`apt-get install {self.requirement}`"
            case "npm":
                return f"`npm pack {self.requirement}`, unpacked into {self.home},"

    @property
    def home(self) -> Path:
        """Folder that the package is fetched into."""
        return home() / "packages" / self.name


PACKAGES = {
    name: Package(name, **facts) for name, facts in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf8")).items()
}


def package_folder(name: str) -> Path:
    """Find the folder with a package's data: fetched, or of a pip or system package that is installed anyway.

    Raises:
        UserError: there is no such package, or it has not been fetched.
    """
    package = _package(name)
    folder = _find(package)
    if folder is None:
        size = f"{package.size / 1e6:.1f} MB"
        extra = f", and so does `pip install 'worldmodel[{package.extra}]'`" if package.extra else ""
        raise UserError(
            f"the package {name} is not here; `worldmodel datasets fetch {name}` brings it ({size}, {package.licence}){extra}"
        )
    return folder


def fetch(name: str) -> Path:
    """Fetch a package unless it is there, and return the folder with its data.

    Raises:
        UserError: there is no such package; its manager is missing or fails (no network, disk full).
    """
    package = _package(name)
    folder = _find(package)
    if folder is None:
        build_once(package.home, lambda part: _fetch_into(package, part), lambda whole: (whole / package.folder).is_dir())
        folder = package.home / package.folder
    return folder


def _package(name: str) -> Package:
    if name not in PACKAGES:
        raise UserError(f"there is no package {name!r}; choose among {', '.join(PACKAGES)}")
    return PACKAGES[name]


def _find(package: Package) -> Path | None:
    candidates = [package.home / package.folder]
    if package.manager == "apt":
        candidates.append(SYSTEM / package.folder)
    if package.manager == "pip":
        spec = importlib.util.find_spec(package.folder)  # finds the files without importing the package, which may need more
        candidates += map(Path, (spec.submodule_search_locations or []) if spec else [])
    return next(filter(Path.is_dir, candidates), None)


def _fetch_into(package: Package, folder: Path) -> None:
    """Run the package's manager in `folder`, and leave the unpacked package there."""
    match package.manager:
        case "pip":
            options = "--no-deps --only-binary=:all: --no-input --disable-pip-version-check --retries=1 --dest=.".split()
            _run(package, [sys.executable, "-m", "pip", "download", *options, package.requirement], folder)
        case "apt":
            _run(package, ["apt-get", "download", "--option=Acquire::Retries=1", package.requirement], folder)
        case "npm":
            options = "--ignore-scripts --fetch-retries=1 --no-update-notifier".split()
            _run(package, ["npm", "pack", *options, package.requirement], folder)
    for archive in [path for path in folder.iterdir() if path.suffix in (".whl", ".deb", ".tgz")]:
        _unpack(package, archive)
        archive.unlink()
    if not (folder / package.folder).is_dir():
        raise UserError(
            f"cannot fetch {package.name}: what {package.manager} brought has no folder {package.folder}; {_instead(package)}"
        )


def _unpack(package: Package, archive: Path) -> None:
    try:
        match archive.suffix:
            case ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(archive.parent)
            case ".deb":
                _run(package, ["dpkg-deb", "-x", archive.name, "."], archive.parent)
            case ".tgz":
                with tarfile.open(archive) as tar:
                    for member in tqdm(tar, desc=f"{package.name}: unpacking", unit=" files", disable=None):
                        tar.extract(member, archive.parent, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"cannot fetch {package.name}: {archive.name} is damaged ({error}); run the command again") from error


def _run(package: Package, command: list[str], folder: Path) -> None:
    """Run a command with its output captured; a clock shows that something goes on."""
    tool = "pip" if package.manager == "pip" else command[0]
    said = folder / "said.txt"
    bar = tqdm(desc=f"{package.name}: {tool}, {package.size / 1e6:.1f} MB", bar_format="{desc} {elapsed}", disable=None)
    try:
        with bar, said.open("wb") as output:
            environment = os.environ | {"LC_ALL": "C.UTF-8"}
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
            while _running(process):
                bar.refresh()
    except FileNotFoundError as error:
        raise UserError(f"cannot fetch {package.name}: this system has no {tool}; {_instead(package)}") from error
    if process.returncode != 0:
        raise UserError(f"cannot fetch {package.name}: {tool} failed ({_complaint(said)}); {_instead(package)}")
    said.unlink()


def _running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return True
    except BaseException:
        process.kill()
        process.wait()
        raise
    return False


def _complaint(said: Path) -> str:
    """Return the last line that names an error, else the last line."""
    lines = [line.strip() for line in said.read_text("utf8", errors="replace").splitlines() if line.strip()]
    errors = [
        line for line in lines if line.startswith(("E:", "ERROR", "npm error", "dpkg-deb: error")) and "complete log" not in line
    ]
    return (errors or lines or ["it said nothing"])[-1][:300]


def _instead(package: Package) -> str:
    network = "check the network (apt: run `apt-get update` first)" if package.manager == "apt" else "check the network"
    return f"{network}, or get it by hand: {package.by_hand} is found too"
