"""What several runs have in common, side by side: settings that differ, scores with their intervals, curves, and the same problems.

Everything is read from the JSON that the verbs wrote; nothing is measured.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.agents.paired import Difference, digest_of, paired_difference
from worldmodel.agents.run_folders import DAMAGE, Kind, kind_of, read_object, reason_of
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.training.metric_rows import read_rows

CURVES = ("loss/", "validation/", "dream/")
"""How the names of the metrics begin that are compared."""
NO_SETTINGS = ("schema_version", "kind", "out", "protocol.digest", "protocol.episodes")
"""Entries that say nothing of what was asked for."""
HALF = ", half of the 95 % interval"
COMPARED = "quickstarts, runs of pretrain, codecs, evaluations and diagnoses"


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def figure_of(*numbers: Any) -> Figure:
    """Take a figure from a record: a value, or a value and its interval.

    Raises:
        ValueError: one of them is no finite number.
    """
    for each in numbers:
        if type(each) not in (int, float) or not math.isfinite(each):
            raise ValueError(f"{shortened(each)} is no finite number")
    return Figure(*map(float, numbers))


@dataclass(frozen=True)
class RunFigures:
    """What one run can be compared by."""

    name: str
    kind: Kind
    settings: dict[str, Any]
    """By the path of the field, with dots."""
    scores: dict[str, Figure] = field(default_factory=dict)
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """Steps and values, by name."""
    problems: str = ""
    """Digest of the problems that were solved; empty if there were none."""
    episodes: list[int] | None = None
    """Of each problem, the episode that it is of."""
    outcomes: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Controller -> touched, held -> of each problem the share of tries."""


def read_figures(folder: Path) -> RunFigures:
    """Read what a run can be compared by.

    Raises:
        UserError: the folder is none of a run, is damaged, or holds no figures.
    """
    try:
        kind, record = kind_of(folder)
        match kind:
            case "quickstart":
                found = _quickstart(folder, record)
            case "pretrain":
                settings = {name: record[name] for name in ("train", "model", "data")} | {"mixture": record["card"].get("mixture", {})}
                found = RunFigures(folder.name, kind, dict(flat(settings)), curves=curves_of(folder))
            case "codec":
                report = read_object(folder / "report.json")
                found = RunFigures(folder.name, kind, dict(flat(record["config"], "codec.")), _codec_scores(report))
            case "evaluate" if "controllers" in record:
                settings = {"protocol": record["protocol"], **record["config"]}
                found = RunFigures(folder.name, kind, dict(flat(settings)), planning_scores(record), **_problems(folder, record))
            case "diagnose":
                found = RunFigures(folder.name, kind, {}, ladder_scores(record))
            case _:
                raise UserError(f"{folder} holds nothing that can be compared: name {COMPARED}")
    except DAMAGE as error:
        raise UserError(f"{folder} cannot be compared, it is not whole ({reason_of(error)}): name {COMPARED}") from None
    if not found.scores and not found.curves:
        raise UserError(f"{folder} has no figures yet: let it train first")
    return found


def _quickstart(folder: Path, record: dict[str, Any]) -> RunFigures:
    settings = {name.removeprefix("preset."): value for name, value in flat(record)}  # as a run of pretrain has them
    found = RunFigures(folder.name, "quickstart", settings, curves=curves_of(folder / "pretrain"))
    if not (folder / "report.json").is_file():
        return found
    report = read_object(folder / "report.json")
    scores = planning_scores(report["planning"]) | ladder_scores(report["ladder"]) | _codec_scores(report["codec"])
    scores |= {f"language: {each['name']}": figure_of(each["rate"], *each["interval"]) for each in report["language"]}
    scores["held-out text, bits per byte"] = figure_of(report["text"]["model"])
    scores["dream, shuffled / true actions"] = figure_of(report["dream"]["shuffled_over_true"])
    problems = _problems(folder, report["planning"])
    return RunFigures(found.name, found.kind, found.settings, scores, found.curves, **problems)


