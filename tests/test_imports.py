"""Imports run one way, scripts -> agents -> worldmodel -> datasets -> envs, and never in a circle; heavy ones wait until needed."""

import ast
import re
import subprocess
import sys
from collections.abc import Container
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import worldmodel

LEAVES = {"errors", "home"}
"""Modules of worldmodel/ that every folder may use; `worldmodel` itself carries the version."""
ALLOWED = {
    "envs": {"envs"},
    "datasets": {"envs", "datasets"},
    "worldmodel": {"envs", "datasets", "worldmodel"},
    "agents": {"envs", "datasets", "worldmodel", "agents"},
    "scripts": {"envs", "datasets", "worldmodel", "agents", "scripts"},
}


def imported_folders(source: str) -> set[str]:
    """The folders of this repository that a module imports from, wherever in the module it does so."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write worldmodel.x"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    folders = set()
    for name in names:
        package, *rest = name.split(".")
        if package == "worldmodel":
            head = rest[0] if rest else "__version__"
            if head not in LEAVES | {"__version__"}:
                folders.add(head if head in ALLOWED else "worldmodel")
        elif package in ALLOWED:
            folders.add(f"{package} (without worldmodel.)")
    return folders


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_import_only_to_the_right(root: Path, folder: str) -> None:
    modules = [path for path in (root / folder).rglob("*.py") if path.resolve().is_relative_to(root / folder)]
    for path in modules:
        if path in (root / "worldmodel" / "__main__.py", root / "worldmodel" / "__init__.py"):  # the ways in: a verb's, and Python's
            continue
        wrong = imported_folders(path.read_text()) - ALLOWED[folder]
        assert not wrong, f"{path.relative_to(root)} imports {sorted(wrong)}; {folder} may import {sorted(ALLOWED[folder])}"


@pytest.mark.parametrize(
    ("line", "folders"),
    [
        ("from worldmodel.envs.task import Task", {"envs"}),
        ("from worldmodel import datasets", {"datasets"}),
        ("from worldmodel.codec.rae import Rae", {"worldmodel"}),
        ("from worldmodel.errors import UserError", set()),
        ("from worldmodel import __version__", set()),
        ("def late():\n    import worldmodel.agents.cem", {"agents"}),
        ("from datasets.store import EpisodeStore", {"datasets (without worldmodel.)"}),
    ],
)
def test_the_import_reader_sees_every_form(line: str, folders: set[str]) -> None:
    assert imported_folders(line) == folders


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of this repository by its name, but the ways in."""
    found = {}
    for folder in ALLOWED:
        for path in (root / folder).rglob("*.py"):
            if path.resolve().is_relative_to(root / folder):  # not through a link
                parts = [*path.relative_to(root / folder).with_suffix("").parts]
                parts = ["worldmodel", *([] if folder == "worldmodel" else [folder]), *parts]
                found[".".join(parts).removesuffix(".__init__")] = path
    return {name: path for name, path in found.items() if name not in ("worldmodel", "worldmodel.__main__")}


def imported_modules(source: str, modules: Container[str]) -> set[str]:
    """Those of the modules that a source imports, wherever it does so, but for what only types need."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else str(node.module) for name in each}
    return {name for name in names if name in modules}


def test_no_module_imports_itself_by_way_of_others(root: Path) -> None:
    modules = modules_of(root)
    assert len(modules) > 200 and "worldmodel.codec.kinds" in modules and "worldmodel.envs" in modules
    TopologicalSorter({name: imported_modules(path.read_text(), modules) for name, path in modules.items()}).prepare()


def test_a_circle_is_found_wherever_it_is_closed() -> None:
    late = "def load():\n    from worldmodel.codec import kinds"
    typed = "if TYPE_CHECKING:\n    from worldmodel.codec.kinds import KINDS\nelse:\n    import worldmodel.flow"
    assert imported_modules(late, {"worldmodel.codec.kinds"}) == {"worldmodel.codec.kinds"}
    assert imported_modules(typed, {"worldmodel.codec.kinds", "worldmodel.flow"}) == {"worldmodel.flow"}
    with pytest.raises(CycleError, match="a.*b"):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_only_scripts_and_tests_import_scripts(root: Path) -> None:
    """Layers keep the folders from it; here are the ways in, what the pages show, and the examples."""
    assert imported_folders((root / "worldmodel" / "__init__.py").read_text()) == {"envs", "datasets", "worldmodel", "agents"}
    for page in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            assert "scripts" not in imported_folders(block), page
    examples = sorted((root / "docs" / "examples").glob("*.py"))
    assert examples
    for example in examples:
        assert "scripts" not in imported_folders(example.read_text()), example


def test_public_names_are_where_they_are_said_to_be(root: Path) -> None:
    tree = ast.parse((root / "worldmodel" / "__init__.py").read_text())
    typed = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert typed == set(worldmodel.__all__) <= set(dir(worldmodel))
    for name in worldmodel.__all__:
        value = getattr(worldmodel, name)
        assert value.__doc__ and value.__name__ in (name, f"worldmodel.{name}")
    with pytest.raises(AttributeError, match="module 'worldmodel' has no attribute 'dreams'"):
        worldmodel.dreams  # noqa: B018


@pytest.mark.parametrize("name", ["envs", "datasets", "agents", "scripts"])
def test_help_lists_the_folders(name: str) -> None:
    assert f"worldmodel.{name} " in (worldmodel.__doc__ or "")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import worldmodel", "torch mujoco gymnasium numpy scipy"),
        ("import worldmodel; dir(worldmodel); worldmodel.UserError", "torch mujoco gymnasium numpy"),
        ("import worldmodel; worldmodel.make_task; worldmodel.EpisodeStore; worldmodel.collect", "torch mujoco"),
        ("import worldmodel.envs", "torch h5py scipy"),
        ("import worldmodel.datasets.collection.collect", "torch"),
        ("import worldmodel.scripts.cli", "torch mujoco gymnasium"),
        ("import worldmodel.scripts.envs, worldmodel.scripts.collect, worldmodel.scripts.runs, worldmodel.scripts.compare", "torch"),
    ],
)
def test_light_imports_stay_light(root: Path, statement: str, absent: str) -> None:
    probe = f"import sys; {statement}; print([name for name in '{absent}'.split() if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", probe], cwd=root, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr
