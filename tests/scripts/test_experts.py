"""`worldmodel experts`: table, figure and JSON from a checkpoint, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import sentence
from worldmodel.checkpoint import read_checkpoint, save_pretrained
from worldmodel.model import WorldModel
from worldmodel.moe import MoEConfig
from worldmodel.scripts import experts
from worldmodel.scripts.console import run_verb

FEW = "--specialisation.batches 3 --specialisation.rows 4 --specialisation.resamples 20".split()


def run(*flags: object) -> int:
    return run_verb("experts", lambda: experts.main, [*map(str, flags), *FEW])


@pytest.fixture(scope="module")
def mixture(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's checkpoint, but of a model with experts."""
    trained = read_checkpoint(tiny.run)
    config = trained.model.config
    trunk = replace(config.trunk, depth=2, feed_forward="moe", moe=MoEConfig(8, 2, 16))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("experts") / "moe"
    save_pretrained(folder, WorldModel(replace(config, trunk=trunk)), trained.tokenizer, trained.codec, trained.card)
    return folder


def test_a_checkpoints_experts_are_measured_on_held_out_data(
    tiny: Tiny, mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", mixture, "--data", tiny.data, "--out", tmp_path / "one") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tokens: ") and "understanding" in said[0]
    assert said[1].split()[:5] == ["layer", "text", "multimodal", "vision", "unused"]
    assert [line.split()[0] for line in said[2:4]] == ["0", "1"]
    assert (tmp_path / "one" / "experts.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "one" / "experts.json").read_text())
    assert result["tokens"]["vision"] >= result["tokens"]["generation"] > 0
    assert [layer["layer"] for layer in result["layers"]] == [0, 1] and len(result["fresh_router"]) == 2
    for layer in result["layers"]:
        assert layer["text"] + layer["multimodal"] + layer["vision"] + layer["unused"] == 8 == len(layer["index"])
        assert sum(layer["vision_rate"]) == pytest.approx(1)
    assert run("--checkpoint", mixture, "--data", tiny.data, "--out", tmp_path / "two") == 0
    for name in ("experts.json", "experts.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_dense_checkpoint_is_refused(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    status = run("--checkpoint", tiny.run, "--data", tiny.data, "--out", tmp_path / "out")
    said = sentence("experts", status, *capfd.readouterr())
    assert f"{tiny.run} has no experts, its feed_forward is 'modality'" in said and "--preset base" in said
    assert not (tmp_path / "out").exists()


def test_data_are_needed(mixture: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    status = run("--checkpoint", mixture)
    assert "no episode file was given; give one with --data" in sentence("experts", status, *capfd.readouterr())
