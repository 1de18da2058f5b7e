"""Which optimizer takes which weights, the learning-rate schedule, and a moving average of the weights."""

import copy
import math
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from worldmodel.muon import Muon

OptimizerName = Literal["adamw", "muon"]
Model = TypeVar("Model", bound=nn.Module)


def build_optimizers(
    model: nn.Module,
    name: OptimizerName,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    dtype: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """The optimizers that together move every weight once.

    `adamw`: AdamW for all; matrices decay, while norms, biases and embedding tables do not. `muon`: Muon for
    the matrices of the trunk but the routers, AdamW as before for the rest. Each group keeps its peak rate
    under `peak`. The state is there from the start, as zeros: a checkpoint then has the same tensors at every
    step, also where a weight has had no gradient yet.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden, matrices, others = [], [], []
    for place, parameter in model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in tables:
            others.append(parameter)
        elif name == "muon" and place.startswith("trunk.") and "router" not in place:
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    decayed = {"params": matrices, "weight_decay": weight_decay, "peak": lr}
    plain = {"params": others, "weight_decay": 0.0, "peak": lr}
    adamw = torch.optim.AdamW([decayed, plain], lr=lr, betas=betas, fused=True)
    for parameter in matrices + others:
        moments = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        adamw.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    if not hidden:
        return [adamw]
    group = {"params": hidden, "peak": muon_lr}
    muon = Muon([group], lr=muon_lr, weight_decay=weight_decay, iteration_dtype=dtype)
    for parameter in hidden:
        muon.state[parameter] = {"momentum": torch.zeros_like(parameter)}
    return [adamw, muon]


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Give every group `share` of its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]


def schedule(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    """Share of the peak rate at `step` (0 is the first): linear warm-up, then a cosine to `final_share`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state by weight and kind, sharing memory with it."""
    states = {parameter: state for optimizer in optimizers for parameter, state in optimizer.state.items()}
    named = ((f"{name}.{key}", value) for name, p in model.named_parameters() for key, value in states[p].items())
    return dict(named)


class Ema(Generic[Model]):
    """Exponential moving average of a model's weights; `model` is a copy in evaluation mode that holds them.

    The decay grows from 0.1 to its final value as (1 + step) / (10 + step), so that the first weights are
    soon forgotten.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` as it is after step `step` (0 is the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
