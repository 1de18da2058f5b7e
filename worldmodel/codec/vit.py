"""A small vision transformer in both directions: frames -> latents (encoder), latents -> frames (decoder).

Plain modules in reading order: configs, positions, block, encoder, decoder. Everything is trained from
scratch; which objective trains the encoder is the business of `ssl.py`.

Axes: b batch, c channels, h w pixels, n tokens of a frame (row by row), d width, k heads.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.errors import UserError


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder; it also fixes the shape of the latents."""

    image_size: int = 64
    """Height and width of a frame in pixels."""
    patch_size: int = 16
    """Height and width of the patch that becomes one token."""
    channels: int = 64
    """Channels of one latent token; keep it at or below the width of the model that predicts the latents."""
    width: int = 128
    """Width of the transformer."""
    depth: int = 3
    """Number of transformer blocks."""
    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.image_size < 1 or self.patch_size < 1 or self.image_size % self.patch_size:
            raise UserError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                "choose a patch size that divides the frame"
            )
        if self.channels < 2:
            raise UserError(f"channels is {self.channels}; the final layer norm needs at least 2")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one frame."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of one frame."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder; the grid and the patch size follow from the encoder."""

    width: int = 128
    """Width of the transformer."""
    depth: int = 2
    """Number of transformer blocks."""
    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        check_sizes(self)


def check_sizes(config: EncoderConfig | DecoderConfig) -> None:
    """Refuse widths that the heads and the positions cannot share evenly.

    Raises:
        UserError: naming the width, the heads or the depth that does not fit.
    """
    if config.depth < 1 or config.heads < 1:
        raise UserError(f"depth {config.depth} and heads {config.heads} must both be at least 1")
    if config.width < 4 or config.width % 4 or config.width % config.heads:
        raise UserError(f"width {config.width} must be a multiple of 4 and of heads {config.heads}")


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Compute fixed sine-cosine positions of a grid of tokens (MAE, arXiv 2111.06377).

    Args:
        grid: rows and columns.
        width: channels of a position, a multiple of 4: a quarter each for the sines and cosines of row and
            column.

    Returns:
        (n, width) float32, tokens row by row.
    """
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows = torch.arange(grid[0], dtype=torch.float64)[:, None] * frequencies  # (rows, width/4)
    columns = torch.arange(grid[1], dtype=torch.float64)[:, None] * frequencies
    row_part = repeat(torch.cat([rows.sin(), rows.cos()], dim=-1), "i d -> (i j) d", j=grid[1])
    column_part = repeat(torch.cat([columns.sin(), columns.cos()], dim=-1), "j d -> (i j) d", i=grid[0])
    return torch.cat([row_part, column_part], dim=-1).float()


class Attention(nn.Module):
    """Multi-head attention of every token to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, d) to (b, n, d)."""
        query, key, value = rearrange(self.qkv(x), "b n (three k d) -> three b k n d", three=3, k=self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(rearrange(mixed, "b k n d -> b n (k d)"))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, d) to (b, n, d)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """Frames -> latents, layer-normed per token without learned scale or shift (RAE, arXiv 2510.11690)."""

    positions: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(3 * config.patch_size**2, config.width)
        self.register_buffer("positions", sincos_positions(config.grid, config.width), persistent=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.project = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.channels))
        self.apply(init_linear)

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode frames, or only some of their patches.

        Args:
            frames: (b, 3, h, w) in [0, 1].
            keep: (b, m) indices of the patches to look at (masked autoencoding), or None for all n.

        Returns:
            (b, n or m, c), every token with mean 0 and variance 1 over its channels.
        """
        x = self.embed(patchify(2 * frames - 1, self.config.patch_size)) + self.positions  # (b, n, d)
        if keep is not None:
            x = x.gather(1, repeat(keep, "b m -> b m d", d=x.shape[-1]))  # (b, m, d)
        for block in self.blocks:
            x = block(x)
        x = self.project(x)
        return F.layer_norm(x, x.shape[-1:])


class Decoder(nn.Module):
    """Latents -> frames, one token to one patch; the output is not clamped.

    It decodes what differs from a learned background, and starts as the background alone: with the mean
    picture there, training does not spend its first hundred steps on walls that never change.
    """

    positions: Tensor

    def __init__(self, config: DecoderConfig, grid: tuple[int, int], channels: int, image_size: int) -> None:
        """Build a new decoder.

        Args:
            config: shape of the transformer.
            grid: rows and columns of tokens.
            channels: of a token.
            image_size: height and width of a frame. Where the grid does not divide it (frames of 64 pixels and 7 x 7 tokens of
                an encoder that enlarges them), patches are decoded on the next larger multiple and the whole is scaled down.
        """
        super().__init__()
        self.grid, self.image_size = grid, image_size
        self.patch_size = -(-image_size // max(grid))
        self.embed = nn.Linear(channels, config.width)
        self.register_buffer("positions", sincos_positions(grid, config.width), persistent=False)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 3 * self.patch_size**2)
        self.background = nn.Parameter(torch.full((3, image_size, image_size), 0.5))
        self.apply(init_linear)
        nn.init.zeros_(self.head.weight)

    @property
    def last_layer(self) -> Tensor:
        """The weights of the layer that outputs pixels."""
        return self.head.weight

    def forward(self, latents: Tensor) -> Tensor:
        """Decode (b, n, c) to (b, 3, h, w), about [0, 1]."""
        return self.decode_tokens(self.embed(latents))

    def set_background(self, picture: Tensor) -> None:
        """Start from a (3, h, w) picture in [0, 1]."""
        with torch.no_grad():
            self.background.copy_(picture)

    def decode_tokens(self, x: Tensor) -> Tensor:
        """Decode tokens that are embedded already, (b, n, d), to frames (b, 3, h, w)."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        reconstruction = unpatchify(self.head(self.norm(x)), self.grid, self.patch_size)
        size = (self.image_size, self.image_size)
        if reconstruction.shape[-2:] != size:
            reconstruction = F.interpolate(reconstruction, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.background + reconstruction


def patchify(frames: Tensor, patch_size: int) -> Tensor:
    """Cut (b, c, h, w) into (b, n, c * patch_size ** 2), patches row by row."""
    return rearrange(frames, "b c (i p) (j q) -> b (i j) (c p q)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Join (b, n, c * patch_size ** 2) to (b, c, h, w), the inverse of `patchify`."""
    return rearrange(patches, "b (i j) (c p q) -> b c (i p) (j q)", i=grid[0], j=grid[1], p=patch_size, q=patch_size)


def init_linear(module: nn.Module) -> None:
    """Set Xavier-uniform weights and zero biases, as in MAE's code."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
