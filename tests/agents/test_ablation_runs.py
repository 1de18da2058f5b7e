"""The runs of an ablation."""

from pathlib import Path
from typing import get_args

import pytest

from worldmodel.agents import ablation_runs
from worldmodel.codec.config import CodecConfig
from worldmodel.codec.kinds import CodecKind


def test_a_pretrained_encoder_is_for_the_kind_rae_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CodecConfig] = []
    monkeypatch.setattr(ablation_runs, "codec_data", lambda data: data)
    monkeypatch.setattr(ablation_runs, "train_codec", lambda config, *rest: asked.append(config))
    config = ablation_runs.AblationConfig(codec=CodecConfig(encoder_name="efficientnet-lite0"))
    for kind in get_args(CodecKind):
        ablation_runs.make_codec(config, None, kind, tmp_path)  # type: ignore[arg-type]
    assert [(each.kind, each.encoder_name) for each in asked] == [("rae", "efficientnet-lite0"), ("vae", ""), ("pixels", "")]
