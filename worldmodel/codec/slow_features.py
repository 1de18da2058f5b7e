"""How far is it from one frame to another, in steps? A linear map of the latents, computed in closed form.

Plain distance between latents saturates: once two discs touch different patches, farther is no longer
farther, and a planner sees a flat landscape. Consecutive frames tell more: whitening the differences
between them makes a distance of 1 mean one step, and keeping only the directions that vary most within
episodes keeps what moves slowly and far (slow feature analysis, Wiskott and Sejnowski 2002). No true state
is used, and what is constant in an episode has no direction.

Axes: m frames, f flattened latents n * c, g goal features.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

LARGEST = 2048
"""Of longer latents this many entries, evenly spread, are used: the work grows with the cube."""


def spread_columns(total: int) -> Tensor:
    """Return the indices of at most `LARGEST` of `total` entries, evenly spread."""
    return torch.linspace(0, total - 1, min(total, LARGEST), dtype=torch.float64).round().long()


def slow_feature_projection(latents: Tensor, episode: np.ndarray, size: int, ridge: float) -> Tensor:
    """Compute the linear map under which squared Euclidean distance counts steps.

    Args:
        latents: (m, n, c) of whole episodes, in time order.
        episode: (m,) episode of each frame.
        size: number of goal features to keep, at most n * c.
        ridge: noise that the map must stand, as a share of the latents' mean variance within episodes; keeps
            directions with hardly any variance from being blown up.

    Returns:
        (n * c, size) float32 on the latents' device, slowest direction first.
    """
    everything = rearrange(latents, "m n c -> m (n c)").cpu()
    columns = spread_columns(everything.shape[1])
    flat = everything[:, columns].double()
    within = flat - episode_means(flat, episode)
    noise = max(ridge * within.square().mean().item(), 1e-8)
    basis = torch.eye(len(columns), dtype=torch.float64)
    if len(within) < len(columns):  # nothing moves outside of the few directions that frames differ in: the same map for less work
        basis = torch.linalg.svd(within, full_matrices=False)[2].T
        within = within @ basis
    steps = torch.diff(within, dim=0)[torch.from_numpy(np.diff(episode) == 0)]
    step_covariance = steps.T @ steps / max(1, len(steps))
    covariance = within.T @ within / len(within)
    root = torch.linalg.cholesky(step_covariance + noise * torch.eye(len(covariance), dtype=torch.float64))
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)  # covariance in units of one step
    _, directions = torch.linalg.eigh((whitened + whitened.T) / 2)  # rising
    kept = basis @ torch.linalg.solve_triangular(root.T, directions.flip(1)[:, :size], upper=True)
    projection = torch.zeros(everything.shape[1], size)
    projection[columns, : kept.shape[1]] = kept.float()
    return projection.to(latents.device)


def episode_means(flat: Tensor, episode: np.ndarray) -> Tensor:
    """Replace every row of (m, f) by the mean of its episode."""
    _, inverse, counts = np.unique(episode, return_inverse=True, return_counts=True)
    group = torch.from_numpy(inverse)
    sums = flat.new_zeros(len(counts), flat.shape[1]).index_add(0, group, flat)
    return (sums / torch.from_numpy(counts)[:, None])[group]
