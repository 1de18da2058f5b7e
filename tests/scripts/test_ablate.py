"""The verb `ablate` on models that train for a few steps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.conftest import TINY_CODEC, TINY_MODEL, Tiny
from worldmodel.scripts import ablate
from worldmodel.scripts.console import run_verb

Ablate = Callable[..., int]


@pytest.fixture
def ablation(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablate:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))

    def run(what: str, *flags: str, preset: tuple[str, ...] = ()) -> int:
        where = ["--data", str(tiny.data), "--out", str(tmp_path / "out"), "--vocab-size", "400"]
        short = ["--dream.clips", "4", "--dream.horizon", "2", "--dream.context", "1", "--batches", "1", "--mixture.action-block", "1"]
        return run_verb(
            "ablate", lambda: ablate.main, [what, *where, *short, *flags, *tiny.mixture, *TINY_CODEC, *TINY_MODEL, *preset]
        )

    return run


def test_a_killed_ablation_goes_on_and_ends_with_a_table_and_sentences(
    ablation: Ablate, tmp_path: Path, killed_third: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = killed_third
    assert ablation("prediction", "--seeds", "0", "1") == 130
    results = tmp_path / "out" / "results.json"
    assert len(json.loads(results.read_text())["runs"]) == 2
    assert ablation("prediction", "--seeds", "0", "1") == 0
    x, v = "rae_modality_x_shift-on", "rae_modality_v_shift-on"
    assert trained == [f"{x}_seed0", f"{v}_seed0", f"{x}_seed1", f"{x}_seed1", f"{v}_seed1"]
    record = json.loads(results.read_text())
    for each in record["runs"]:
        values = each["measures"]
        assert values["state_error_1"] > 0 and values["flow_loss"] > 0 and values["text_bits_per_byte"] > 0
        assert values["action_sensitivity"] > 0 and values["seconds_per_step"] > 0 and values["active_parameters"] > 0
        assert 0 < values["psnr_1"] < 60 and values["codec_psnr"] > 0
    assert record["controls"]["state_error_last of copying"] > 0 and record["controls"]["state_error_1 of true frames"] > 0
    said = capsys.readouterr().out
    assert "2 variants, seeds 0, 1, 2 steps each: 4 of 4 runs to do" in said and "2 of 4 runs to do" in said
    assert "baseline: rae, modality, x, shift on" in said and "prediction v" in said and "copying the last frame" in said
    assert said.count("prediction: x against v") == 2
    assert {found["what"] for found in record["findings"] if found["seeds"]} == {"prediction"}
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| prediction: x against v | flow loss | 0.483 against 0.502 diffusion loss |" in page

    del trained[:]
    assert ablation("shift", "--seeds", "0") == 0
    assert trained == ["rae_modality_x_shift-off_seed0"], "the baseline is shared"
    assert "(one seed, no interval)  inconclusive" in capsys.readouterr().out
    assert [each["command"].split()[:2] for each in json.loads(results.read_text())["made_by"]]


def test_results_are_told_again_without_data_or_training(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((root / "docs" / "results" / "ablation.json").read_text())
    before = json.dumps(record | {"findings": ["sentences of an older version"]})
    (tmp_path / "results.json").write_text(before)
    assert run_verb("ablate", lambda: ablate.main, ["shift", "--out", str(tmp_path), "--report"]) == 0
    said = capsys.readouterr().out
    assert "shift off" in said and "prediction v" not in said, "only what was asked for"
    assert "| prediction v |" in (tmp_path / "results.md").read_text(), "the page has all of it"
    assert (tmp_path / "results.json").read_text() == before, "which a run that goes on beside it may be writing"


def test_mistakes_in_an_ablation(ablation: Ablate, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(what: str, *flags: str, preset: tuple[str, ...] = ()) -> str:
        capfd.readouterr()
        assert ablation(what, *flags, preset=preset) == 2
        return capfd.readouterr().err.splitlines()[-1]

    assert "prediktion" in refused("prediktion")
    assert "has no results yet" in refused("shift", "--report")
    assert "seeds are (1, 1); give numbers of at least 0, each once" in refused("shift", "--seeds", "1", "1")
    assert "held-out episode of 90 of them" in refused("shift", "--dream.horizon", "90")
    whole = ("--codec.vae.map-channels", "4", "--codec.pixels.patch-size", "8", "--codec.pixels.components", "0")
    said = refused("codec", *whole, preset=("--model.stem.tokens", "0"))
    assert "codec pixels: the model's width 48 is below the latents' 192 channels" in said
