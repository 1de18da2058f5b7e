import dataclasses

import numpy as np
import pytest
import torch

from worldmodel.codec.data import (
    CodecData,
    FrameBatchSampler,
    LatentSampler,
    extra_count,
    mean_picture,
    subset,
    whole_episodes,
)
from worldmodel.codec.frames import frames_to_uint8
from worldmodel.errors import UserError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def numbered_frames(count: int = 40, length: int = 10) -> CodecData:
    """Frame i is filled with the number i; episodes of 10."""
    frames = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()
    episode = np.arange(count) // length
    return CodecData(
        frames,
        np.zeros((count, 1)),
        episode,
        np.flatnonzero(episode > 0),
        np.flatnonzero(episode == 0),
        extra=np.full((3, 4, 4, 3), 200, np.uint8),
    )


def numbers(frames: torch.Tensor) -> np.ndarray:
    return frames_to_uint8(frames)[:, 0, 0, 0].astype(int)


def test_neighbours_are_near_and_of_the_same_episode():
    sampler = FrameBatchSampler(numbered_frames(), 64, 0.0, neighbour_steps=3)
    rng, distances = generator(), []
    for _ in range(20):
        batch = sampler.draw(rng)
        first, second = numbers(batch.frames), numbers(batch.neighbours)
        assert first.min() >= 10  # training episodes only
        assert np.array_equal(first // 10, second // 10)
        distances.append(np.abs(first - second))
    assert set(np.concatenate(distances)) == {0, 1, 2, 3}


def test_draws_depend_on_the_generator_alone_and_hold_their_share_of_extras():
    sampler = FrameBatchSampler(numbered_frames(), 8, 0.25, neighbour_steps=1)
    first, again = sampler.draw(generator()), sampler.draw(generator())
    assert torch.equal(first.frames, again.frames) and torch.equal(first.neighbours, again.neighbours)
    assert (numbers(first.frames) == 200).sum() == 2
    assert torch.equal(first.frames[-2:], first.neighbours[-2:])
    assert first.scale.shape == (8, 2) and not torch.equal(first.scale[0], first.scale[-1])


@pytest.mark.parametrize("latent_bytes", [4, 2**31])  # encoded ahead, and when they are drawn
def test_latents_stay_with_their_frames(latent_bytes):
    data = numbered_frames()
    sizes = []

    def encode(frames):
        sizes.append(len(frames))
        return torch.from_numpy(frames[:, :1, :1, 0].astype(np.float32))

    sampler = LatentSampler([(data.frames, 6), (data.extra, 2)], encode, latent_bytes)
    latents, frames, scale = sampler.draw(generator())
    assert np.array_equal(numbers(frames), latents[:, 0, 0].numpy().astype(int))
    assert len(scale) == 8 and sizes == ([40, 3] if latent_bytes == 4 else [6, 2])


def test_mean_picture_and_what_it_costs():
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    frames[:2] = 255
    mean, scale = mean_picture(frames)
    assert torch.equal(mean, torch.full((3, 2, 2), 0.5))
    assert scale.tolist() == pytest.approx([0.5, 0.25])
    assert mean_picture(frames[:2])[1].tolist() == pytest.approx([1e-3, 1e-5])


def test_subsets_are_seeded_and_sorted():
    index = np.arange(100, 200)
    chosen = subset(index, 10, 0)
    assert len(set(chosen)) == 10 and np.array_equal(chosen, np.sort(chosen)) and set(chosen) <= set(index)
    assert np.array_equal(chosen, subset(index, 10, 0)) and not np.array_equal(chosen, subset(index, 10, 1))
    assert np.array_equal(subset(index, 1000, 0), index)


@pytest.mark.parametrize(("count", "expected"), [(25, 2), (1, 1), (1000, 3)])
def test_whole_episodes_are_whole(count, expected):
    data = numbered_frames()
    chosen = whole_episodes(data.train, data.episode, count, 0)
    names, lengths = np.unique(data.episode[chosen], return_counts=True)
    assert len(names) == expected and (lengths == 10).all() and 0 not in names


def test_share_of_extras():
    data = numbered_frames()
    assert [extra_count(data, 10, share) for share in (0.0, 0.01, 0.5)] == [0, 1, 5]
    assert extra_count(dataclasses.replace(data, extra=None), 10, 0.5) == 0


def test_fingerprint_sees_other_data_and_other_splits():
    data = numbered_frames()
    changed = data.frames.copy()
    changed[0] += 1
    others = [
        dataclasses.replace(data, frames=changed),
        dataclasses.replace(data, train=data.train[:-1]),
        dataclasses.replace(data, extra=None),
    ]
    prints = [one.fingerprint() for one in (data, numbered_frames(), *others)]
    assert prints[0] == prints[1] and len(set(prints)) == 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"features": np.zeros((3, 1))}, "3 rows"),
        ({"train": np.array([], dtype=int)}, "train split"),
        ({"validation": np.array([99])}, "validation split"),
        ({"validation": np.array([0, 15])}, "episode 1"),
    ],
)
def test_splits_that_do_not_fit_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        dataclasses.replace(numbered_frames(), **wrong)


def test_frames_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"\(40, 4, 4, 3\)"):
        numbered_frames().check(8)
    numbered_frames().check(4)
