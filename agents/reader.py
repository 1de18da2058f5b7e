"""A small convolutional network that predicts true variables from pictures or from the tokens of a codec: what can be read from them.

The same network for both, but for strided convolutions in front where there are more than `LARGEST` rows or columns, trained for as
many steps on the same frames of training episodes; some of these episodes choose the best of its states.

Axes: m frames, c channels, h w rows and columns, f variables.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.codec.quality import choosing_frames
from worldmodel.errors import UserError

LARGEST = 8
"""Rows and columns that are read without striding."""


@dataclass(frozen=True)
class ReaderConfig:
    """The network and its training."""

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 64
    """Frames per step."""
    width: int = 64
    """Channels."""
    lr: float = 2e-3
    """Learning rate at the beginning; it falls to zero."""
    checks: int = 12
    """Times that the network is tried on the episodes that choose."""
    frames: int = 16384
    """About how many training frames are used, of whole episodes."""
    seed: int = 0
    """Of weights and batches."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "lr", "checks", "frames"):
            if getattr(self, name) <= 0:
                raise UserError(f"reader.{name} is {getattr(self, name)}, must be positive")
        if self.batch_size < 2:
            raise UserError(f"reader.batch_size is {self.batch_size}, must be at least 2")


def make_network(shape: tuple[int, int, int], variables: int, width: int) -> nn.Sequential:
    """Build a network from grids (m, c, h, w) of a shape (c, h, w) to variables (m, f)."""
    channels, rows, columns = shape
    layers: list[nn.Module] = []
    while max(rows, columns) > LARGEST:
        stride = 4 if max(rows, columns) >= 4 * LARGEST else 2  # pictures lose no time on single pixels
        layers += [nn.Conv2d(channels, width, stride + 1, stride, stride // 2), nn.BatchNorm2d(width), nn.SiLU()]
        channels, rows, columns = width, -(-rows // stride), -(-columns // stride)
    for _ in range(2):
        layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.SiLU()]
        channels = width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(width * rows * columns, 2 * width), nn.SiLU(), nn.Linear(2 * width, variables)
    )


def train_reader(grids: Tensor, variables: np.ndarray, episode: np.ndarray, config: ReaderConfig) -> Callable[[Tensor], np.ndarray]:
    """Train a function that reads variables (k, f) off grids (k, c, h, w).

    Args:
        grids: (m, c, h, w) of whole training episodes, of any type of number.
        variables: (m, f) true ones.
        episode: (m,) episode of each frame; every eighth chooses when to stop.
        config: steps and sizes.
    """
    mean, std = variables.mean(axis=0), variables.std(axis=0).clip(1e-6)
    some = grids[:: max(1, len(grids) // 1024)].float()
    center = some.mean((0, 2, 3), keepdim=True)
    scale = (some - center).std().clamp_min(1e-6)  # one: fine components of patches, each stretched to the same size, drown the others
    target = torch.from_numpy((variables - mean) / std).float()
    choosing = torch.from_numpy(choosing_frames(episode))
    fit, choose = (~choosing).nonzero()[:, 0], choosing.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = make_network((grids.shape[1], grids.shape[2], grids.shape[3]), variables.shape[1], config.width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-2)

    def predict(given: Tensor) -> Tensor:
        return network((given.float() - center) / scale)

    @torch.no_grad()
    def read(given: Tensor) -> Tensor:
        network.eval()
        return torch.cat([predict(part) for part in given.cpu().split(512)])

    best, lowest = copy.deepcopy(network.state_dict()), float("inf")
    every = max(1, config.steps // config.checks)
    for step in range(1, config.steps + 1):
        rows = fit[torch.randint(len(fit), (config.batch_size,), generator=generator)]
        optimizer.param_groups[0]["lr"] = config.lr * (1 - (step - 1) / config.steps)
        network.train()
        optimizer.zero_grad()
        F.mse_loss(predict(grids[rows]), target[rows]).backward()
        optimizer.step()
        if step % every == 0 or step == config.steps:
            error = F.mse_loss(read(grids[choose]), target[choose]).item()
            if error < lowest:
                best, lowest = copy.deepcopy(network.state_dict()), error
    network.load_state_dict(best)
    return lambda given: read(given).double().numpy() * std + mean


def determination(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute R^2 (f,) of predictions (m, f): 1 is perfect, 0 is as good as the mean, below 0 is worse."""
    return 1 - np.square(found - truth).mean(axis=0) / truth.var(axis=0).clip(1e-12)
