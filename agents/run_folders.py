"""What lies in the folders that verbs write: kind, state, progress and figures of each, from their JSON alone.

No weights are read and torch is not imported. A folder of somebody else and one that is damaged are described as such, never refused.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worldmodel.agents.ladder import OF_THE_MODEL
from worldmodel.datasets.atomic import is_leftover, lock
from worldmodel.datasets.records import parse_json
from worldmodel.training.metric_rows import read_rows

Kind = Literal["quickstart", "pretrain", "codec", "checkpoint", "evaluate", "diagnose", "experts", "ablate", "isoflop", "unknown"]
State = Literal["finished", "interrupted", "running", "damaged", "foreign"]
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What reading the files of a damaged or foreign folder may raise."""


@dataclass(frozen=True)
class Success:
    """The best that a controller of the model did."""

    controller: str
    touched: float
    """Share of problems whose goal was met at some step."""
    held: float
    """Share of problems whose goal was met at the end."""


@dataclass(frozen=True)
class RunFolder:
    """A folder as a line of a list."""

    path: Path
    kind: Kind
    state: State
    reason: str = ""
    """Why it is called damaged or foreign; else empty."""
    tasks: tuple[str, ...] = ()
    """Short names."""
    done: int | None = None
    """Training steps, or runs of a study, that are done."""
    asked: int | None = None
    """How many were asked for."""
    losses: dict[str, float] = field(default_factory=dict)
    """The newest ones of training, by name."""
    success: Success | None = None
    modified: float = 0.0
    """When something in it was changed last, in seconds since 1970."""
    size: int = 0
    """Bytes of all files in it."""


def list_folders(folders: Sequence[Path]) -> list[RunFolder]:
    """Describe each of some folders that a verb wrote, and of the others the folders within them."""
    return [each for folder in folders for each in _within(folder)]


def _within(folder: Path) -> list[RunFolder]:
    own = describe(folder)
    if own.state != "foreign":
        return [own]
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not is_leftover(path.name))
    except OSError:
        return [own]
    return [describe(path) for path in inner] or [own] * any(folder.iterdir())


def describe(folder: Path) -> RunFolder:
    """Describe one folder, whatever it holds."""
    size, modified = _extent(folder)
    kind: Kind = "unknown"
    facts: dict[str, Any]
    try:
        kind, record = kind_of(folder)
        facts = _facts(kind, folder, record)
        facts["state"] = "running" if facts["state"] != "foreign" and _in_use(folder) else facts["state"]
    except DAMAGE as error:
        facts = {"state": "damaged", "reason": reason_of(error)}
    return RunFolder(folder, kind, modified=modified, size=size, **facts)


def reason_of(error: Exception) -> str:
    """Say in a few words why a folder cannot be read."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r} in its JSON"
    return str(error) or type(error).__name__


def kind_of(folder: Path) -> tuple[Kind, dict[str, Any]]:
    """Tell which verb wrote a folder, and read the JSON that says so.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file cannot be read.
    """
    list(folder.iterdir())  # a folder that may not be read is no empty one
    if (folder / "config.json").is_file():
        record = read_object(folder / "config.json")
        if record.get("kind") == "worldmodel":
            return "checkpoint", record
        if record.get("kind") == "run":
            study = record.get("study")
            if study in ("ablate", "isoflop"):
                return study, record
            return ("pretrain" if "train" in record else "quickstart"), record
    for kind, name in (("codec", "run.json"), ("diagnose", "diagnose.json"), ("experts", "experts.json"), ("evaluate", "report.json")):
        if (folder / name).is_file():
            return kind, read_object(folder / name)  # type: ignore[return-value]
    begun = (folder / "manifest.json").is_file() and read_object(folder / "manifest.json").get("kind") == "worldmodel.manifest"
    return ("evaluate" if begun else "unknown"), {}


def _facts(kind: Kind, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Collect the fields of a `RunFolder` that its files tell."""
    match kind:
        case "quickstart":
            return _quickstart(folder, record)
        case "pretrain":
            done, asked, losses = training(folder, record["train"]["steps"])
            tasks = tuple(map(short, record.get("card", {}).get("tasks") or ()))
            state = "finished" if asked in saved_steps(folder) else "interrupted"
            return {"state": state, "tasks": tasks, "done": done, "asked": asked, "losses": losses}
        case "codec":
            finished = "kind" in record["config"] and (folder / "report.json").is_file()
            return {"state": "finished" if finished else "interrupted"}
        case "checkpoint":
            card = read_object(folder / "card.json")
            return {"state": "finished", "tasks": tuple(map(short, card.get("tasks") or ())), "done": card.get("step")}
        case "evaluate" if not record:
            return {"state": "interrupted", "tasks": (short(read_object(folder / "manifest.json")["env_id"]),)}
        case "evaluate" if "controllers" in record:
            return {"state": "finished", "tasks": (short(record["protocol"]["env_id"]),), "success": best(record["controllers"])}
        case "diagnose":
            return {"state": "finished", "tasks": tuple({str(row["task"]): None for row in record["rows"]})}
        case "experts":
            return {"state": "finished"}
        case "ablate":
            return _study(folder / "results.json", folder / "results.md")
        case "isoflop":
            return _study(folder / "points.json", folder / "fits.json")
    return {"state": "foreign", "reason": "holds nothing that a verb of worldmodel wrote"}


