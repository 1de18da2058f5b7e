"""What do latents know? A linear probe of the true state, and latent distance compared with true distance.

The probe is a ridge regression on standardized latents. Ridge is not optional: layer norm makes latents
rank-deficient, and plain least squares then fits noise. Its strength is chosen on episodes apart from those
that are reported on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.codec.slow_features import spread_columns

STRENGTHS = tuple(10.0**k for k in range(-6, 3))


@dataclass(frozen=True)
class LinearProbe:
    """features = (latents - mean) / std @ weights + bias, on flattened latents."""

    mean: Tensor
    std: Tensor
    weights: Tensor
    bias: Tensor
    strength: float
    """Ridge strength, relative to the number of frames."""

    def predict(self, latents: Tensor) -> np.ndarray:
        """Predict (M, f) float64 features from (M, ...) latents."""
        flat = flatten_latents(latents)
        return (((flat - self.mean) / self.std) @ self.weights + self.bias).numpy()


def flatten_latents(latents: Tensor) -> Tensor:
    """Flatten (M, ...) to (M, F) float64 on the CPU; of very long latents evenly spread entries."""
    flat = latents.detach().cpu().flatten(1)
    return flat[:, spread_columns(flat.shape[1])].double()


def fit_probe(latents: Tensor, features: np.ndarray, choose_latents: Tensor, choose_features: np.ndarray) -> LinearProbe:
    """Fit a ridge regression for each strength and keep the one with the smallest error on the second set.

    Args:
        latents: (M, ...) latents to fit on; flattened.
        features: (M, f) true variables.
        choose_latents: (K, ...) latents that choose the strength; of other episodes.
        choose_features: (K, f).

    Returns:
        The probe with the smallest mean squared error on the second set.
    """
    flat = flatten_latents(latents)
    target = torch.from_numpy(np.asarray(features, dtype=np.float64))
    mean, std = flat.mean(dim=0), flat.std(dim=0).clamp_min(1e-6)
    flat, bias = (flat - mean) / std, target.mean(dim=0)
    values, vectors = principal_directions(flat)
    moment = vectors.T @ (flat.T @ (target - bias) / len(flat))
    probes = [
        LinearProbe(mean, std, vectors @ (moment / (values.clamp_min(0) + strength)[:, None]), bias, strength)
        for strength in STRENGTHS
    ]
    errors = [np.square(probe.predict(choose_latents) - choose_features).mean() for probe in probes]
    return probes[int(np.argmin(errors))]


def principal_directions(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (r,) and eigenvectors (F, r) of the second moment of rows (M, F): all, or the M that may differ from 0."""
    if len(flat) < flat.shape[1]:
        _, stretched, directions = torch.linalg.svd(flat, full_matrices=False)
        return stretched.square() / len(flat), directions.T
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    return values, vectors


def probe_report(probe: LinearProbe, latents: Tensor, features: np.ndarray, names: tuple[str, ...]) -> dict[str, object]:
    """Report the held-out quality of a probe.

    Args:
        probe: fitted on other episodes.
        latents: (M, ...) held-out latents.
        features: (M, f) true variables.
        names: f names.

    Returns:
        `r2`, `error` (root mean squared, in feature units) and `error_of_range` (the error over the
        feature's range), each averaged over the features that vary; the chosen `strength`; and `features`:
        the same by name.
    """
    residual = np.square(probe.predict(latents) - features).mean(axis=0)
    variance, span = features.var(axis=0), np.ptp(features, axis=0)
    rows = {
        name: {
            "r2": float(1 - residual[i] / variance[i]),
            "error": float(np.sqrt(residual[i])),
            "error_of_range": float(np.sqrt(residual[i]) / span[i]),
        }
        for i, name in enumerate(names)
        if variance[i] > 1e-8
    }
    means = {key: mean_of([row[key] for row in rows.values()]) for key in ("r2", "error", "error_of_range")}
    return {**means, "strength": probe.strength, "features": rows}


def mean_of(values: list[float]) -> float:
    """Return the mean, or 0 for no values (nothing varied, so nothing could be told apart)."""
    return float(np.mean(values)) if values else 0.0


def goal_distance_report(vectors: Tensor, features: np.ndarray, pairs: int, seed: int) -> dict[str, float]:
    """Measure how well the distance of vectors stands in for true distance, as a planner with a goal frame uses it.

    Args:
        vectors: (M, ...) held-out latents or goal features.
        features: (M, f) true variables.
        pairs: number of random pairs of frames.
        seed: of the pairs.

    Returns:
        `spearman`: rank correlation of mean squared distance and Euclidean feature distance over random
        pairs; `spearman_near`: the same over the third of the pairs that is truly closest.
    """
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, len(features), size=(2, pairs))
    distance = (vectors[first] - vectors[second]).flatten(1).square().mean(dim=1).double().cpu().numpy()
    true = np.linalg.norm(features[first].astype(np.float64) - features[second], axis=1)
    near = true <= np.quantile(true, 1 / 3)
    return {"spearman": spearman(distance, true), "spearman_near": spearman(distance[near], true[near])}


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the rank correlation of two vectors; ties share their mean rank; 0 when one of them is constant."""
    from scipy.stats import spearmanr  # slow to import, and few need it

    constant = min(len(np.unique(first)), len(np.unique(second))) < 2
    return 0.0 if constant else float(spearmanr(first, second).statistic)
