"""The parts of the joint loss: a step's noise sample, what the loss is a mean over, the text loss, the weights of the parts."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from worldmodel.batch import PackedBatch

HIGH_NOISE = 0.1
"""Flow time below which a frame is almost noise alone."""
LOGITS_AT_ONCE = 2**27
"""Logits that exist at one time in the text loss: at most 1 GiB with the copies that a softmax takes. All 16,384 positions of a GPU in
the `paper` preset would have 16 times as many. Products stay large enough to be fast: 1046 positions by 128,256 tokens there. What a
model of a small vocabulary predicts is one piece."""


@dataclass(frozen=True)
class NoiseSample:
    """What a step draws for its f frames."""

    t: Tensor
    """(f,) flow times, 1 for frames that are given clean."""
    noise: Tensor
    """(f, p, c) standard normal."""

    @classmethod
    def join(cls, samples: "Sequence[NoiseSample]") -> "NoiseSample":
        """Join the draws of consecutive batches into that of one."""
        return cls(torch.cat([sample.t for sample in samples]), torch.cat([sample.noise for sample in samples]))


@dataclass(frozen=True)
class LossCounts:
    """What the loss of a step is a mean over."""

    text: int
    """Predicted tokens."""
    frames: int
    """Noised frames."""
    tokens: int
    """Positions that are not padding."""
    actions: int = 0
    """Numbers of actions that are to be said."""

    @classmethod
    def of(cls, batch: PackedBatch) -> "LossCounts":
        """Count for one batch."""
        return cls(len(batch.predicted_positions), len(batch.noised_frames), batch.tokens, batch.known_numbers)

    def __add__(self, other: "LossCounts") -> "LossCounts":
        mine, theirs = astuple(self), astuple(other)
        return LossCounts(*(a + b for a, b in zip(mine, theirs, strict=True)))


def text_loss(hidden: Tensor, weight: Tensor, targets: Tensor, logits_at_once: int = LOGITS_AT_ONCE) -> Tensor:
    """Sum the cross-entropies of next tokens, without ever having all of their logits.

    The logits of some positions at a time are made, turned into their part of the loss and of its gradient, and forgotten. Since the
    gradient of a sum does not depend on what comes after it but for a factor, it is found in the forward pass: nothing is computed
    twice, and with the logits go neither memory nor a wait for the device. Softmax and sums are float32 under autocast, too.

    Args:
        hidden: (k, d) what predicts.
        weight: (v, d) of the linear layer that gives the logits.
        targets: (k,) int64 tokens.
        logits_at_once: how many numbers positions x v may be in memory; at least one position's are.

    Returns:
        A float32 scalar, 0 where there is nothing to predict; it can be differentiated once.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    loss: Tensor = _TextLoss.apply(hidden, weight, targets, max(1, logits_at_once // len(weight)), torch.is_grad_enabled())
    return loss


class _TextLoss(torch.autograd.Function):
    """See `text_loss`; `positions` are taken at a time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, positions: int, with_gradient: bool) -> Tensor:
        table = weight.to(hidden.dtype)
        loss = torch.zeros((), device=hidden.device)
        to_hidden, to_weight = (with_gradient and needed for needed in ctx.needs_input_grad[:2])
        of_hidden = torch.empty_like(hidden) if to_hidden else None
        of_weight = torch.zeros_like(weight) if to_weight else None
        for start in range(0, len(hidden), positions):
            here = slice(start, start + positions)
            x, target = hidden[here], targets[here, None]  # (i, d), (i, 1)
            scores = F.log_softmax((x @ table.t()).float(), -1)  # (i, v)
            right = scores.gather(1, target)
            loss -= right.sum()
            if not (to_hidden or to_weight):
                continue
            error = scores.exp_().scatter_add_(1, target, right.new_full(right.shape, -1.0)).to(x.dtype)
            if of_hidden is not None:
                torch.mm(error, table, out=of_hidden[here])
            if of_weight is not None and of_weight.dtype == error.dtype:
                torch.addmm(of_weight, error.t(), x, out=of_weight)
            elif of_weight is not None:  # summed over pieces in float32
                of_weight += error.t() @ x
        ctx.save_for_backward(of_hidden, of_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        of_hidden, of_weight = (None if part is None else part * factor for part in ctx.saved_tensors)
        return of_hidden, of_weight, None, None, None


def readable(parts: dict[str, float]) -> dict[str, float]:
    """Convert the summed parts of a step's loss for people: `flow_high_noise` becomes the mean over frames below t = 0.1."""
    rest = {name: value for name, value in parts.items() if name not in ("flow_high_noise", "high_noise")}
    share = parts.get("high_noise", 0.0)
    return rest | ({"flow_high_noise": parts["flow_high_noise"] / share} if share > 0 else {})


def centered_weights(average: Tensor, alpha: float) -> Tensor:
    """Compute weights (2,) of the text and flow losses that give both the same size (arXiv 2603.03276, appendix D.2).

    With the averages L (2,), positive: c = (1 - alpha) L_text + alpha L_flow; weights c / L.
    """
    centre = (1 - alpha) * average[0] + alpha * average[1]
    return centre / average.clamp_min(1e-6)


def moving_average(average: Tensor, values: Sequence[float | Tensor | None], decay: float) -> Tensor:
    """Move an average (k,) toward k values; 0 stands for no value so far, None for a value that this step does not have."""
    moved = []
    for old, value in zip(average, values, strict=True):
        new = old if value is None else value.to(old) if isinstance(value, Tensor) else old.new_full((), value)
        moved.append(torch.where(old > 0, torch.lerp(new, old, decay), new))
    return torch.stack(moved)
