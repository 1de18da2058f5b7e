"""What lies in run folders and is damaged, or was written by something else: one sentence that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.refusals import Refused
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.studies.held_out_batches import recorded
from worldmodel.studies.isoflop import read_points

POINT = {"kind": "dense", "size": 1.0, "budget": 1e9, "width": 8, "depth": 1, "total": 9, "active": 5, "steps": 3, "tokens": 70}
MEASURED = {"point": POINT, "losses": {"language": 1.5, "vision": 1}, "step_seconds": 1, "seconds": None}


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
