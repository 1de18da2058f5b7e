"""How the flow time enters, and the wide visual head.

Axes: f frames, p latent tokens of a frame, d width of the trunk, w width of the head.
"""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.attention import Attention, AttentionMask, rotary_angles
from worldmodel.errors import UserError
from worldmodel.moe import SwiGLU
from worldmodel.transformer import initialise

HEAD_DEPTH = 2
"""Blocks of the wide head."""


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1] -> width, through sinusoids and a small network."""

    frequencies: Tensor

    def __init__(self, width: int, sinusoids: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000.0), sinusoids // 2)), False)
        self.network = nn.Sequential(nn.Linear(sinusoids, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed flow times (f,) as (f, d)."""
        angles = repeat(t.float(), "f -> f k", k=len(self.frequencies)) * self.frequencies
        return self.network(torch.cat([angles.cos(), angles.sin()], dim=-1))


class HeadBlock(nn.Module):
    """A pre-norm transformer block over the tokens of one frame, all of which see each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads, heads)
        self.feed_forward_norm = nn.RMSNorm(width)
        self.feed_forward = SwiGLU(width, 8 * -(-width // 3))  # 8/3 of the width, as wide as a plain network of 4 times

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Map (f, p, w) to (f, p, w)."""
        x = x + self.attention(self.attention_norm(x), rotary, AttentionMask("sdpa", None))
        return x + self.feed_forward(self.feed_forward_norm(x))


class DDTHead(nn.Module):
    """Two transformer blocks behind the trunk that may be wider than it: (trunk's hidden state, z_t, t) -> features of z's tokens.

    The DDT head of RAE (arXiv 2510.11690, section 4): noise in many channels needs width, and here it costs two layers of visual
    tokens instead of a whole trunk. It pays for small models (arXiv 2601.16208: +11 GenEval at 0.5B, nothing from 2.4B on). There
    the hidden state and the time modulate the head's norms; here both are added to its input.

    Args:
        trunk_width: d.
        channels: of a latent token.
        grid: rows and columns of a frame.
        width: w; a multiple of 64, or below 64 of 8.
    """

    rotary_positions: Tensor

    def __init__(self, trunk_width: int, channels: int, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        if width % 64 and (width > 64 or width % 8):
            raise UserError(f"wide_head is {width}, must be a multiple of 64 (or, below 64, of 8): the width of its attention heads")
        heads = max(1, width // 64)
        self.head_width = width // heads
        self.hidden_in = nn.Linear(trunk_width, width)
        self.latent_in = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(HeadBlock(width, heads) for _ in range(HEAD_DEPTH))
        self.apply(initialise)
        self.time_in = TimeEmbedding(width)
        self.norm = nn.RMSNorm(width)
        places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *(torch.arange(side) for side in grid))
        self.register_buffer("rotary_positions", rearrange(places, "p axes -> 1 p axes"), False)

    def forward(self, hidden: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Map hidden states (f, p, d), noised latents (f, p, c) as the network's input has them, and times (f,) to (f, p, w)."""
        x = self.hidden_in(hidden) + self.latent_in(z) + rearrange(self.time_in(t), "f w -> f 1 w")
        rotary = rotary_angles(self.rotary_positions, self.head_width, 100.0)
        for block in self.blocks:
            x = block(x, rotary)
        return self.norm(x)
