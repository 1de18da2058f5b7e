"""What an episode file holds, from the file alone: facts, factors and columns as rows of text.

`describe` sets them as plain text for `worldmodel datasets info`; `card.py` sets the same rows as a page next to the file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.datasets.episodes.schema import TEXTS, VIEWS, open_file
from worldmodel.datasets.episodes.statistics import Statistics, column_statistics
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.outputs import aligned
from worldmodel.datasets.records import parse_json

TableRow = tuple[str, ...]

FACTOR_HEADERS: TableRow = ("factor", "values seen")
COLUMN_HEADERS: TableRow = ("column", "a row", "kB", "min", "q01", "median", "q99", "max", "mean", "std")
COMPONENT_HEADERS: TableRow = ("component", "min", "q01", "median", "q99", "max", "mean", "std")
MANY_VALUES = 8
"""Factors with more values than these are shown as a range, or a count."""


def describe(path: Path) -> str:
    """Describe an episode file as text for a terminal; UserError where it is missing, damaged or no episode file."""
    with EpisodeStore(path) as store:
        statistics = column_statistics(store)
        tables: list[Sequence[TableRow]] = [
            facts(store),
            [FACTOR_HEADERS, *factor_rows(store)],
            [COLUMN_HEADERS, *column_rows(store, statistics)],
        ]
        tables.append([COMPONENT_HEADERS, *component_rows(store, statistics)])
    return "\n\n".join(aligned(table) for table in tables if len(table) > 1)


def record(path: Path) -> dict[str, Any]:
    """Describe an episode file for programs: `facts` and `factors` in words, `columns` with the statistics of each component."""
    with EpisodeStore(path) as store:
        numbers = {
            "episodes": len(store),
            "frames": store.num_frames,
            "image_size": store.image_size,
            "env_id": store.meta.get("env_id"),
        }
        tables = {
            "facts": dict(facts(store)),
            "factors": {name: seen for name, seen in factor_rows(store)},
            "columns": column_statistics(store),
        }
    return numbers | tables


def facts(store: EpisodeStore) -> list[tuple[str, str]]:
    """List (name, sentence) of everything that holds for the file as a whole."""
    meta, lengths = store.meta, store.lengths * store.action_block
    height, width = store.frames(np.zeros(1, np.int64)).shape[1:3]
    size = store.path.stat().st_size
    raw = store.num_frames * (1 + len(store.cameras)) * height * width * 3
    policies, seeds = Counter(store.texts("policy")), store.column("seed")
    rows = [
        ("file", f"{store.path}, {_bytes(size)}"),
        ("episodes", f"{len(store)} of {_range(lengths)} actions, {lengths.mean():.1f} on average"),
        ("frames", f"{store.num_frames} of {width} x {height} px, {storage_name(store)}"),
        ("bytes", f"{size / store.num_frames:.0f} for a frame with all that belongs to it, {size / raw:.1%} of its pixels"),
        ("environment", str(meta.get("env_id", "not stated"))),
        ("actions", _actions(store)),
    ]
    if meta.get("camera") or store.cameras:
        rows.append(("cameras", ", ".join([str(meta.get("camera", "main")), *store.cameras])))
    rows += [
        ("policies", ", ".join(f"{name or 'unnamed'} {count / len(store):.0%}" for name, count in policies.most_common())),
        ("success", f"{_success_share(store):.0%} of the episodes reach their goal at some step"),
        ("reward", _outcomes(store)),
        ("seeds", f"{len(np.unique(seeds))} different in {len(seeds)} episodes, {_range(seeds)}"),
        ("language", ", ".join(name for name in TEXTS if name not in ("policy", "variation") and store.has_text(name)) or "none"),
        ("origin", origin(meta)),
        ("licence", licence(meta)),
    ]
    if meta.get("dropped"):
        rows.append(("dropped", ", ".join(map(str, meta["dropped"]))))
    return rows


def storage_name(store: EpisodeStore) -> str:
    """Say how the frames are coded, in words."""
    words = {"lossless": "stored without loss", "raw": "stored uncompressed", "jpeg": "stored as JPEG"}
    return words[store.storage]


def origin(meta: dict[str, Any]) -> str:
    """Say where the episodes come from, as far as the file says."""
    said = []
    if "repaired_from" in meta:
        said.append(f"the whole episodes of {meta['repaired_from']['file']}, which was damaged")
    if "split" in meta:
        said.append(f"the {meta['split']['part']} part of {meta['split']['of']}, drawn with seed {meta['split']['seed']}")
    if "merged_from" in meta:
        said.append("merged from " + ", ".join(f"{part['file']} ({part['episodes']} episodes)" for part in meta["merged_from"]))
    if "source" in meta:
        source = meta["source"]
        text = ", ".join(f"{name} {value}" for name, value in source.items()) if isinstance(source, dict) else str(source)
        said.append(f"converted from {text}")
    elif "package_version" in meta:
        said.append(f"recorded by worldmodel {meta['package_version']}" + (f" with seed {meta['seed']}" if "seed" in meta else ""))
    return "; ".join(said) or "not stated in the file"


NOT_STATED = "none stated"
OF_OUR_TASKS = "free (recorded in worldmodel)"


def licence(meta: dict[str, Any]) -> str:
    """Say what the file states about its license, or what follows from how it was made."""
    short = short_licence(meta)
    if short == OF_OUR_TASKS:
        return "none stated; recorded in a task of worldmodel, whose licence (MIT) asks nothing of what is recorded with it"
    return f"{short}; ask whoever made the file, and the environment it was recorded in" if short == NOT_STATED else short


def short_licence(meta: dict[str, Any]) -> str:
    """Say the same as `licence` in the words of a table's cell."""
    said = str(meta.get("licence") or "unknown")
    if said != "unknown":
        return said
    return OF_OUR_TASKS if str(meta.get("env_id", "")).startswith("worldmodel/") and "source" not in meta else NOT_STATED


