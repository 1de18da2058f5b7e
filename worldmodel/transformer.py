"""The trunk: pre-norm transformer blocks over packed tokens of all modalities."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.attention import Attention, AttentionMask, KVCache, rotary_angles
from worldmodel.errors import UserError
from worldmodel.moe import (
    FeedForwardKind,
    MixtureOfExperts,
    ModalityFeedForward,
    MoEConfig,
    SharedFeedForward,
    TokenGroups,
)


@dataclass(frozen=True)
class TrunkConfig:
    """Size and kind of the transformer."""

    width: int = 192
    """Width of the residual stream; never below the latents' channels."""
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

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "kv_heads", "hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")


class Block(nn.Module):
    """x += attention(norm(x)); x += feed_forward(norm(x))."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = Attention(config.width, config.heads, config.kv_heads)
        self.feed_forward_norm = nn.RMSNorm(config.width)
        self.feed_forward = build_feed_forward(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: AttentionMask | Tensor,
        groups: TokenGroups,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """X (b, n, d) -> (b, n, d), and the feed-forward's auxiliary loss."""
        x = x + self.attention(self.attention_norm(x), rotary, mask, cache, layer)
        tokens = rearrange(self.feed_forward_norm(x), "b n d -> (b n) d")
        update, auxiliary = self.feed_forward(tokens, groups)
        return x + rearrange(update, "(b n) d -> b n d", b=x.shape[0]), auxiliary


def build_feed_forward(config: TrunkConfig) -> nn.Module:
    """The feed-forward layer that `config.feed_forward` names."""
    if config.feed_forward == "moe":
        return MixtureOfExperts(config.width, config.moe)
    if config.feed_forward == "modality":
        return ModalityFeedForward(config.width, config.hidden)
    return SharedFeedForward(config.width, config.hidden)


class Trunk(nn.Module):
    """All blocks and the final norm."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width)
        self.apply(_initialise)
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
        mask: AttentionMask | Tensor,
        groups: TokenGroups,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all blocks.

        Args:
            x: (b, n, d) embedded tokens.
            positions: (b, n, 3) for the rotary embedding.
            mask: prepared hybrid mask; with a cache, a bool mask (n, n) or (b, n, n) among the new tokens.
            groups: which tokens are visual.
            cache: keys and values of earlier tokens; the new ones are written behind them, not committed.

        Returns:
            Normalised hidden states (b, n, d), and the sum of the auxiliary losses.
        """
        rotary = rotary_angles(positions, self.config.width // self.config.heads, self.config.rope_theta)
        total = x.new_zeros(())
        for layer, block in enumerate(self.blocks):
            x, auxiliary = block(x, rotary, mask, groups, cache, layer)
            total = total + auxiliary
        return self.norm(x), total

    def update_balance(self) -> None:
        """After an optimiser step: rebalance the experts, if there are any."""
        for module in self.modules():
            if isinstance(module, MixtureOfExperts):
                module.update_balance()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
