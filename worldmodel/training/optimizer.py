"""Which optimizer takes which weights and at what rate, the learning-rate schedule, and a moving average of the weights.

Rates that carry over between widths (muP: arXiv 2203.03466, table 8). Where the model has a `base_width`, `lr` is the rate at that
width, and with m = width / base_width

    weights                                            AdamW's rate    initial variance   forward multiplier
    inputs (embeddings, latents, actions, flow time)   lr              fixed              1
    biases, norms                                      lr              -                  1
    hidden matrices (fan-in grows), routers            lr / m          1 / fan-in         1
    readouts (text, latents; fan-out is fixed)         lr              fixed              1 / m
    wide visual head (its own width is fixed)          lr              1 / fan-in         1
    its matrix that takes in the hidden states         lr / m          1 / fan-in         1
    stem, but for its gathering of tokens              lr b / fan-in   1 / fan-in         1
    stem's gathering of tokens (its fan-in is fixed)   lr              1 / fan-in         1
    readout of actions                                 lr / m          0                  1

b is `base_width`, or the trunk's width where there is none; no rate is above `lr`. A stem takes in whole maps and all hidden states
of a frame, many times as many numbers as the trunk is wide, and paints worse at the trunk's rate. Tokens are gathered at that rate all
the same: more slowly, actions are learned later (both measured, docs/ideas.md).

The last two columns are the model's. Routers are readouts inside the trunk; with the initial variance of a hidden matrix they have
no multiplier, and its rate. Weight decay times rate stays the same at every width. Muon's rate needs no rule: the size of its updates
follows from the ratio of fan-out and fan-in (arXiv 2505.02222; `muon.Muon`). Depth, heads' width, batch and number of steps are to be
the same; hidden widths grow with the width.
"""

import math
from typing import Any, Generic, Literal

import torch
from torch import Tensor, nn

from worldmodel.model import WorldModel
from worldmodel.training.distributed import Model, duplicate, local, weights
from worldmodel.training.muon import Muon

OptimizerName = Literal["adamw", "muon"]
INPUTS = ("token_embedding.", "latent_in.", "action_in.", "patch_embedding", "time_in.network.0.")
"""Matrices whose fan-in does not grow with the width, by the start of their names."""
READOUTS = ("text_out.", "latent_out.")
"""Matrices whose fan-out does not, and which have a multiplier."""


def build_optimizers(
    model: WorldModel,
    name: OptimizerName,
    lr: float,
    muon_lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    dtype: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """Build the optimizers that together move every weight once; a model that is to be sharded is so already.

    `adamw`: AdamW for all; matrices decay, while norms, biases, the table of tokens and what stands for missing frames do not. `muon`:
    Muon for the matrices of the trunk but the routers, AdamW as before for the rest. Each group keeps its peak rate under `peak`; the
    module's docstring says how it depends on the width. The state is there from the start, as zeros: a checkpoint then has the same
    tensors at every step, also where a weight has had no gradient yet.
    """
    base = model.config.base_width or model.config.trunk.width
    m = model.config.trunk.width / base
    named = weights(model)
    plain = [place for place, p in named.items() if p.ndim < 2 or place.startswith(("token_embedding.", "stem.missing"))]
    matrices = [place for place in named if place not in plain]
    trunk = [place for place in matrices if name == "muon" and place.startswith("trunk.") and "router" not in place]
    slower: dict[float, list[str]] = {}
    for place in (place for place in matrices if place not in trunk):
        slower.setdefault(slowness(place, named[place], base, m), []).append(place)
    groups = [
        {"params": [named[place] for place in places], "weight_decay": weight_decay * k, "peak": lr / k}
        for k, places in sorted(slower.items())
    ]
    groups.append({"params": [named[place] for place in plain], "weight_decay": 0.0, "peak": lr})
    rest = build_adamw(groups, lr, betas)
    if not trunk:
        return [rest]
    group = {"params": [named[place] for place in trunk], "peak": muon_lr}
    muon = Muon([group], lr=muon_lr, weight_decay=weight_decay, iteration_dtype=dtype)
    for place in trunk:
        muon.state[named[place]] = {"momentum": torch.zeros_like(named[place])}
    return [rest, muon]


def build_adamw(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Build AdamW for groups with `params`, `weight_decay` and peak rate `peak`; its state is there from the start, as zeros."""
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    for weight in (weight for group in groups for weight in group["params"]):
        moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        optimizer.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}
    return optimizer


def slowness(name: str, matrix: Tensor, base: int, m: float) -> float:
    """Return how many times lower than `lr` AdamW's rate of a matrix is: see the module's table.

    Args:
        name: of the matrix in the model.
        matrix: fan-out first.
        base: width at which `lr` is the rate.
        m: the trunk's width over it.
    """
    if name.startswith("stem."):
        return 1.0 if name.startswith("stem.gather.") else max(1.0, math.prod(matrix.shape[1:]) / base)
    if name.startswith("visual_head.") and not name.startswith("visual_head.hidden_in."):
        return 1.0
    return 1.0 if name.startswith(INPUTS + READOUTS) else m


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Give every group `share` of its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]


def schedule(step: int, steps: int, warmup_steps: int, final_share: float) -> float:
    """Return the share of the peak rate at `step` (0 is the first): linear warm-up, then a cosine to `final_share`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final_share + (1 - final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Collect the optimizers' state by weight and kind, sharing memory with it."""
    states = {parameter: state for optimizer in optimizers for parameter, state in optimizer.state.items()}
    named = ((f"{name}.{key}", value) for name, p in weights(model).items() for key, value in states[p].items())
    return dict(named)


class Ema(Generic[Model]):
    """Exponential moving average of a model's weights; `model` is a copy in evaluation mode that holds them.

    The decay grows from 0.1 to its final value as (1 + step) / (10 + step), so that the first weights are
    soon forgotten. A model that is to be sharded is so already, and the copy is in the same parts.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = duplicate(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move toward `model` as it is after step `step` (0 is the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(p) for p in weights(self.model).values()]
        torch._foreach_lerp_(averages, [local(p) for p in weights(model).values()], 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
