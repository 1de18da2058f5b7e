"""Where in a frame things are: the centers of learned attention maps.

The spatial softmax of Levine et al. 2016 (arXiv 1504.00702, section 5.1). A convolution sees every frame by itself and gives some
maps; each is made a distribution over places, and its mean is a point. Where something is, and how far from where it is to be, are
then a few numbers from the first step of training on. What they gave, and at which rates: docs/ideas.md.

Axes: f scenes, s frames of each, c channels, k points, rows y and columns x.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.convolution import Convolution

WIDTH = 32
"""Channels of the maps that points are found in."""


class Keypoints(nn.Module):
    """Points in each of several frames of a scene, and how far apart they are from one frame to the next.

    Args:
        points: k of every frame.
        frames: s.
        grid: y and x.
        channels: c.
        told: numbers that are made of all points of a scene.
    """

    middles: Tensor

    def __init__(self, points: int, frames: int, grid: tuple[int, int], channels: int, told: int) -> None:
        super().__init__()
        self.register_buffer("middles", middles(grid), persistent=False)
        self.see = Convolution(channels, WIDTH)
        self.find = nn.Conv2d(WIDTH, points, 1)
        self.sharpness = nn.Parameter(torch.ones(()))
        self.tell = nn.Linear(2 * points * frames, told)
        nn.init.normal_(self.tell.weight, std=points**-0.5)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (f, s, c, y, x), the newest first, to features of their points (f, told)."""
        points = rearrange(self.points(self.find(self.see(frames.flatten(0, 1)))), "(f s) k e -> f s (k e)", s=frames.shape[1])
        told = torch.cat([points[:, :1], points[:, 1:] - points[:, :-1]], 1)
        return self.tell(told.flatten(1).to(frames.dtype))

    def points(self, maps: Tensor) -> Tensor:
        """Find where each of the maps (n, k, y, x) is high: (n, k, 2), row and column, in float32; see `middles`.

        All maps have one strength before they are sharpened, a mean square of 1. A map with nothing in it has its point in the
        middle.
        """
        strength = maps.flatten(2).float()
        strength = F.normalize(strength, dim=-1) * strength.shape[-1] ** 0.5
        return (self.sharpness * strength).softmax(-1) @ self.middles.float()


def middles(grid: tuple[int, int]) -> Tensor:
    """Return row and column of the center of every place of a grid (y x, 2), in quarters of the frame from its own center: -2 to 2."""
    rows, columns = ((torch.arange(side) + 0.5) / side * 4 - 2 for side in grid)
    return torch.stack([repeat(rows, "y -> (y x)", x=grid[1]), repeat(columns, "x -> (y x)", y=grid[0])], -1)