def factor_rows(store: EpisodeStore) -> list[TableRow]:
    """List (factor, values seen) of each factor of variation, over all episodes."""
    seen: dict[str, Counter[str]] = {}
    numbers: dict[str, list[float]] = {}
    for text in store.texts("variation"):
        for name, value in parse_json(text).items():
            seen.setdefault(name, Counter())[value if isinstance(value, str) else json.dumps(value)] += 1
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(name, []).append(value)
    return [(name, _values(counts, numbers.get(name, []))) for name, counts in sorted(seen.items())]


def _values(counts: Counter[str], numbers: Sequence[float]) -> str:
    """Write the values of one factor: the only one, a few with their shares, a range, or how many."""
    total = counts.total()
    if len(counts) == 1:
        return f"always {next(iter(counts))}"
    if len(numbers) == total and (len(counts) > MANY_VALUES or any(isinstance(value, float) for value in numbers)):
        return f"{_number(min(numbers))} to {_number(max(numbers))}"
    if len(counts) > MANY_VALUES:
        return f"{len(counts)} different"
    return ", ".join(f"{value} {count / total:.0%}" for value, count in counts.most_common())


def column_rows(store: EpisodeStore, statistics: dict[str, Statistics]) -> list[TableRow]:
    """Make a row for each column of the file; statistics over all its components, the means of the components for mean and std."""
    rows: list[TableRow] = []
    with open_file(store.path) as file:
        for name, item in _columns(file):
            parts = [item] if isinstance(item, h5py.Dataset) else [item[part] for part in item]
            kilobytes = f"{sum(part.id.get_storage_size() for part in parts) / 1000:.1f}"
            form = _form(parts[0]) if isinstance(item, h5py.Dataset) else "text" if name in TEXTS else "JPEG"
            rows.append((name, form, kilobytes, *_summary(statistics.get(name))))
    return rows


def _columns(file: h5py.File) -> Iterable[tuple[str, h5py.Dataset | h5py.Group]]:
    for name in file:
        if name == VIEWS:
            yield from ((f"{VIEWS}/{camera}", file[VIEWS][camera]) for camera in file[VIEWS])
        elif name != "meta":
            yield name, file[name]


def component_rows(store: EpisodeStore, statistics: dict[str, Statistics]) -> list[TableRow]:
    """Make a row for each component of `features` and `actions` that the file names."""
    rows: list[TableRow] = []
    for column, names in (("features", store.meta.get("feature_names", ())), ("actions", store.meta.get("action_names", ()))):
        found = statistics[column]
        block = len(found["min"]) // max(1, len(names))  # the actions of a block have the same names
        labels = [f"{name}{f' ({k + 1} of {block})' if block > 1 else ''}" for k in range(block) for name in names]
        if len(labels) == len(found["min"]):
            rows += [(f"{column}: {label}", *_summary(found, i)) for i, label in enumerate(labels)]
    return rows


def _summary(statistics: Statistics | None, component: int | None = None) -> TableRow:
    if statistics is None or not statistics["count"].any():
        return ("",) * 7
    there = statistics["count"] > 0
    of = {name: values[there] if component is None else values[component : component + 1] for name, values in statistics.items()}
    numbers = (
        of["min"].min(),
        of["q01"].min(),
        np.median(of["q50"]),
        of["q99"].max(),
        of["max"].max(),
        of["mean"].mean(),
        of["std"].mean(),
    )
    return tuple(_number(float(number)) for number in numbers)


def _form(column: h5py.Dataset) -> str:
    return f"{column.dtype} {' x '.join(map(str, column.shape[1:]))}".strip()


def _actions(store: EpisodeStore) -> str:
    if not store.has_actions:
        return "none: video alone"
    names = ", ".join(map(str, store.meta.get("action_names", ())))
    return f"{store.action_size} numbers{f' ({names})' if names else ''}, {store.action_block} to a recorded step"


def _success_share(store: EpisodeStore) -> float:
    reached = np.concatenate([[0], np.cumsum(store.column("success"))])
    stops = np.cumsum(store.lengths + 1)
    return float((reached[stops] > reached[stops - store.lengths - 1]).mean())


def _outcomes(store: EpisodeStore) -> str:
    """Say what the episodes return, how they end, and in how many of them nobody recorded that."""
    if store.missing_columns:
        return "not recorded, the file is of schema 3: rewards read as NaN, terminated and truncated as False"
    if not store.has_outcomes:
        return "not recorded: rewards are NaN, terminated and truncated are False"
    firsts = store.offsets - np.arange(len(store))  # rows of the first actions
    returns = np.add.reduceat(store.column("reward"), firsts)
    known = returns[~np.isnan(returns)]
    said = []
    if len(known):
        said.append(f"{_number(known.min())} to {_number(known.max())} in an episode, {_number(known.mean())} on average")
    for name in ("terminated", "truncated"):
        said.append(f"{np.logical_or.reduceat(store.column(name), firsts).mean():.0%} of the episodes are {name} at some step")
    if len(known) < len(store):
        said.append(f"not recorded in {len(store) - len(known)} of the episodes (NaN)")
    return "; ".join(said)


def _range(numbers: np.ndarray) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _bytes(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.{0 if unit == 'bytes' else 1}f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
