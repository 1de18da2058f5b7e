"""Packages of worldmodel, also of a checkout that lost the links inside worldmodel/; everything else is said in pyproject.toml.

envs/, datasets/, agents/ and scripts/ are sub-packages of worldmodel through links. Where git runs with core.symlinks=false, and where
pip unpacks a zip, a link becomes a small text file. A folder whose link is lost is mapped into the package, so a wheel is the same.
"""

import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
LINKED = ("envs", "datasets", "agents", "scripts")
LOST = [name for name in LINKED if not (ROOT / "worldmodel" / name).is_dir()]


class LinkedSdist(sdist):
    """A source archive that holds the linked folders once, and the links."""

    def make_release_tree(self, base_dir, files):
        """Copy the files, then make the links, which setuptools would follow."""
        inside = tuple(f"worldmodel/{name}/" for name in LINKED)
        super().make_release_tree(base_dir, [file for file in files if not file.startswith(inside)])
        for name in LINKED:
            Path(base_dir, "worldmodel", name).symlink_to(Path("..", name))


def packages() -> list[str]:
    """All packages, those of folders whose link is lost included."""
    found = find_namespace_packages(str(ROOT), include=["worldmodel*"])
    for name in LOST:
        found += [f"worldmodel.{name}", *(f"worldmodel.{name}.{inner}" for inner in find_namespace_packages(str(ROOT / name)))]
    return [name for name in found if not name.endswith("__pycache__")]


if LOST and "editable_wheel" in sys.argv:
    folders = " ".join(f"../{name}" for name in LINKED)
    sys.exit(
        f"{ROOT / 'worldmodel'} lacks its links to {', '.join(LOST)}, without which an editable install finds no such sub-package: "
        f"run `ln -sf {folders} worldmodel/` in {ROOT}, or install without -e"
    )

setup(
    packages=packages(),
    package_dir={f"worldmodel.{name}": name for name in LOST},
    cmdclass={"sdist": LinkedSdist},
)
