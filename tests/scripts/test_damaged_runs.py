"""What lies in run folders and is damaged, or was written by something else: one sentence that says what to do."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.refusals import Refused
from worldmodel.datasets.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.presets import tiny
from worldmodel.scripts.experts import recorded
from worldmodel.scripts.isoflop import read_points
from worldmodel.scripts.pretrain_arguments import read_arguments, write_arguments

POINT = {"kind": "dense", "size": 1.0, "budget": 1e9, "width": 8, "depth": 1, "total": 9, "active": 5, "steps": 3, "tokens": 70}
MEASURED = {"point": POINT, "losses": {"language": 1.5, "vision": 1}, "step_seconds": 1, "seconds": None}


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    """A run's arguments."""
    given = {"codec": tmp_path / "codec", "data": (tmp_path / "x.h5",), "vocab_size": 300, "mixture": asdict(MixtureConfig())}
    write_arguments(tmp_path, given | {"preset": asdict(tiny())})
    return tmp_path / "arguments.json"


def test_arguments_come_back(arguments: Path) -> None:
    found = read_arguments(arguments.parent)
    assert (found.codec, found.data) == (arguments.parent / "codec", (arguments.parent / "x.h5",))
    assert (found.vocab_size, found.mixture, found.preset) == (300, MixtureConfig(), tiny())


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.update(mixture=[]),
        lambda kept: kept["mixture"].update(held_out="much"),
        lambda kept: kept["mixture"].update(wings=2),
        lambda kept: kept.update(codec=5),
        lambda kept: kept.update(codec="a\0b"),
        lambda kept: kept.update(data="x.h5"),
        lambda kept: kept.update(data=[["x.h5"]]),
        lambda kept: kept.update(vocab_size="many"),
        lambda kept: kept.update(preset=None),
        lambda kept: kept["preset"]["train"].update(lr=float("inf")),
        lambda kept: kept["preset"]["model"]["trunk"].update(width=[1]),
        lambda kept: kept.clear(),
    ],
)
def test_damaged_arguments_are_one_sentence(arguments: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(arguments.read_text())
    damage(record["arguments"])
    arguments.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"arguments.json|mixture|held_out"):
        read_arguments(arguments.parent)


@pytest.mark.parametrize("content", [b"{" * 100_000, b'{"arguments": ' * 500, b"\xff\xfe\x00", b"[]", b"", b'{"kind": "run"}'])
def test_files_that_are_no_arguments(arguments: Path, content: bytes) -> None:
    arguments.write_bytes(content)
    with pytest.raises(UserError, match="arguments.json"):
        read_arguments(arguments.parent)


def test_points_come_back_and_damaged_ones_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    assert read_points(path) == {}
    path.write_text(json.dumps([MEASURED]))
    [measured] = read_points(path).values()
    assert (measured.point.width, measured.losses, measured.seconds) == (8, {"language": 1.5, "vision": 1.0}, None)
    damaged: list[Any] = [{}, 5, [5], [{}], [MEASURED | {"point": POINT | {"width": "8"}}], [MEASURED | {"losses": [1]}]]
    for content in [*map(json.dumps, damaged), "[" * 10_000, "{", json.dumps([MEASURED | {"step_seconds": float("nan")}])]:
        path.write_text(content)
        with pytest.raises(UserError, match="points.json is damaged .*: remove it to measure the points again"):
            read_points(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"preset": []},
        {"preset": {"train": {"steps": 1}, "model": {"trunk": {"feed_forward": "shared"}, "flow": {}}}},
        {"runs": [5]},
        {"runs": [{"variant": "x", "seed": "y", "measures": {}}]},
        {"runs": [{"variant": "x", "seed": 0, "measures": {"psnr_1": "high"}}]},
    ],
)
def test_damaged_results_of_an_ablation(content: dict[str, Any], tmp_path: Path, refused: Refused) -> None:
    model = {"trunk": {"feed_forward": "shared"}, "flow": {"shift": None}}
    whole = {"preset": {"train": {"steps": 1}, "model": model}, "controls": {}}
    (tmp_path / "results.json").write_text(json.dumps(whole | content if "runs" in content else content))
    said = refused("ablate", "all", "--out", tmp_path, "--report")
    assert "results.json is damaged: remove it" in said and [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_card_that_tells_of_settings_that_cannot_be() -> None:
    assert recorded(MixtureConfig, {"held_out": 0.2, "unknown": 1}).held_out == 0.2
    with pytest.raises(UserError, match="card.json is damaged, what it says of the MixtureConfig cannot be"):
        recorded(MixtureConfig, {"clip_length": "long"})
