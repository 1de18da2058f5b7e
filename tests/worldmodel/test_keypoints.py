"""Keypoints: where the middle of a place is, which point a map gives, and what is told of several frames."""

import pytest
import torch
from torch import nn

from worldmodel.errors import UserError
from worldmodel.keypoints import Keypoints, middles
from worldmodel.stem import Beside, Stem, StemConfig


def keypoints(points: int = 1, frames: int = 3, grid: tuple[int, int] = (8, 8), channels: int = 2) -> Keypoints:
    torch.manual_seed(0)
    return Keypoints(points, frames, grid, channels, told=2 * points * frames)


def blob(grid: tuple[int, int], row: int, column: int, height: float = 100.0) -> torch.Tensor:
    maps = torch.zeros(1, 1, *grid)
    maps[0, 0, row, column] = height
    return maps


def test_middles_are_rows_then_columns_in_quarters_of_the_frame() -> None:
    found = middles((4, 8))
    assert found.shape == (32, 2)
    assert found[0].tolist() == [-1.5, -1.75] and found[-1].tolist() == [1.5, 1.75]
    assert found[8 + 3].tolist() == [-0.5, -0.25]
    torch.testing.assert_close(found.mean(0), torch.zeros(2))


def test_a_high_place_is_the_point_and_an_even_map_has_its_point_in_the_middle() -> None:
    found = keypoints()
    with torch.no_grad():
        found.sharpness.fill_(4.0)
    point = found.points(blob((8, 8), 1, 6))
    torch.testing.assert_close(point[0, 0], torch.tensor([-1.25, 1.25]), atol=0.01, rtol=0)
    torch.testing.assert_close(found.points(torch.full((1, 1, 8, 8), 3.0))[0, 0], torch.zeros(2))


def test_how_strong_a_map_is_does_not_matter_and_how_sharp_does() -> None:
    found, maps = keypoints(), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(found.points(maps), found.points(7 * maps))
    before = found.points(maps).abs().sum()
    with torch.no_grad():
        found.sharpness.fill_(3.0)
    assert found.points(maps).abs().sum() > before


def test_told_are_the_newest_points_and_the_ways_to_those_before() -> None:
    found = keypoints()
    found.see = nn.Identity()  # type: ignore[assignment]
    found.find = nn.Conv2d(2, 1, 1, bias=False)
    found.tell = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        found.sharpness.fill_(4.0)
        found.find.weight.copy_(torch.tensor([1.0, 0.0])[None, :, None, None])
    frames = torch.zeros(1, 3, 2, 8, 8)
    for s, (row, column) in enumerate([(2, 3), (5, 3), (5, 7)]):
        frames[0, s, 0, row, column] = 100.0
    told = found(frames)[0].tolist()
    assert told == pytest.approx([-0.75, -0.25, 1.5, 0.0, 0.0, 2.0], abs=0.02)


def test_a_stem_tells_where_things_are_in_all_that_a_frame_is_seen_beside() -> None:
    torch.manual_seed(0)
    stem = Stem(StemConfig(tokens=2, references=1, width=8, widest=16, keypoints=3), (8, 8), 4, 16)
    nn.init.zeros_(stem.gather.weight)
    z, other = torch.randn(2, 64, 4), torch.randn(2, 1, 64, 4)
    one, _ = stem(z, Beside(other, torch.ones(2, 1, dtype=torch.bool)))
    two, _ = stem(z, Beside(other.flip(0), torch.ones(2, 1, dtype=torch.bool)))
    assert (one - two).abs().max() > 1e-3, "the frame before it"
    assert (one - stem(z.flip(0), Beside(other, torch.ones(2, 1, dtype=torch.bool)))[0]).abs().max() > 1e-3, "the frame itself"


def test_no_frame_at_all_tells_nothing() -> None:
    """A batch of text alone."""
    assert keypoints()(torch.zeros(0, 3, 2, 8, 8)).shape == (0, 6)


def test_a_stem_without_keypoints_has_no_weights_for_them() -> None:
    stem = Stem(StemConfig(tokens=2, references=1, width=8, widest=16, keypoints=0), (8, 8), 4, 16)
    assert stem.keypoints is None
    z = torch.randn(1, 64, 4)
    assert stem(z, Beside.none(z, 1))[0].shape == (1, 2, 16)


def test_fewer_than_no_keypoints_are_refused() -> None:
    with pytest.raises(UserError, match="keypoints is -1"):
        StemConfig(tokens=2, keypoints=-1)
