"""The trunk: pre-norm transformer blocks over packed tokens of all modalities."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worldmodel.attention import Attention, AttentionContext, rotary_angles
from worldmodel.errors import UserError
from worldmodel.moe import (
    FeedForwardKind,
    MixtureOfExperts,
    ModalityFeedForward,
    MoEConfig,
    SharedFeedForward,
    TokenGroups,
)

MODULATIONS = 6
"""Shift, scale and gate of the attention, and of the feed-forward."""


@dataclass(frozen=True)
class TrunkConfig:
    """Size and kind of the transformer."""

    width: int = 192
    """Width of the residual stream; never below the latents' channels (RAE, arXiv 2510.11690, section 4): a narrower model cannot
    predict the noise in all of them, and does not overfit one picture with v-prediction. With x-prediction, whose target may lie on
    fewer dimensions, small models here overfitted one picture at half the channels too; they are refused all the same."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 6
    """Query heads."""
    kv_heads: int = 3
    """Key/value heads (grouped-query attention); divides heads."""
    hidden: int = 512
    """Hidden width of a dense SwiGLU feed-forward."""
    feed_forward: FeedForwardKind = "modality"
    """shared: one for all tokens; modality: one for vision, one for the rest; moe: mixture of experts."""
    moe: MoEConfig = field(default_factory=MoEConfig)
    """Used when feed_forward is moe."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    base_head_width: int | None = None
    """With muP (base_width of the model), where heads grow with the width: the head width of the base model. Scores are scaled by
    sqrt(base_head_width) / head width. None: by 1 / sqrt(head width), right where a wider model has more heads of the same width."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "kv_heads", "hidden", "base_head_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, must be at least 1")
        if not self.rope_theta > 0:
            raise UserError(f"rope_theta is {self.rope_theta}, must be positive")


@dataclass(frozen=True)
class Modulation:
    """What the flow time does to visual tokens in every block (adaLN-single, PixArt-alpha, arXiv 2310.00426, section 2.3).

    All tokens of a frame have the same, so there is one row per frame, and tokens look theirs up in every block: written out for every
    token, the six vectors would take several times the memory of everything else that a block keeps for the gradient.
    """

    rows: Tensor
    """(r, 6, d) float32: shift, scale and gate of the attention, then of the feed-forward. Row 0 is 0, 0, 1 twice, for tokens that are
    not visual; blocks add offsets of their own to the others."""
    index: Tensor
    """(b, n) int64: the row of each token."""

    @classmethod
    def of(cls, of_frames: Tensor, frame: Tensor, most: int) -> "Modulation":
        """Build the modulation of a batch from that of each frame.

        Args:
            of_frames: (f, 6, d).
            frame: (b, n) int64, the frame of each token, -1 outside.
            most: frames that there can be; as many rows are made, so that a block is compiled but once.
        """
        of_frames = F.pad(of_frames.float(), (0, 0, 0, 0, 0, most - len(of_frames)))
        is_gate = torch.arange(MODULATIONS, device=frame.device) % 3 == 2
        neutral = repeat(is_gate.float(), "s -> 1 s d", d=of_frames.shape[2])
        return cls(torch.cat([neutral, of_frames]), frame + 1)


class _Scale(torch.autograd.Function):
    """Tokens times the factors of their rows. For the gradient the rows are kept, and the tokens; not the factors of each token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, factors, index)
        return x * F.embedding(index, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, factors, index = ctx.saved_tensors
        of_rows = torch.ops.aten.embedding_dense_backward(grad * x, index, len(factors), 0, False)  # row 0 is constant
        return (grad * F.embedding(index, factors)).to(x.dtype), of_rows, None


def scale(x: Tensor, factors: Tensor, index: Tensor) -> Tensor:
    """Multiply tokens x (b, n, d) by factors (r, d) of their rows index (b, n); row 0 gets no gradient."""
    scaled: Tensor = _Scale.apply(x, factors, index)
    return scaled


class Branch:
    """A residual branch: x += leave(f(enter(norm(x))))."""

    def enter(self, x: Tensor) -> Tensor:
        """Return the input (b, n, d) of the branch's layer as it is."""
        return x

    def leave(self, update: Tensor) -> Tensor:
        """Return what the layer adds (b, n, d) as it is."""
        return update


@dataclass(frozen=True)
class ModulatedBranch(Branch):
    """A residual branch with shift, scale and gate of each row (r, d), and the row of each token (b, n)."""

    shift: Tensor
    stretch: Tensor
    gate: Tensor
    index: Tensor

    def enter(self, x: Tensor) -> Tensor:
        """Scale and shift the input (b, n, d) of the branch's layer."""
        return scale(x, 1 + self.stretch, self.index) + F.embedding(self.index, self.shift, padding_idx=0)

    def leave(self, update: Tensor) -> Tensor:
        """Gate what the layer adds (b, n, d)."""
        return scale(update, self.gate, self.index)