def _quickstart(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    if "task" not in record:  # it was found wrong before anything was trained, and another may have the folder
        return {"state": "interrupted", "reason": "nothing was trained"}
    done, asked, losses = training(folder / "pretrain", record["preset"]["train"]["steps"])
    facts = {"tasks": (short(record["task"]),), "done": done, "asked": asked, "losses": losses}
    if not (folder / "report.json").is_file():
        return {"state": "interrupted", **facts}
    report = read_object(folder / "report.json")
    return {"state": "finished", "success": best(report["planning"]["controllers"]), **facts}


def _study(measured: Path, end: Path) -> dict[str, Any]:
    """Count what a study has measured; it is finished when its end was written after that."""
    record = parse_json(measured.read_bytes()) if measured.is_file() else []
    finished = measured.is_file() and end.is_file() and end.stat().st_mtime >= measured.stat().st_mtime
    return {"state": "finished" if finished else "interrupted", "done": len(record["runs"] if isinstance(record, dict) else record)}


def training(folder: Path, asked: Any) -> tuple[int, int, dict[str, float]]:
    """Return the steps that a run has done and was asked for, and its newest losses."""
    newest: dict[str, float] = {}
    for row in read_rows(folder / "metrics.jsonl"):
        newest |= row
    saved = saved_steps(folder)
    losses = {name.removeprefix("loss/"): value for name, value in newest.items() if name.startswith("loss/") and math.isfinite(value)}
    return max([int(newest.get("step", 0)), *saved]), int(asked), losses


def saved_steps(folder: Path) -> list[int]:
    """List the steps of which a run has checkpoints."""
    names = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    return [int(name) for name in names if name.isdecimal()]


def best(controllers: Sequence[Mapping[str, Any]]) -> Success | None:
    """Find the controller of the model that touches most goals, and of those that touch as many the one that holds most."""
    own = [
        Success(str(each["name"]), float(each["success_rate"]), float(each["held_rate"]))
        for each in controllers
        if str(each["name"]).partition(",")[0] in OF_THE_MODEL
    ]
    return max(own, key=lambda each: (each.touched, each.held), default=None)


def short(task: Any) -> str:
    """Shorten the id of a task of this suite."""
    return str(task).removeprefix("worldmodel/").removesuffix("-v0")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError, ValueError: there is no such file, or it holds something else.
    """
    try:
        record = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return record


def _extent(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files in a folder, and when the newest of them was written; links are not followed."""
    size, newest = 0, 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))
            except OSError:  # removed at this moment
                continue
            size, newest = size + found.st_size, max(newest, found.st_mtime)
    return size, newest


def _in_use(folder: Path) -> bool:
    """Test whether a process holds the lock of a folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor) is False
    finally:
        os.close(descriptor)
