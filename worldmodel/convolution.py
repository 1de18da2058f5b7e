"""The convolution that the stem and its keypoints are made of."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EVEN_MAP = 1e-2
"""Variance that is added in the group norms: a frame that is noise alone and stands beside nothing is shown as zeros, an even map, and
what little differs in it must not be blown up."""


class Convolution(nn.Module):
    """3 x 3, group norm, SiLU; optionally scaled and shifted by a vector of each frame in between (FiLM)."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1, condition: int = 0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.norm = nn.GroupNorm(8, channels, EVEN_MAP)
        self.condition = nn.Linear(condition, 2 * channels) if condition else None

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """Map x (f, w, y, x) and vectors (f, k) to (f, w', y', x')."""
        x = self.norm(self.convolution(x))
        if self.condition is not None and vector is not None:
            stretch, shift = rearrange(self.condition(vector), "f (s w) -> s f w 1 1", s=2)
            x = x * (1 + stretch) + shift
        return F.silu(x)
