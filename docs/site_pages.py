"""Pages of the site that are made from the code when it is built: the API reference, one page a folder, and the examples.

A hook of mkdocs (`mkdocs.yml`). The modules are those on the disk, so a module that is new, moved or gone needs no change here.
"""

import ast
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "envs": "The worlds, and any other gymnasium environment behind the same interface.",
    "datasets": "From worlds, texts and pictures to one stream of documents.",
    "worldmodel": "The model: codec, tokens, transformer, training, rollout.",
    "agents": "From predictions to actions: simulators, planners, controllers, scores.",
    "scripts": "The verbs of the console command.",
}
"""Each folder with a page of its own, and what it holds."""


_mirror = tempfile.TemporaryDirectory(prefix="worldmodel-docs-")


@event_priority(100)  # before mkdocstrings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let the reference be read from a mirror of links in which every package has an `__init__.py`.

    The reader of docstrings looks into no folder without one, and some of the folders have none (tests/test_packaging.py says why).
    """
    package = Path(_mirror.name) / "worldmodel"
    if not package.exists():
        package.mkdir()
        for path in (ROOT / "worldmodel").iterdir():
            if path.name not in FOLDERS:
                (package / path.name).symlink_to(path)
        for folder in (name for name in FOLDERS if name != "worldmodel"):
            (package / folder).mkdir()
            for path in (ROOT / folder).iterdir():
                (package / folder / path.name).symlink_to(path)
            (package / folder / "__init__.py").touch()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_mirror.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for folder, summary in FOLDERS.items():
        files.append(File.generated(config, f"reference/{folder}.md", content=reference(folder, summary)))
    files.append(File.generated(config, "examples.md", content=examples()))
    return files


def modules(folder: str) -> list[str]:
    """List the names of a folder's public modules with their package, e.g. `worldmodel.envs.task`, sorted."""
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        if path.resolve() != path or any(part.startswith("_") for part in (*path.parent.parts, path.stem) if part != "__init__"):
            continue  # a link to another folder, or a private module
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found.append(".".join(parts if folder == "worldmodel" else ("worldmodel", *parts)))
    return sorted(found)


def reference(folder: str, summary: str) -> str:
    """Write the page of a folder: every module with its docstrings."""
    return f"# {folder}\n\n{summary}\n\n" + "\n\n".join(f"::: {module}" for module in modules(folder)) + "\n"


def examples() -> str:
    """Write the page of the numbered scripts: each with its docstring in front of its code."""
    parts = ["# Examples", "Run them in the order of their numbers, in one folder; `--help` lists what may be changed."]
    for path in sorted((ROOT / "docs" / "examples").glob("[0-9]*.py")):
        text = path.read_text()
        doc = ast.get_docstring(ast.parse(text)) or ""
        code = text.split('"""', 2)[2].strip()
        parts += [f"## {path.name}", doc, f"```python\n{code}\n```"]
    return "\n\n".join(parts) + "\n"
