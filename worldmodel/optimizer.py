"""AdamW with weight decay on matrices only, warm-up and cosine, and a moving average of the weights."""

import copy
import math

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW in two groups: matrices decay; norms, biases and embedding tables do not.

    The moments are there from the start, as zeros: a checkpoint then has the same tensors at every step, also where a
    parameter has had no gradient yet.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices, others = [], []
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in tables
        (matrices if is_matrix else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    for parameter in matrices + others:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def learning_rate(step: int, steps: int, peak: float, warmup_steps: int, final_share: float) -> float:
    """Rate of step `step` (0 is the first): linear warm-up to `peak`, then half a cosine to `final_share * peak`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return peak * (final_share + (1 - final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class Ema:
    """Exponential moving average of a model's weights; `model` is a copy in evaluation mode that holds them.

    The decay grows from 0.1 to its final value as (1 + step) / (10 + step), so that the first, random weights are
    forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` as it is after step `step` (0 is the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
