"""Feed-forward layers: shared by all tokens, one per modality, or a mixture of experts.

Axes: j tokens of a batch laid flat, d model width, e experts, i slots = tokens x top_k.

Which of them a model uses is one field of its configuration (`feed_forward`), as in arXiv 2603.03276, section 5: `modality` is
the paper's default (one network for text and actions, one for vision), `moe` its best (routed experts, plus one always-on
expert per modality).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError

FeedForwardKind = Literal["shared", "modality", "moe"]


@dataclass(frozen=True)
class MoEConfig:
    """A mixture-of-experts layer."""

    num_experts: int = 16
    """Routed experts per layer."""
    top_k: int = 3
    """Routed experts that each token visits, beside its modality's always-on expert."""
    expert_hidden: int = 128
    """Hidden width of every expert, the always-on ones included."""
    balance_rate: float = 1e-3
    """Step of the selection bias that evens out the load without a loss term (arXiv 2408.15664)."""
    router_z_loss: float = 1e-3
    """Weight of the router's squared log-partition (ST-MoE, arXiv 2202.08906)."""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise UserError(f"top_k must lie in 1..num_experts={self.num_experts}, got {self.top_k}")


@dataclass(frozen=True)
class TokenGroups:
    """Which of the flat tokens are visual, found once per batch: the feed-forward layers of all blocks use it."""

    visual: Tensor  # (j_v,) int64
    other: Tensor  # (j_t,) int64

    @classmethod
    def of(cls, is_visual: Tensor) -> "TokenGroups":
        """From a bool tensor of any shape, flattened."""
        flat = is_visual.flatten()
        return cls(flat.nonzero()[:, 0], (~flat).nonzero()[:, 0])


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class SharedFeedForward(nn.Module):
    """One SwiGLU for all tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.network = SwiGLU(width, hidden)

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Tokens (j, d) -> (j, d), and a zero auxiliary loss."""
        return self.network(x), x.new_zeros(())


class ModalityFeedForward(nn.Module):
    """One SwiGLU for visual tokens, one for all others."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.visual = SwiGLU(width, hidden)
        self.other = SwiGLU(width, hidden)

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Tokens (j, d) -> (j, d), and a zero auxiliary loss."""
        return _by_modality(x, groups, self.visual, self.other), x.new_zeros(())


def _by_modality(x: Tensor, groups: TokenGroups, visual: nn.Module, other: nn.Module) -> Tensor:
    if len(groups.other) == 0:
        return visual(x)
    if len(groups.visual) == 0:
        return other(x)
    seen, rest = visual(x.index_select(0, groups.visual)), other(x.index_select(0, groups.other))
    out = torch.empty(x.shape, dtype=seen.dtype, device=x.device)
    return out.index_copy(0, groups.visual, seen).index_copy(0, groups.other, rest)


class MixtureOfExperts(nn.Module):
    """Token-choice routing to `top_k` of `num_experts` SwiGLU experts, dropless, plus an always-on expert per modality.

    The router works in float32. A bias that takes part in the choice but not in the gate keeps the load even: after each
    optimiser step `update_balance` moves it against the load counted since (training tokens only).
    """

    balance_bias: Tensor
    load: Tensor

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        e, h = config.num_experts, config.expert_hidden
        self.router = nn.Linear(width, e, bias=False)
        self.gate_up = nn.Parameter(torch.empty(e, width, 2 * h))
        self.down = nn.Parameter(torch.empty(e, h, width))
        self.visual = SwiGLU(width, h)
        self.other = SwiGLU(width, h)
        self.register_buffer("balance_bias", torch.zeros(e))
        self.register_buffer("load", torch.zeros(e), persistent=False)
        nn.init.normal_(self.gate_up, std=width**-0.5)
        nn.init.normal_(self.down, std=h**-0.5)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (j, d) -> gates (j, top_k) that sum to 1, experts (j, top_k), router logits (j, e)."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.router.weight.float())
            scores = logits.softmax(-1)
            experts = (scores + self.balance_bias).topk(self.config.top_k, dim=-1).indices
            gates = scores.gather(-1, experts)
            gates = gates / gates.sum(-1, keepdim=True)
        return gates, experts, logits

    def forward(self, x: Tensor, groups: TokenGroups) -> tuple[Tensor, Tensor]:
        """Tokens (j, d) -> (j, d), and the router's z-loss."""
        gates, experts, logits = self.route(x)
        if self.training:
            self.load += torch.bincount(experts.flatten(), minlength=self.config.num_experts).to(self.load)
        out = _by_modality(x, groups, self.visual, self.other)
        out = out + dispatch(x, gates, experts, self.gate_up, self.down).to(out.dtype)
        z_loss = self.config.router_z_loss * logits.logsumexp(-1).square().mean()
        return out, z_loss

    @torch.no_grad()
    def update_balance(self) -> None:
        """Move the selection bias against the load since the last call, and forget that load."""
        if self.load.sum() > 0:
            self.balance_bias += self.config.balance_rate * (self.load.mean() - self.load).sign()
            self.load.zero_()


def dispatch(x: Tensor, gates: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Send each token to its experts and sum what comes back, weighted by the gates; no token is dropped.

    Slots are sorted by expert, so that each expert sees one contiguous run of rows and all of them are one grouped matrix
    product (`torch.nn.functional.grouped_mm`); a loop of products where the grouped one is not supported.

    Args:
        x: (j, d) tokens.
        gates: (j, top_k) weights of what comes back.
        experts: (j, top_k) int64, whom to visit.
        gate_up: (e, d, 2 h) first matrices of all experts.
        down: (e, h, d) second matrices.

    Returns:
        (j, d).
    """
    top_k = experts.shape[1]
    slots = experts.flatten()  # (i,)
    order = slots.argsort(stable=True)
    token = order // top_k
    ends = torch.bincount(slots, minlength=gate_up.shape[0]).cumsum(0)
    rows = x.index_select(0, token)  # not x[token]: its gradient adds in no fixed order on CPU threads, and slowly
    hidden = grouped_product(rows, gate_up, ends)
    gate, up = hidden.chunk(2, dim=-1)
    result = grouped_product(F.silu(gate) * up, down, ends)
    weighted = result * gates.flatten().index_select(0, order).to(result.dtype)[:, None]
    return torch.zeros(x.shape, dtype=weighted.dtype, device=x.device).index_add(0, token, weighted)


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows (i, d) sorted by expert, weights (e, d, h), ends (e,) cumulative counts -> (i, h)."""
    if torch.is_autocast_enabled(rows.device.type):
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, weights = rows.to(dtype), weights.to(dtype)
    if supports_grouped(rows, weights):
        return F.grouped_mm(rows, weights, offs=ends.to(torch.int32))
    bounds = [0, *ends.tolist()]
    parts = [rows[a:b] @ weights[e] for e, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))]
    return torch.cat(parts)


def supports_grouped(rows: Tensor, weights: Tensor) -> bool:
    """Whether `grouped_mm` takes these: rows of 16 bytes' multiple, and bfloat16 on CUDA."""
    step = 16 // rows.element_size()
    aligned = rows.shape[1] % step == 0 and weights.shape[2] % step == 0
    return aligned and (not rows.is_cuda or rows.dtype == torch.bfloat16)