class Block(nn.Module):
    """x += attention(norm(x)); x += feed_forward(norm(x)).

    With a modulation, of visual tokens: x += gate * f(norm(x) * (1 + scale) + shift); other tokens as above.
    """

    def __init__(self, config: TrunkConfig, modulated: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(config.width, config.heads, config.kv_heads, config.base_head_width)
        self.feed_forward_norm = nn.RMSNorm(config.width)
        self.feed_forward = build_feed_forward(config)
        if modulated:  # one axis: optimizers must not take it for a matrix. Small, gates included: blocks begin near the identity
            self.modulation = nn.Parameter(config.width**-0.5 * torch.randn(MODULATIONS * config.width))

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        context: AttentionContext,
        groups: TokenGroups,
        modulation: Modulation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map x (b, n, d) to (b, n, d), and return the feed-forward's auxiliary loss, a sum over tokens."""
        attended, fed = self._branches(modulation)
        x = x + attended.leave(self.attention(attended.enter(self.attention_norm(x)), rotary, context))
        update, auxiliary = self._feed_forward(fed.enter(self.feed_forward_norm(x)), groups)
        return x + fed.leave(update), auxiliary

    def _branches(self, modulation: Modulation | None) -> tuple[Branch, Branch]:
        """Return the branches of the attention and of the feed-forward."""
        if modulation is None:
            return Branch(), Branch()
        offsets = rearrange(self.modulation, "(s d) -> s d", s=MODULATIONS)
        rows, index = torch.cat([modulation.rows[:1], modulation.rows[1:] + offsets]), modulation.index
        shift, stretch, gate, shift_2, stretch_2, gate_2 = rows.unbind(1)  # (r, d) each
        return ModulatedBranch(shift, stretch, gate, index), ModulatedBranch(shift_2, stretch_2, gate_2, index)

    def _feed_forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        update, auxiliary = self.feed_forward(rearrange(x, "b n d -> (b n) d"), groups)
        return rearrange(update, "(b n) d -> b n d", b=x.shape[0]), auxiliary


def build_feed_forward(config: TrunkConfig) -> nn.Module:
    """Build the feed-forward layer that `config.feed_forward` names."""
    if config.feed_forward == "moe":
        return MixtureOfExperts(config.width, config.moe)
    if config.feed_forward == "modality":
        return ModalityFeedForward(config.width, config.hidden)
    return SharedFeedForward(config.width, config.hidden)


class Trunk(nn.Module):
    """All blocks and the final norm.

    Args:
        config: size and kind.
        modulated: whether every pass comes with a `Modulation`.
    """

    def __init__(self, config: TrunkConfig, modulated: bool = False) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, modulated) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width)
        self.apply(initialise)
        for block in self.blocks:  # residual branches start small, so that depth does not change the scale
            assert isinstance(block, Block)
            for name, parameter in block.named_parameters():
                if name.endswith(("out.weight", "down.weight", "down")):
                    with torch.no_grad():
                        parameter.mul_((2 * config.depth) ** -0.5)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        context: AttentionContext,
        groups: TokenGroups,
        modulation: Modulation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all blocks.

        Args:
            x: (b, n, d) embedded tokens.
            positions: (b, n, 3) or (b, n, 1) for the rotary embedding.
            context: what they may attend to.
            groups: which tokens are visual, and which count.
            modulation: of a modulated trunk.

        Returns:
            Normalized hidden states (b, n, d), and the sum of the auxiliary losses over blocks and tokens.
        """
        rotary = rotary_angles(positions, self.config.width // self.config.heads, self.config.rope_theta)
        total = torch.zeros((), device=x.device)
        for layer, block in enumerate(self.blocks):
            x, auxiliary = block(x, rotary, context.at(layer), groups, modulation)
            total = total + auxiliary
        return self.norm(x), total

    @property
    def experts(self) -> list[MixtureOfExperts]:
        """The mixture-of-experts layers, from the first block on; none in a dense trunk."""
        layers = [cast(Block, block).feed_forward for block in self.blocks]
        return [layer for layer in layers if isinstance(layer, MixtureOfExperts)]

    def loads(self) -> Tensor:
        """Count the selections of experts since `update_balance`, (layers, 2, e) by visual / other tokens; no layer if dense."""
        loads = [layer.load for layer in self.experts]
        return torch.stack(loads) if loads else torch.zeros(0, 2, 0, device=self.norm.weight.device)

    def update_balance(self, loads: Tensor | None = None) -> None:
        """Rebalance the experts after an optimizer step, if there are any.

        Args:
            loads: (layers, 2, e), the sum of `loads()` over all processes; this one's own if it is not given.
        """
        for index, layer in enumerate(self.experts):
            layer.update_balance(None if loads is None else loads[index])


def initialise(module: nn.Module) -> None:
    """Draw weights of linear layers that keep the scale of their input."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
