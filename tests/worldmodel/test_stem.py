"""The stem's attention to places: what it adds up to, where it can look, and that painting depends on it at every size of grid."""

import math

import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.stem import WAVES, Beside, Stem, StemConfig, waves

CONFIG = StemConfig(tokens=2, references=1, width=8, widest=16, looks=3)


def test_keys_of_places_are_waves_of_rows_then_of_columns() -> None:
    keys = waves((4, 8))
    assert keys.shape == (4 * WAVES, 32)
    row, column = 2, 5
    y, x = (row + 0.5) / 4 * 2 - 1, (column + 0.5) / 8 * 2 - 1
    found = keys[:, row * 8 + column].tolist()
    assert found[0] == pytest.approx(math.sin(math.pi / 2 * y), abs=1e-5)
    assert found[WAVES] == pytest.approx(math.cos(math.pi / 2 * y), abs=1e-5)
    assert found[2 * WAVES + 2] == pytest.approx(math.sin(3 * math.pi / 2 * x), abs=1e-5)
    assert found[4 * WAVES - 1] == pytest.approx(math.cos(WAVES * math.pi / 2 * x), abs=1e-5)


def test_no_two_places_have_the_same_keys() -> None:
    keys = waves((16, 16))
    apart = torch.cdist(keys.T, keys.T) + 1e3 * torch.eye(256)
    assert apart.min() > 0.5


def test_attention_to_places_has_one_size_however_it_is_spread() -> None:
    stem = Stem(CONFIG, (8, 8), 4, 16)
    maps = stem.attention(torch.randn(5, 32))
    assert maps.shape == (5, 3, 8, 8)
    torch.testing.assert_close(maps.sum((2, 3)), torch.full((5, 3), 8.0))


def test_attention_follows_what_it_is_asked_for() -> None:
    stem = Stem(CONFIG, (8, 8), 4, 16)
    assert stem.look is not None
    with torch.no_grad():
        stem.look.weight.zero_()
        stem.look.bias.copy_(4 * stem.places[:, [3, 42, 63]].T.flatten())
    maps = stem.attention(torch.zeros(1, 32))
    assert maps.flatten(2).argmax(-1).tolist() == [[3, 42, 63]]


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_what_is_painted_depends_on_where_is_looked(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stem = Stem(CONFIG, grid, 4, 16)
    z = torch.randn(2, grid[0] * grid[1], 4)
    tokens, maps = stem(z, Beside.none(z, 1))
    stem.paint(tokens, maps).square().sum().backward()
    for name, weight in stem.named_parameters():
        if name != "missing":
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_a_stem_without_looks_has_no_weights_for_them() -> None:
    stem = Stem(StemConfig(tokens=2, references=1, width=8, widest=16, looks=0), (8, 8), 4, 16)
    assert not any(name.startswith(("look", "mark", "refine", "places")) for name, _ in stem.named_parameters())
    z = torch.randn(1, 64, 4)
    tokens, maps = stem(z, Beside.none(z, 1))
    assert stem.paint(tokens, maps).shape == (1, 64, 4)


def test_negative_looks_are_refused() -> None:
    with pytest.raises(UserError, match="looks is -1"):
        StemConfig(tokens=2, looks=-1)
