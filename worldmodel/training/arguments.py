"""The arguments that a run was started with, in its folder: enough to continue it from the folder alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.presets import Preset
from worldmodel.serialization import read_json, rebuild, write_json

NAME = "arguments.json"
KIND = "pretrain arguments"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Arguments:
    """What `worldmodel pretrain` was given."""

    codec: Path
    data: tuple[Path, ...]
    vocab_size: int
    mixture: MixtureConfig
    preset: Preset


def write_arguments(run_dir: Path, arguments: dict[str, Any]) -> None:
    """Write the arguments of a run, given as nested dictionaries; paths of codec and data in full."""
    places = {"codec": str(arguments["codec"].resolve()), "data": [str(path.resolve()) for path in arguments["data"]]}
    kept = {name: value for name, value in arguments.items() if name in Arguments.__dataclass_fields__}
    write_json(run_dir / NAME, {"schema_version": SCHEMA_VERSION, "kind": KIND, "arguments": kept | places})


def read_arguments(run_dir: Path) -> Arguments:
    """Read the arguments that a run was started with.

    Raises:
        UserError: the folder holds no run of `worldmodel pretrain`, or one of another version.
    """
    path = run_dir / NAME
    if not path.is_file():
        raise UserError(f"{run_dir} is no run of worldmodel pretrain, it has no {NAME}: name the folder that --out named")
    record = read_json(path)
    if record.get("kind") != KIND or record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} was written by another version of worldmodel: give the run's arguments again instead of --resume")
    try:
        found = record["arguments"]
        mixture: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in found["mixture"].items()}
        return Arguments(
            _place(found["codec"]),
            tuple(_place(path) for path in rebuild(list[str], found["data"], f"{path}: data")),
            rebuild(int, found["vocab_size"], f"{path}: vocab_size"),
            MixtureConfig(**mixture),
            rebuild(Preset, found["preset"], f"{path}: preset"),
        )
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} lacks or has too much of something ({error}): give the run's arguments again instead") from None


def refuse_changed_data(run_dir: Path, trained_on: list[str]) -> None:
    """Refuse to continue a run whose data have changed, though their files may have the same names.

    Args:
        run_dir: folder of the run; where there is none yet, there is nothing to compare.
        trained_on: digests of the episodes that are to be trained on.

    Raises:
        UserError: with how many episodes are gone, and how many new.
    """
    if not (run_dir / "config.json").is_file():
        return
    before, now = read_json(run_dir / "config.json").get("card", {}).get("trained_on"), set(trained_on)
    if isinstance(before, list) and set(map(str, before)) != now:
        gone, new = len(set(map(str, before)) - now), len(now - set(map(str, before)))
        raise UserError(
            f"the data of the run in {run_dir} have changed since it was begun: of {len(before)} episodes that it trained on {gone} "
            f"are not there any more, and {new} are new; give the same data to go on, or another --out to begin anew"
        )


def _place(path: Any) -> Path:
    """Return a path; a TypeError for what is none."""
    if not isinstance(path, str) or "\0" in path:
        raise TypeError(f"{shortened(path)} is no path")
    return Path(path)
