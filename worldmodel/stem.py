"""A convolutional stem between latents and the trunk: few tokens a frame, seen beside the frames before it.

The paper's way in and out is one linear layer per latent token. That needs one position of the trunk for each, and two frames meet
only in its attention, where nothing says which tokens show the same place. Here, as in the U-Net variant of Transfusion (arXiv
2408.11039, section 3.2), a small convolutional network reads a frame's latents into tokens and paints the tokens back, and the finer
maps it saw on the way in are used again on the way out:

    noised latents, those of the frames before it -> maps, each of half the side of the one before -> tokens -> trunk
    trunk's hidden states -> the coarsest map -> finer maps, with those seen on the way in -> what changed since the frame before

The tokens have no place of their own: each is a linear map of the whole coarsest map (one-dimensional tokens, TiTok, arXiv
2406.07550) and of where things are in the frames (`keypoints.py`). Hidden states also scale and shift what is painted (FiLM, arXiv
1709.07871), so that an action can move something wherever it is. And they attend to places of the finest map, whose keys are waves
of its rows and columns (Fourier features, arXiv 2006.10739): where something is to be painted is then a few numbers, not a picture of
it, and is learned from fewer examples.

Axes: f frames, r references, p latent tokens in rows y and columns x, c channels, n tokens of the trunk, d its width, w channels of a
map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.convolution import Convolution
from worldmodel.errors import UserError
from worldmodel.keypoints import Keypoints

COARSEST = 4
"""Rows and columns from which a map is not halved any more."""
WAVES = 8
"""Waves over rows, and over columns, that are the keys of places: from a quarter of a period across the frame to two."""


@dataclass(frozen=True)
class StemConfig:
    """How latents become tokens of the trunk."""

    tokens: int = 0
    """Tokens of a frame in the trunk; 0: no stem, one linear layer in and one out, as in the paper."""
    references: int = 2
    """Frames before it that a frame is seen beside."""
    width: int = 48
    """Channels of the finest map."""
    widest: int = 96
    """Channels of the coarser maps double up to this."""
    looks: int = 32
    """Maps of attention to places of the finest map that hidden states paint with; 0: none."""
    keypoints: int = 32
    """Points that are found in a frame and in each that it is seen beside (spatial softmax); 0: none."""

    def __post_init__(self) -> None:
        for name in ("tokens", "references", "looks", "keypoints"):
            if getattr(self, name) < 0:
                raise UserError(f"stem {name} is {getattr(self, name)}, must not be negative")
        for name in ("width", "widest"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise UserError(f"stem {name} is {getattr(self, name)}, must be a multiple of 8")


@dataclass(frozen=True)
class Beside:
    """What frames are seen beside."""

    latents: Tensor
    """(f, r, p, c) of the frames before each, the newest first; anything where there is none."""
    present: Tensor
    """(f, r) bool: whether there is one."""

    @classmethod
    def none(cls, frames: Tensor, references: int) -> "Beside":
        """Return no frames beside, for frames (f, p, c)."""
        shape = (len(frames), references)
        return cls(frames.new_zeros(*shape, *frames.shape[1:]), torch.zeros(shape, dtype=torch.bool, device=frames.device))

    def index_select(self, rows: Tensor) -> "Beside":
        """Select some of the frames."""
        return Beside(self.latents.index_select(0, rows), self.present.index_select(0, rows))


class Stem(nn.Module):
    """See the module.

    Args:
        config: sizes.
        grid: rows and columns of a frame's latent tokens.
        channels: c of a latent token.
        width: d of the trunk.

    Raises:
        UserError: the grid cannot be halved down to the coarsest map.
    """

    places: Tensor

    def __init__(self, config: StemConfig, grid: tuple[int, int], channels: int, width: int) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        sides, widths = [grid], [config.width]
        while max(sides[-1]) > COARSEST:
            if sides[-1][0] % 2 or sides[-1][1] % 2:
                raise UserError(f"a stem halves maps of {grid[0]} x {grid[1]} latent tokens down to {COARSEST}: {sides[-1]} is odd")
            sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
            widths.append(min(2 * widths[-1], config.widest))
        self.coarsest, whole, flat = sides[-1], sides[-1][0] * sides[-1][1], config.tokens * width
        self.missing = nn.Parameter(torch.zeros(config.references, channels)) if config.references else None
        self.first = Convolution((1 + config.references) * channels, widths[0])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(nn.ModuleList([Convolution(a, b, 2), Convolution(b, b)]) for a, b in pairs)
        self.gather = nn.Linear(whole * widths[-1], flat)
        self.keypoints = Keypoints(config.keypoints, 1 + config.references, grid, channels, flat) if config.keypoints else None
        self.spread = nn.Linear(flat, whole * widths[-1])
        self.coarse = Convolution(widths[-1], widths[-1], condition=flat)
        self.enlarge = nn.ModuleList(nn.Linear(b, 4 * a) for a, b in reversed(pairs))
        self.up = nn.ModuleList(Convolution(a, a, condition=flat) for a, _ in reversed(pairs))
        self.look = nn.Linear(flat, config.looks * 4 * WAVES) if config.looks else None
        if config.looks:
            self.register_buffer("places", waves(grid), persistent=False)
            self.mark = nn.Conv2d(config.looks, widths[0], 3, 1, 1)
            self.refine = Convolution(widths[0], widths[0], condition=flat)
        self.last = nn.Linear(widths[0], channels)
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.zeros_(self.last.bias)
        for name, weight in self.named_parameters():
            if name.endswith("condition.weight"):
                nn.init.normal_(weight, std=0.5 * flat**-0.5)
            elif name.endswith("condition.bias"):
                nn.init.zeros_(weight)

    def known(self, beside: Beside) -> Tensor:
        """Return the frames (f, r, p, c) that a frame is seen beside, a learned vector where one is missing."""
        if self.missing is None:
            return beside.latents
        missing = rearrange(self.missing, "r c -> 1 r 1 c")
        return torch.where(rearrange(beside.present, "f r -> f r 1 1"), beside.latents, missing.to(beside.latents.dtype))

    def forward(self, z: Tensor, beside: Beside) -> tuple[Tensor, list[Tensor]]:
        """Encode latents (f, p, c) and the frames seen beside them to tokens (f, n, d); also return the maps, the finest first."""
        known = self.known(beside)
        seen = [z, *known.unbind(1)]
        if len(seen) > 2:  # of the older ones what has changed since
            seen[2:] = [newer - older for newer, older in zip(seen[1:], seen[2:], strict=False)]
        maps = [self.first(self._as_maps(torch.cat(seen, -1)))]
        for level in self.down:
            assert isinstance(level, nn.ModuleList)
            maps.append(level[1](level[0](maps[-1])))
        tokens = self.gather(maps[-1].flatten(1))
        if self.keypoints is not None:
            tokens = tokens + self.keypoints(rearrange([z, *known.unbind(1)], "s f (y x) c -> f s c y x", y=self.grid[0]))
        return rearrange(tokens, "f (n d) -> f n d", n=self.config.tokens), maps

    def paint(self, hidden: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decode hidden states (f, n, d) and the frames' maps to (f, p, c)."""
        vector = hidden.flatten(1)
        rows, columns = self.coarsest
        x = self.coarse(rearrange(self.spread(vector), "f (w y x) -> f w y x", y=rows, x=columns), vector)
        known = list(maps[:-1])
        if self.look is not None and known:
            known[0] = known[0] + self.mark(self.attention(vector))
        for enlarge, up, seen in zip(self.enlarge, self.up, reversed(known), strict=True):
            x = enlarge(rearrange(x, "f w y x -> f y x w"))
            x = up(rearrange(x, "f y x (w i j) -> f w (y i) (x j)", i=2, j=2) + seen, vector)
        if self.look is not None:
            x = x + self.refine(x if known else x + self.mark(self.attention(vector)), vector)
        return self.last(rearrange(x, "f w y x -> f (y x) w"))

    def attention(self, vector: Tensor) -> Tensor:
        """Map frames' hidden states (f, n d) to maps of attention to the places of the finest map (f, looks, y, x).

        Each adds up to the square root of the number of places: neither even attention nor that to one place is extreme in size.
        """
        assert self.look is not None, "a stem without looks has none"
        rows, columns = self.grid
        queries = rearrange(self.look(vector), "f (k e) -> f k e", k=self.config.looks)
        found = (queries @ self.places.to(queries.dtype)).softmax(-1) * (rows * columns) ** 0.5
        return rearrange(found, "f k (y x) -> f k y x", y=rows)

    def _as_maps(self, x: Tensor) -> Tensor:
        return rearrange(x, "f (y x) c -> f c y x", y=self.grid[0])


def waves(grid: tuple[int, int]) -> Tensor:
    """Compute sines and cosines of the places of a grid, (4 * WAVES, y x): of the rows, then of the columns."""
    axes = []
    for side in grid:
        centers = (torch.arange(side) + 0.5) / side * 2 - 1
        angles = torch.pi / 2 * torch.outer(torch.arange(1, WAVES + 1), centers)
        axes.append(torch.cat([angles.sin(), angles.cos()]))
    rows, columns = grid
    along_rows, along_columns = repeat(axes[0], "e y -> e (y x)", x=columns), repeat(axes[1], "e x -> e (y x)", y=rows)
    return torch.cat([along_rows, along_columns])


def base(beside: Beside) -> Tensor:
    """Return the newest frame before each (f, p, c), zeros where there is none: `Stem.paint` predicts the change from it."""
    return beside.latents[:, 0] * rearrange(beside.present[:, 0], "f -> f 1 1").to(beside.latents.dtype)
