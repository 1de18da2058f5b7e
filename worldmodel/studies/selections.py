"""What routers choose on held-out batches, counted by kind of token, layer and expert, with routers of fresh weights as control.

Axes: n batches, l layers, e experts, f frames, g noised frames, p tokens of a frame, j flat positions, k selections per token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from worldmodel.batch import PackedBatch
from worldmodel.errors import UserError
from worldmodel.flow import interpolate
from worldmodel.model import WorldModel
from worldmodel.moe import MixtureOfExperts
from worldmodel.precision import autocast, choose_dtype
from worldmodel.tokens import ACTION, TEXT, VISION

KINDS = ("text", "vision", "action", "understanding", "generation", "shuffled_text", "shuffled_vision")
"""Kinds of tokens that are counted apart. The marks around frames are none of them."""


@dataclass(frozen=True)
class Selections:
    """How often a router chose each expert."""

    counts: dict[str, Tensor]
    """(n, l, e) float64, for each of `KINDS`."""
    frames: Tensor
    """(g, l, e) float64, by the tokens of each noised frame."""
    times: Tensor
    """(g,) flow times of these frames."""


@torch.no_grad()
def record(
    model: WorldModel, batches: Iterable[tuple[PackedBatch, Tensor]], marks: Sequence[int], seed: int
) -> tuple[Selections, Selections]:
    """Run held-out batches and count what the routers choose.

    Args:
        model: with a mixture of experts, in evaluation mode.
        batches: each with the (f, p, c) latents of its frames, on the model's device.
        marks: ids of the tokens around frames.
        seed: of flow times, noise, the fresh routers and the shuffled labels.

    Returns:
        The selections of the model's own routers, and those that routers with fresh weights make of the same hidden states.

    Raises:
        UserError: the model has no experts; the batches have no text or no frames.
    """
    layers = [module for module in model.trunk.modules() if isinstance(module, MixtureOfExperts)]
    if not layers:
        raise UserError(f"the model has no experts, its feed_forward is {model.config.trunk.feed_forward!r}")
    generator = torch.Generator().manual_seed(seed)
    device = layers[0].router.weight.device
    fresh = [
        torch.randn(layer.router.weight.shape, generator=generator).to(device) / layer.router.in_features**0.5 for layer in layers
    ]
    chosen: list[tuple[Tensor, Tensor]] = []  # of the batch that runs, layer by layer

    def note(layer: MixtureOfExperts, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        logits = F.linear(x.float(), fresh[len(chosen)])
        chosen.append((layer.route(x)[1], logits.topk(layer.config.top_k, dim=-1).indices))

    counts: tuple[dict[str, list[Tensor]], ...] = ({kind: [] for kind in KINDS}, {kind: [] for kind in KINDS})
    frames: tuple[list[Tensor], ...] = ([], [])
    times = []
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        for batch, latents in batches:
            chosen.clear()
            latents, given = latents.split([len(batch.clean), len(latents) - len(batch.clean)])
            t = torch.rand(len(latents), generator=generator).to(device)
            t = torch.where(batch.clean, torch.ones_like(t), t)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            with autocast(device, choose_dtype("auto", device)):
                z_t = interpolate(latents, noise, rearrange(t, "f -> f 1 1"))
                model(batch, model.see(z_t, t, model.beside(batch, latents, given)), t)
            masks = token_kinds(batch, marks, generator)
            for which in range(2):
                experts = torch.stack([pair[which] for pair in chosen])  # (l, j, k)
                for kind in KINDS:
                    counts[which][kind].append(count(experts[:, masks[kind]], layers[0].config.num_experts))
                frames[which].append(_by_frame(experts, batch, layers[0].config.num_experts))
            times.append(t[~batch.clean].cpu())
    finally:
        for hook in hooks:
            hook.remove()
    own, control = (
        Selections({kind: torch.stack(each) for kind, each in counted.items()}, torch.cat(by_frame), torch.cat(times))
        for counted, by_frame in zip(counts, frames, strict=True)
    )
    for kind, what in (("text", "text"), ("vision", "frames")):
        if not own.counts[kind].sum():
            raise UserError(f"the held-out documents have no {what}, and specialization compares text with vision: add a source of it")
    return own, control


def token_kinds(batch: PackedBatch, marks: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Tell which of the flat positions (j,) are of which kind, bool for each of `KINDS`."""
    document, modality, frame = batch.document_id.flatten(), batch.modality.flatten(), batch.frame_id.flatten()
    filled = document >= 0
    mark = torch.isin(batch.token_id.flatten(), torch.tensor(list(marks), device=document.device))
    text, vision = (modality == TEXT) & filled & ~mark, (modality == VISION) & filled
    noised = torch.zeros_like(vision)
    noised[vision] = ~batch.clean[frame[vision]]
    makes_frames = torch.isin(document, document[noised])
    places = (text | vision).nonzero()[:, 0]
    places = places[torch.randperm(len(places), generator=generator).to(places.device)]
    as_text = torch.zeros_like(text)
    as_text[places[: int(text.sum())]] = True
    return {
        "text": text,
        "vision": vision,
        "action": (modality == ACTION) & filled,
        "understanding": vision & ~makes_frames,
        "generation": noised,
        "shuffled_text": as_text,
        "shuffled_vision": (text | vision) & ~as_text,
    }


def count(experts: Tensor, num_experts: int) -> Tensor:
    """Count how often each expert is chosen: choices (l, j, k) to (l, e) float64 on the CPU."""
    row = rearrange(torch.arange(len(experts), device=experts.device) * num_experts, "l -> l 1 1")
    counted = torch.bincount((experts + row).flatten(), minlength=len(experts) * num_experts)
    return rearrange(counted.double().cpu(), "(l e) -> l e", e=num_experts)


def _by_frame(experts: Tensor, batch: PackedBatch, num_experts: int) -> Tensor:
    """Count choices (l, j, k) by the tokens of each noised frame: (g, l, e)."""
    flat = experts[:, batch.frame_positions]
    of_frames = rearrange(flat, "l (f p) k -> f l p k", f=len(batch.clean)) if len(batch.clean) else flat.new_zeros(0, len(flat), 0, 1)
    noised = of_frames[~batch.clean]
    g, layers = noised.shape[:2]
    return rearrange(count(rearrange(noised, "g l p k -> (g l) p k"), num_experts), "(g l) e -> g l e", g=g, l=layers)
