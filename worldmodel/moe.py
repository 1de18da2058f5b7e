"""Feed-forward layers: shared by all tokens, one per modality, or a mixture of experts.

Axes: j tokens of a batch laid flat, d model width, h hidden width, e routed experts, s shared (always-on) experts, k slots per token.

Which of them a model uses is one field of its configuration (`feed_forward`), as in arXiv 2603.03276, section 5: `modality` is
the paper's default (one network for text and actions, one for vision), `moe` its best (routed experts, plus one always-on
expert per modality).

Each returns its update and an auxiliary loss that is a sum over tokens, so that the losses of micro-batches and processes add up.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.dispatch import GroupedBackend, Slots, dispatch
from worldmodel.errors import UserError

FeedForwardKind = Literal["shared", "modality", "moe"]
SharedExperts = Literal["none", "global", "modality"]


@dataclass(frozen=True)
class MoEConfig:
    """A mixture-of-experts layer.

    Its sparsity is 1 - (top_k + 1) / (num_experts + always-on experts): arXiv 2603.03276 goes from 50 % to 98.4 % by more experts at
    16 active ones, and takes 256 in all, 254 routed and one per modality.
    """

    num_experts: int = 16
    """Routed experts per layer."""
    top_k: int = 3
    """Routed experts that each token visits, in addition to its always-on expert."""
    expert_hidden: int = 128
    """Hidden width of every expert, the always-on ones included."""
    granularity: float | None = None
    """G = 4 * width / expert_hidden (arXiv 2603.03276, which takes 16); where it is given, it decides expert_hidden."""
    shared: SharedExperts = "modality"
    """Always-on experts. modality: one for visual tokens and one for the rest (the best in arXiv 2603.03276); global: one for all
    tokens; none."""
    balance_rate: float = 1e-2
    """Step of the selection bias that evens out the load without a loss term (arXiv 2408.15664), in units of the mean score
    1 / num_experts: a softmax's scores shrink as experts are added, unlike those of the sigmoid in that paper. arXiv 2603.03276
    speaks of a balancing loss and gives no form or weight; the bias is our choice."""
    balance_loss: float = 0.0
    """Weight of a balancing loss per token, num_experts * sum of share_e * score_e (Switch Transformer, arXiv 2101.03961). The
    shares of selections are those of the last step over its whole batch, so that the loss is a sum over tokens."""
    router_z_loss: float = 1e-3
    """Weight of the router's squared log-partition (ST-MoE, arXiv 2202.08906)."""
    backend: GroupedBackend = "auto"
    """Products of the experts. grouped: one `grouped_mm` for all; loop: one product per expert; auto: grouped where supported."""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise UserError(f"top_k must lie in 1..num_experts={self.num_experts}, got {self.top_k}")
        if self.expert_hidden < 1:
            raise UserError(f"expert_hidden is {self.expert_hidden}, must be at least 1")
        if self.granularity is not None and self.granularity <= 0:
            raise UserError(f"granularity is {self.granularity}, must be positive")
        for name in ("balance_rate", "balance_loss", "router_z_loss"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")

    @property
    def num_shared(self) -> int:
        """Always-on experts per layer."""
        return {"none": 0, "global": 1, "modality": 2}[self.shared]

    @property
    def slots(self) -> int:
        """Experts that a token visits, its always-on one included."""
        return self.top_k + (self.shared != "none")

    def hidden_for(self, width: int) -> int:
        """Return the hidden width of every expert in a model of this width.

        Raises:
            UserError: the granularity gives no multiple of 8, which grouped products need.
        """
        if self.granularity is None:
            return self.expert_hidden
        hidden = 4 * width / self.granularity
        if hidden < 8 or hidden % 8:
            raise UserError(
                f"granularity {self.granularity:g} at width {width} gives experts of hidden width 4 * width / G = {hidden:g}, "
                "which must be a multiple of 8: choose another, or set expert_hidden"
            )
        return int(hidden)


@dataclass(frozen=True)
class TokenGroups:
    """Which of the flat tokens are visual and which count, found once per batch: the feed-forward layers of all blocks use it.

    All shapes are those of the tokens, whatever they are, so that nothing waits for the device or is compiled anew.
    """

    is_visual: Tensor
    """(j,) bool."""
    counted: Tensor
    """(j,) bool: takes part in loads and auxiliary losses; padding does not."""
    by_modality: Slots
    """Visual tokens first, then the others: two groups of one slot per token."""

    @classmethod
    def of(cls, is_visual: Tensor, counted: Tensor | None = None) -> "TokenGroups":
        """Group bool tensors of any one shape, flattened; without `counted`, all tokens count."""
        flat = is_visual.flatten()
        counts = torch.ones_like(flat) if counted is None else counted.flatten()
        return cls(flat, counts, Slots.of(~flat, 2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class SharedFeedForward(nn.Module):
    """One SwiGLU for all tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.network = SwiGLU(width, hidden)

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Map tokens (j, d) to (j, d), and return a zero auxiliary loss."""
        return self.network(x), x.new_zeros(())


class ModalityFeedForward(nn.Module):
    """One SwiGLU for visual tokens, one for all others, stacked in this order."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up, self.down = _stacks(2, width, hidden)

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Map tokens (j, d) to (j, d), and return a zero auxiliary loss."""
        return dispatch(x, groups.by_modality, self.gate_up, self.down), x.new_zeros(())


class MixtureOfExperts(nn.Module):
    """Token-choice routing to `top_k` of `num_experts` SwiGLU experts, dropless, plus always-on experts.

    The router is a softmax in float32. A bias that takes part in the choice but not in the gate keeps the load even: after each
    optimizer step `update_balance` moves it against the load counted since (training tokens only, of all processes together).
    The always-on experts are the last entries of the stacks, so that a layer is one dispatch.
    """

    balance_bias: Tensor
    share: Tensor
    load: Tensor

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        e = config.num_experts
        self.router = nn.Linear(width, e, bias=False)
        self.gate_up, self.down = _stacks(e + config.num_shared, width, config.hidden_for(width))
        self.register_buffer("balance_bias", torch.zeros(e))  # in units of the mean score
        self.register_buffer("share", torch.full((e,), 1 / e))  # of the selections of the last step
        self.register_buffer("load", torch.zeros(2, e), persistent=False)  # selections by visual / other tokens since then

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route tokens (j, d): gates (j, top_k), experts (j, top_k), router logits (j, e); all float32 but the experts.

        The gates of several experts sum to 1; that of a single one is its score (Switch Transformer, arXiv 2101.03961).
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.router.weight.float())
            scores = logits.softmax(-1)
            choice = scores.detach() + self.balance_bias / self.config.num_experts
            experts = choice.topk(self.config.top_k, dim=-1).indices
            gates = scores.gather(-1, experts)
            if self.config.top_k > 1:  # of a single expert that would be 1, and tell the router nothing
                gates = gates / gates.sum(-1, keepdim=True)
        return gates, experts, logits

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Map tokens (j, d) to (j, d), and return the router's losses, summed over the tokens that count."""
        gates, experts, logits = self.route(x)
        if self.training:
            self.load += count_selections(experts, groups, self.config.num_experts)
        losses = self._losses(logits)
        auxiliary = torch.where(groups.counted, losses, torch.zeros_like(losses)).sum()
        gates, experts = self._with_shared(gates, experts, groups)
        slots = Slots.of(experts, len(self.down))
        return dispatch(x, slots, self.gate_up, self.down, gates, self.config.backend), auxiliary

    def _losses(self, logits: Tensor) -> Tensor:
        """Compute the losses (j,) of router logits (j, e)."""
        losses = self.config.router_z_loss * logits.logsumexp(-1).square()
        if self.config.balance_loss:
            losses = losses + self.config.balance_loss * self.config.num_experts * (logits.softmax(-1) @ self.share)
        return losses

    def _with_shared(self, gates: Tensor, experts: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Append the always-on experts to the chosen ones: (j, k) each."""
        if self.config.shared == "none":
            return gates, experts
        own = torch.full_like(experts[:, :1], self.config.num_experts)
        if self.config.shared == "modality":
            own = own + rearrange(~groups.is_visual, "j -> j 1")
        return torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1), torch.cat([experts, own], dim=1)

    @torch.no_grad()
    def update_balance(self, total_load: Tensor | None = None) -> None:
        """Move the selection bias against the load since the last call, and forget that load.

        Args:
            total_load: (2, e), the sum of `load` over all processes; this one's own if it is not given. Nothing moves where it is 0.
        """
        load = (self.load if total_load is None else total_load.to(self.load)).sum(0)
        self.balance_bias += self.config.balance_rate * (load.mean() - load).sign()
        self.share.copy_(torch.where(load.sum() > 0, load / load.sum().clamp_min(1), self.share))
        self.load.zero_()


def count_selections(experts: Tensor, groups: TokenGroups, num_experts: int) -> Tensor:
    """Count how often each routed expert (j, top_k) is chosen: (2, e) float32, by visual tokens and by others that count."""
    row = rearrange((~groups.is_visual).long() * num_experts, "j -> j 1")
    weight = rearrange(groups.counted.float(), "j -> j 1").expand_as(experts)
    counts = torch.zeros(2 * num_experts, device=experts.device)
    return rearrange(counts.scatter_add(0, (experts + row).flatten(), weight.flatten()), "(m e) -> m e", m=2)


def _stacks(count: int, width: int, hidden: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Draw matrices of `count` SwiGLUs, (count, d, 2 h) and (count, h, d), that keep the scale of their input."""
    gate_up, down = torch.empty(count, width, 2 * hidden), torch.empty(count, hidden, width)
    nn.init.normal_(gate_up, std=width**-0.5)
    nn.init.normal_(down, std=hidden**-0.5)
    return nn.Parameter(gate_up), nn.Parameter(down)
