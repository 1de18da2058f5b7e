"""The small network: it reads what is there, on grids of any size, and does not what is not."""

import numpy as np
import pytest
import torch

from worldmodel.agents.reader import LARGEST, ReaderConfig, determination, make_network, train_reader

CONFIG = ReaderConfig(steps=250, batch_size=32, width=16, lr=3e-3, checks=10)


def dots(count: int, size: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Dark pictures uint8 with one bright dot, and where it is, (x, y) in [0, 1]."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, size, (count, 2))
    pictures = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    pictures[torch.arange(count), :, places[:, 1], places[:, 0]] = 255
    return pictures, places / size


@pytest.mark.parametrize("size", [4, 16])
def test_it_finds_a_dot_and_not_what_is_not_in_the_picture(size: int) -> None:
    pictures, places = dots(1600, size, 0)
    variables = np.concatenate([places, np.random.default_rng(1).normal(size=(1600, 1))], axis=1)
    read = train_reader(pictures, variables, np.repeat(np.arange(80), 20), CONFIG)
    others, truth = dots(400, size, 2)
    found = determination(read(others), np.concatenate([truth, np.random.default_rng(3).normal(size=(400, 1))], axis=1))
    assert found[:2].min() > 0.95 and found[2] < 0.1


def test_faint_channels_do_not_drown_the_others() -> None:
    """The fine components of patches are faint: they are shown as faint as they are."""

    def among_noise(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
        pictures, places = dots(count, 8, seed)
        noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 1e-3, (count, 93, 8, 8))).float()
        return torch.cat([pictures.float() / 255, noise], 1), places

    grids, places = among_noise(160, 0)
    read = train_reader(grids, places, np.repeat(np.arange(16), 10), CONFIG)
    others, truth = among_noise(400, 2)
    assert determination(read(others), truth).min() > 0.9


def test_it_keeps_the_state_that_the_other_episodes_prefer() -> None:
    """Few episodes of noise: whatever is learnt is wrong elsewhere, so that the best is to say next to nothing."""
    rng = np.random.default_rng(0)
    grids, variables = torch.from_numpy(rng.normal(size=(64, 4, 2, 2))), rng.normal(size=(64, 1))
    read = train_reader(grids, variables, np.repeat(np.arange(16), 4), ReaderConfig(steps=300, width=16, checks=60, lr=1e-3))
    fresh = read(torch.from_numpy(rng.normal(size=(500, 4, 2, 2))))
    last = train_reader(grids, variables, np.repeat(np.arange(16), 4), ReaderConfig(steps=300, width=16, checks=1, lr=1e-3))
    assert fresh.std() < 0.7 * last(torch.from_numpy(rng.normal(size=(500, 4, 2, 2)))).std()


def test_the_same_seed_gives_the_same_reader_and_leaves_other_draws_alone() -> None:
    pictures, places = dots(64, 4, 0)
    state = torch.random.get_rng_state()
    once, again = (train_reader(pictures, places, np.repeat(np.arange(8), 8), ReaderConfig(steps=5, width=8)) for _ in range(2))
    assert np.array_equal(once(pictures), again(pictures))
    assert torch.equal(state, torch.random.get_rng_state())
    other = train_reader(pictures, places, np.repeat(np.arange(8), 8), ReaderConfig(steps=5, width=8, seed=1))
    assert not np.array_equal(once(pictures), other(pictures))


@pytest.mark.parametrize(("size", "strided"), [(1, 0), (LARGEST, 0), (LARGEST + 1, 1), (31, 2), (64, 2), (224, 3)])
def test_larger_grids_are_strided_to_the_same_network(size: int, strided: int) -> None:
    network = make_network((3, size, size), 5, 16)
    convolutions = [layer for layer in network if isinstance(layer, torch.nn.Conv2d)]
    assert sum(layer.stride != (1, 1) for layer in convolutions) == strided and len(convolutions) == strided + 2
    assert network[-3].in_features <= 16 * LARGEST**2
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_determination_by_hand() -> None:
    truth = np.array([[0.0, 1.0], [2.0, 3.0]])
    found = np.array([[0.0, 2.0], [2.0, 2.0]])
    np.testing.assert_allclose(determination(found, truth), [1.0, 0.0])


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("lr", 0.0), ("batch_size", 1)])
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"reader.{field} is {value}"):
        ReaderConfig(**{field: value})  # type: ignore[arg-type]