def planning_scores(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Collect the success rates of an evaluation, as `scores_to_json` wrote them, with their intervals."""
    scores = {}
    for each in record["controllers"]:
        for what, rate, interval in (("touched", "success_rate", "interval_95"), ("held", "held_rate", "held_interval_95")):
            scores[f"{each['name']}, {what}"] = figure_of(each[rate], *each[interval])
    return scores


def _codec_scores(report: Mapping[str, Any]) -> dict[str, Figure]:
    kept = ("psnr", "ssim", "perceptual", "psnr_moving")
    scores = {f"codec, {name}": value for name, value in report["reconstruction"].items() if name in kept and value is not None}
    scores["codec, probe R^2"] = report["objectives"][report["chosen"]]["probe"]["r2"]
    return {name: figure_of(value) for name, value in scores.items()}


def ladder_scores(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Collect the numbers of a ladder; the row after one may have half of its interval. The success rates at its end are left out."""
    scores: dict[str, Figure] = {}
    for row in record["rows"]:
        name, found = f"{row['rung']}: {row['name']}", figure_of(row["value"])
        of = name.removesuffix(HALF)
        if of != name and of in scores:
            scores[of] = Figure(scores[of].value, scores[of].value - found.value, scores[of].value + found.value)
        elif row["rung"] != "result":
            scores[name] = found
    return scores


def _problems(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Collect which problems were solved and what came of each, as fields of `RunFigures`."""
    protocol, manifest = record["protocol"], folder / "manifest.json"
    digest, episodes = protocol.get("digest", ""), protocol.get("episodes")
    if not digest and manifest.is_file():  # reports did not say it before
        problems = read_object(manifest)["problems"]
        digest, episodes = digest_of(problems), [problem["episode"] for problem in problems]
    count = protocol["problems"]
    if episodes is not None and not (len(episodes) == count and all(type(each) is int for each in episodes)):
        raise ValueError(f"its {count} problems are of no {count} episodes")
    outcomes = {
        str(each["name"]): {what: _shares(each["streams"], key, count) for what, key in (("touched", "success"), ("held", "held"))}
        for each in record["controllers"]
    }
    return {"problems": digest, "episodes": episodes, "outcomes": outcomes}


def _shares(streams: Sequence[Mapping[str, Any]], key: str, problems: int) -> list[float]:
    """Average over the tries of each problem whether they were successes."""
    tries = [stream[key] for stream in streams]
    for found in tries:
        if not isinstance(found, list) or len(found) != problems or not all(type(each) is bool for each in found):
            raise ValueError(f"{key} of a controller is {shortened(found)}, no list of {problems} times true or false")
    shares: list[float] = np.mean(tries, axis=0).tolist()
    return shares


def curves_of(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Collect the metrics of a training run that are compared, by name; numbers that are not finite are left out."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_rows(run / "metrics.jsonl"):
        for name, value in row.items():
            if name.startswith(CURVES) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return curves


def flat(record: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested settings with the paths that lead to them."""
    for name, value in record.items():
        if path + name in NO_SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@dataclass(frozen=True)
class Pair:
    """What the second of two runs gains over the first on the same problems."""

    first: str
    second: str
    controller: str
    what: str
    """touched or held."""
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; lists have a value for each run, None where it has none."""

    names: list[str]
    settings: dict[str, list[Any]]
    """Those that differ."""
    scores: dict[str, list[Figure | None]]
    """Those that two runs have at least."""
    curves: dict[str, dict[str, tuple[list[int], list[float]]]]
    """The same, by name of the run."""
    pairs: list[Pair]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def compare(folders: Sequence[Path]) -> Comparison:
    """Put runs side by side.

    Raises:
        UserError: there are fewer than two, one cannot be read, or no two of them have a figure in common.
    """
    if len(folders) < 2:
        raise UserError("name two runs at least: worldmodel compare RUN RUN")
    names = distinct(folders)
    runs = [RunFigures(**{**vars(read_figures(folder)), "name": name}) for folder, name in zip(folders, names, strict=True)]
    settings = {key: [run.settings.get(key) for run in runs] for key in union(run.settings for run in runs)}
    last = [run.scores | {f"{key}, last": Figure(values[-1]) for key, (_, values) in run.curves.items()} for run in runs]
    scores = {key: [own.get(key) for own in last] for key in union(last)}
    curves = {key: {r.name: r.curves[key] for r in runs if key in r.curves} for key in union(run.curves for run in runs)}
    common = {key: each for key, each in scores.items() if sum(figure is not None for figure in each) > 1}
    if not common:
        said = ", ".join(f"{run.name} ({run.kind})" for run in runs)
        raise UserError(f"{said} have no figure in common: compare runs of one kind, or quickstarts with runs of pretrain")
    return Comparison(
        names,
        {key: each for key, each in settings.items() if any(json.dumps(value) != json.dumps(each[0]) for value in each)},
        common,
        {key: each for key, each in curves.items() if len(each) > 1},
        [pair for first, second in combinations(runs, 2) for pair in _pairs(first, second)],
    )


def union(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the keys of several dictionaries, each once, in their order."""
    return list(dict.fromkeys(key for record in records for key in record))


def _pairs(first: RunFigures, second: RunFigures) -> list[Pair]:
    """Compare the controllers that both runs have, if they solved the same problems."""
    if not first.problems or first.problems != second.problems:
        return []
    return [
        Pair(first.name, second.name, name, what, paired_difference(shares, second.outcomes[name][what], first.episodes))
        for name, own in first.outcomes.items()
        if name in second.outcomes
        for what, shares in own.items()
    ]


def distinct(folders: Sequence[Path]) -> list[str]:
    """Name folders by as few of the last parts of their paths as tell them apart.

    Raises:
        UserError: a folder is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError("a run is named twice: name different ones")
    count = next(k for k in range(1, max(map(len, parts)) + 1) if len({each[-k:] for each in parts}) == len(parts))
    return ["/".join(each[-count:]) for each in parts]
