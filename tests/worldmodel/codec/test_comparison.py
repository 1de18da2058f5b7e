from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worldmodel.codec.test_rae import pretrained_encoder
from worldmodel.codec.comparison import check_size, compare_codec, control_errors, reconstruction_columns
from worldmodel.codec.pixels import Pixels, PixelsConfig
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.errors import UserError


@pytest.fixture
def codec(square_world) -> Pixels:
    codec = Pixels(PixelsConfig(16, 4, 0, 8))
    raw = codec.encode_frames(square_world.frames)
    codec.set_statistics(raw.mean(dim=0), raw.var(dim=0))
    codec.set_goal_map(torch.randn(4 * 48, 6, generator=torch.Generator().manual_seed(0)))
    return codec


def test_a_codec_is_measured_on_held_out_episodes(codec, square_world):
    row = compare_codec(codec, square_world, 1000, 0)
    again = compare_codec(codec, square_world, 1000, 0)
    assert row["probe"] == again["probe"] and row["reconstruction"] == again["reconstruction"]
    assert row["probe"]["r2"] > 0.6 and row["probe"]["error"] < 0.5 * control_errors(square_world)["error"]
    assert row["encode_frames_per_second"] > 0 and (row["num_tokens"], row["channels"]) == (4, 48)
    few = compare_codec(codec, square_world, 100, 0)["probe"]
    assert few != row["probe"]  # fitted on fewer frames


def test_who_knows_nothing_explains_nothing(square_world):
    control = control_errors(square_world)
    truth = square_world.features[square_world.validation]
    assert -1 < control["r2"] <= 0 and control["error"] >= truth.std(axis=0).mean()


def test_the_picture_has_truth_first_and_the_mean_frame_last(codec, square_world):
    columns = reconstruction_columns([codec], square_world, 5, 0)
    assert len(columns) == 3 and all(column.shape == (5, 16, 16, 3) and column.dtype == np.uint8 for column in columns)
    held_out = {frame.tobytes() for frame in square_world.frames[square_world.validation]}
    assert all(frame.tobytes() in held_out for frame in columns[0])
    assert (columns[2] == columns[2][0]).all()
    errors = [np.abs(column.astype(int) - columns[0]).mean() for column in columns[1:]]
    assert errors[0] < errors[1]


def test_codecs_of_another_frame_size_are_refused(codec, square_world):
    check_size(Path("a/codec"), codec, square_world)
    with pytest.raises(UserError, match="a/codec encodes frames of 64 pixels, but the data's have 16"):
        check_size(Path("a/codec"), Pixels(PixelsConfig()), square_world)


def test_encoders_are_named(codec):
    encoder = pretrained_encoder(32)
    assert RAE(RAEConfig(encoder.config), encoder).encoder_name == "efficientnet-lite0"
    assert RAE(RAEConfig()).encoder_name == "self-supervised" and codec.encoder_name == "patches"
