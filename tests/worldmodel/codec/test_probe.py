import numpy as np
import pytest
import torch

from worldmodel.codec.probe import fit_probe, goal_distance_report, principal_directions, probe_report, spearman


def linear_world(noise: float, seed: int = 0):
    """Latents (600, 4, 8) of rank 3 plus noise, and the 3 variables behind them."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, size=(600, 3))
    latents = features @ np.random.default_rng(9).normal(size=(3, 32)) + noise * rng.normal(size=(600, 32))
    return torch.from_numpy(latents).float().reshape(600, 4, 8), features


def report_of(latents, features):
    probe = fit_probe(latents[:400], features[:400], latents[400:500], features[400:500])
    return probe, probe_report(probe, latents[500:], features[500:], ("x", "y", "z"))


def test_what_is_linear_is_found_even_in_rank_deficient_latents():
    _, report = report_of(*linear_world(noise=0.0))
    assert report["r2"] > 0.9999 and report["error"] < 1e-3
    assert set(report["features"]) == {"x", "y", "z"}


def test_of_few_frames_only_the_directions_that_they_differ_in_are_computed():
    few = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 32)))
    values, directions = principal_directions(few)
    whole, others = principal_directions(few.repeat(4, 1))
    assert directions.shape == (32, 10) and others.shape == (32, 32)
    torch.testing.assert_close(values, whole[-10:].flip(0))
    torch.testing.assert_close(directions * values @ directions.T, few.T @ few / 10)
    torch.testing.assert_close(others * whole @ others.T, few.T @ few / 10)


def test_what_is_not_there_is_not_found():
    latents, _ = linear_world(noise=0.0, seed=1)
    probe, report = report_of(latents, linear_world(noise=0.0, seed=2)[1])
    assert report["r2"] < 0.1
    assert probe.strength >= 1.0  # noise asks for a strong ridge


def test_error_is_in_feature_units_and_constants_are_left_out():
    latents, features = linear_world(noise=0.3)
    _, small = report_of(latents, features)
    features = features * np.array([10.0, 10.0, 0.0]) + 5
    _, large = report_of(latents, features)
    assert set(large["features"]) == {"x", "y"}
    assert large["features"]["x"]["error"] == pytest.approx(10 * small["features"]["x"]["error"], rel=0.1)
    assert large["features"]["x"]["error_of_range"] < 0.1


def test_ranks_and_their_correlation():
    # ranks 3, 0.5, 0.5, 2 against 3, 0, 1, 2: covariance 4.5, variances 4.5 and 5
    assert spearman(np.array([30.0, 10.0, 10.0, 20.0]), np.array([9.0, 1.0, 2.0, 5.0])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    x = np.linspace(0, 5, 40)
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)
    assert spearman(x, np.ones(40)) == 0.0
    # ranks 0,1,2,3 against 1,0,3,2: 1 - 6 * 4 / (4 * 15)
    assert spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)


def test_goal_distance_tells_a_faithful_latent_from_a_useless_one():
    features = np.random.default_rng(0).uniform(-1, 1, size=(300, 2))
    faithful = goal_distance_report(torch.from_numpy(features), features, 2000, 0)
    useless = goal_distance_report(torch.rand(300, 2), features, 2000, 0)
    assert faithful["spearman"] == pytest.approx(1.0) and faithful["spearman_near"] == pytest.approx(1.0)
    assert abs(useless["spearman"]) < 0.15
