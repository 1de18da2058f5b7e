import numpy as np
import torch

from worldmodel.codec.probe import spearman
from worldmodel.codec.slow_features import episode_means, slow_feature_projection, spread_columns


def line_walks(seed: int):
    """Walks on a line of 60 places, each seen as a narrow bump over (6, 10) channels, plus an episode's colour."""
    rng = np.random.default_rng(seed)
    places, episode, colors = [], [], []
    for name in range(20):
        place = rng.uniform(0, 59)
        color = rng.normal()
        for _ in range(60):
            places.append(place)
            episode.append(name)
            colors.append(color)
            place = np.clip(place + rng.normal(scale=3), 0, 59)
    place = np.array(places)
    bumps = np.exp(-(((place[:, None] - np.arange(60)) / 3) ** 2)) + 0.2 * np.array(colors)[:, None]
    return torch.from_numpy(bumps).float().reshape(-1, 6, 10), place, np.array(episode)


def test_goal_features_order_distances_where_plain_latents_are_flat():
    latents, _, episode = line_walks(0)
    projection = slow_feature_projection(latents, episode, size=3, ridge=0.05)
    assert projection.shape == (60, 3)
    test, place, _ = line_walks(1)
    mapped = test.flatten(1) @ projection
    first, second = np.random.default_rng(2).integers(0, len(place), size=(2, 3000))
    true = np.abs(place[first] - place[second])
    plain = (test[first] - test[second]).flatten(1).square().mean(1).numpy()
    counted = (mapped[first] - mapped[second]).square().mean(1).numpy()
    assert spearman(counted, true) > 0.8 > 0.5 > spearman(plain, true)


def test_one_step_is_about_one():
    latents, _, episode = line_walks(0)
    mapped = latents.flatten(1) @ slow_feature_projection(latents, episode, size=1, ridge=1e-4)
    steps = torch.diff(mapped, dim=0)[torch.from_numpy(np.diff(episode) == 0)]
    assert 0.8 < steps.square().mean().item() < 1.05


def test_episode_means_keep_their_rows():
    flat = torch.tensor([[1.0], [3.0], [10.0]])
    assert episode_means(flat, np.array([7, 7, 2])).ravel().tolist() == [2.0, 2.0, 10.0]


def test_long_latents_are_thinned_evenly():
    assert spread_columns(5).tolist() == [0, 1, 2, 3, 4]
    columns = spread_columns(100_000)
    assert len(columns) == 2048 and columns[0] == 0 and columns[-1] == 99_999 and columns.unique().numel() == 2048


def test_of_few_frames_it_is_the_same_map():
    """Frames fewer than numbers take another way; the same frames again and again, as other episodes, have the same statistics."""
    latents, _, episode = line_walks(0)
    few = np.flatnonzero(episode < 2)[:80:2]  # 40 frames of 60 numbers, of two episodes
    again = latents[few].repeat(3, 1, 1), np.concatenate([episode[few] + 2 * k for k in range(3)])
    there = slow_feature_projection(latents[few], episode[few], size=4, ridge=0.05)
    usual = slow_feature_projection(*again, size=4, ridge=0.05)
    assert len(few) < 60 <= len(again[1]) and there.abs().amax() > 0.1
    torch.testing.assert_close(there.abs(), usual.abs(), rtol=1e-3, atol=1e-4)
