import numpy as np
import pytest
import torch

from worldmodel.codec.frames import check_frames, frames_to_float, frames_to_uint8, psnr
from worldmodel.errors import UserError


def test_every_level_survives_the_way_to_float_and_back():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 8, 16, 3)
    floats = frames_to_float(frames)
    assert floats.shape == (2, 3, 8, 16) and floats.min() == 0 and floats.max() == 1
    assert np.array_equal(frames_to_uint8(floats), frames)


def test_channels_move_and_leading_axes_stay():
    frames = np.zeros((2, 5, 4, 4, 3), dtype=np.uint8)
    frames[1, 2, 3, 0, 2] = 255
    floats = frames_to_float(torch.from_numpy(frames))
    assert floats.shape == (2, 5, 3, 4, 4) and floats[1, 2, 2, 3, 0] == 1 and floats.sum() == 1


def test_values_outside_the_range_are_clamped():
    assert frames_to_uint8(torch.tensor([-1.0, 2.0, 0.5]).reshape(3, 1, 1)).ravel().tolist() == [0, 255, 128]


def test_psnr_of_a_known_error():
    assert psnr(torch.zeros(10), torch.full((10,), 0.1)) == pytest.approx(20.0, abs=1e-4)
    assert psnr(torch.ones(3), torch.ones(3)) == pytest.approx(100.0)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 16, 16, 3), np.float32), np.zeros((16, 16), np.uint8)],
)
def test_frames_of_another_size_or_type_are_refused(frames):
    with pytest.raises(UserError, match="16, 16, 3"):
        check_frames(frames, 16)
