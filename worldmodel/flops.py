"""Sizes of a model and the floating-point operations of a step, counted from its weights; and the rate of matrix products.

Counted are the operations that the mathematics asks for: two per weight and use in every matrix product (the router and the heads
included) and in every convolution of a stem (what lies beyond the edge of a map included), attention over the pairs that the mask
allows, nothing for looking up an embedding, for norms and activations, or for padding. What an implementation computes beyond that
(masked pairs, padding, recomputed activations) is not counted, so that these operations per second are a fair numerator over the
measured rate of a matrix product.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.batch import PackedBatch
from worldmodel.flow_head import HEAD_DEPTH
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.stem import COARSEST, WAVES
from worldmodel.tokens import IGNORE, VISION

LARGE, MEDIUM, SMALL = 8192, 2048, 256
"""Sides of the square matrices that are multiplied to measure a GPU, a CPU, and how long a product takes."""
EMBEDDINGS = ("token_embedding.", "text_out.")


@dataclass(frozen=True)
class ParameterCounts:
    """Weights of a model."""

    total: int
    """All of them."""
    active: int
    """Without the feed-forward networks and experts that a token does not visit; what the literature calls active parameters."""
    embedding: int
    """The table of text tokens and the text head."""
    trunk: int
    """The transformer blocks and the final norm."""
    active_trunk: int
    """Of these, what one token visits."""
    visual: int
    """Of the active ones, what a latent token passes: the trunk, the embedding of flow time, and the projections or the stem, in and
    out."""
    text: int
    """Of the active ones, what a text token passes: the trunk, the table's one row, and the text head."""


@dataclass(frozen=True)
class Uses:
    """How often each part of a model is used in one forward pass over a batch."""

    tokens: int
    """Positions that are filled."""
    visual: int
    """Of these, latents of frames."""
    frames: int
    """Frames."""
    actions: int
    """Action vectors."""
    questions: int
    """Questions for the next actions."""
    predicted: int
    """Text tokens that are predicted."""
    noised: int
    """Latent tokens of the frames that are predicted."""
    pairs: int
    """Pairs of a query and a key that the hybrid mask allows."""

    @classmethod
    def of(cls, batch: PackedBatch, frame_tokens: int) -> "Uses":
        """Count on the CPU; a batch on a GPU is waited for."""
        document, frame = batch.document_id.cpu(), batch.frame_id.cpu()
        filled = document >= 0
        return cls(
            tokens=int(filled.sum()),
            visual=int((filled & (batch.modality.cpu() == VISION)).sum()),
            frames=len(batch.frames),
            actions=len(batch.actions),
            questions=len(batch.answers),
            predicted=int((batch.text_target != IGNORE).sum()),
            noised=int((~batch.clean).sum()) * frame_tokens,
            pairs=allowed_pairs(document, frame),
        )


def allowed_pairs(document_id: Tensor, frame_id: Tensor) -> int:
    """Count the pairs of a query and a key that `worldmodel.attention.hybrid_mask` allows, padding left out.

    A document of n positions has n (n + 1) / 2 causal pairs, and each frame of p tokens adds its p (p - 1) / 2 pairs that look ahead.

    Args:
        document_id: (b, n) int; padding is -1; distinct within the batch.
        frame_id: (b, n) int, equal inside one frame, -1 elsewhere.
    """
    n = torch.bincount(document_id[document_id >= 0])
    p = torch.bincount(frame_id[(document_id >= 0) & (frame_id >= 0)])
    return int((n * (n + 1) // 2).sum() + (p * (p - 1) // 2).sum())


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """Count the weights of the model that `config` describes, which is built without memory for them."""
    sizes = {"total": 0, "active": 0, "embedding": 0, "trunk": 0, "active_trunk": 0, "visual": 0, "text": 0}
    for name, parameter in _parameters(config):
        active = round(parameter.numel() * _visited(name, parameter, config))
        sizes["total"] += parameter.numel()
        sizes["active"] += active
        if name.startswith(EMBEDDINGS):
            sizes["embedding"] += parameter.numel()
            sizes["text"] += config.trunk.width if name.startswith("token_embedding.") else active
        elif name.startswith("trunk."):
            sizes["trunk"] += parameter.numel()
            for kind in ("active_trunk", "visual", "text"):
                sizes[kind] += active
        elif not name.startswith("action_"):
            sizes["visual"] += config.trunk.width if name.startswith("patch_embedding") else active
    return ParameterCounts(**sizes)


def forward_flops(config: ModelConfig, batch: PackedBatch) -> float:
    """Count the floating-point operations of one forward pass with its heads; the module's docstring says what is counted."""
    uses = Uses.of(batch, config.frame_tokens)
    products = sum(2.0 * parameter.numel() * _times(name, parameter, config, uses) for name, parameter in _parameters(config))
    attention = 4.0 * config.trunk.width * config.trunk.depth * uses.pairs  # scores, and the weighted sum of values
    return products + attention + _places(config, uses) + 4.0 * config.wide_head * HEAD_DEPTH * uses.noised * config.frame_tokens


def training_flops(config: ModelConfig, batch: PackedBatch) -> float:
    """Count the floating-point operations of forward and backward over a batch: the gradients cost twice the forward pass.

    The few products whose input needs no gradient (the projections into the trunk) are counted the same way.
    """
    return 3.0 * forward_flops(config, batch)


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0, size: int | None = None) -> float:
    """Measure the best rate of a square matrix product, in floating-point operations per second.

    Args:
        device: a GPU or the CPU.
        dtype: of the factors.
        seconds: how long it is repeated, at least three times.
        size: side of the matrices; by default 8192 on a GPU, 2048 on a CPU, less where one product would take longer than `seconds`
            (bfloat16 on a CPU that does not multiply it).
    """
    if size is None:
        size = LARGE if device.type == "cuda" else MEDIUM
        small = 2.0 * SMALL**3 / matmul_rate(device, dtype, 0.0, SMALL)  # seconds of a small product
        while size > SMALL and small * (size / SMALL) ** 3 > seconds:
            size //= 2
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2)]
    out = torch.empty(size, size, dtype=dtype, device=device)
    best, spent, repeats = math.inf, 0.0, 0
    with torch.no_grad():
        torch.mm(*factors, out=out)
        while spent < seconds or repeats < 3:
            _synchronise(device)
            began = time.perf_counter()
            torch.mm(*factors, out=out)
            _synchronise(device)
            took = time.perf_counter() - began
            best, spent, repeats = min(best, took), spent + took, repeats + 1
    return 2.0 * size**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parameters(config: ModelConfig) -> Iterator[tuple[str, nn.Parameter]]:
    with torch.device("meta"):
        model = WorldModel(config)
    yield from model.named_parameters()


def _visited(name: str, parameter: nn.Parameter, config: ModelConfig) -> float:
    """Return the share of a weight tensor that one token uses."""
    if ".feed_forward." not in name:
        return 1.0
    if parameter.ndim == 3:  # a stack of networks
        stack = parameter.shape[0]
        if config.trunk.feed_forward != "moe":
            return 1 / stack
        always_on = 1 if stack > config.trunk.moe.num_experts else 0
        return (config.trunk.moe.top_k + always_on) / stack
    return 1.0


def _times(name: str, parameter: nn.Parameter, config: ModelConfig, uses: Uses) -> float:
    """Count the rows that are multiplied with a weight, as a share of it where it is a stack; 0 for what is no matrix."""
    if parameter.ndim < 2 or name.startswith(("token_embedding.", "patch_embedding", "stem.missing")):
        return 0
    if name.startswith("stem."):
        return _stem_times(name, config, uses)
    rows = {
        "trunk.": uses.tokens * _visited(name, parameter, config),
        "latent_in.": uses.visual,
        "action_in.": uses.actions,
        "action_out.": uses.questions,
        "time_in.": uses.frames,
        "modulate.": uses.frames,
        "visual_head.time_in.": uses.noised / config.frame_tokens,
        "visual_head.": uses.noised,
        "latent_out.": uses.noised,
        "text_out.": uses.predicted,
    }
    return next(count for prefix, count in rows.items() if name.startswith(prefix))


def _places(config: ModelConfig, uses: Uses) -> float:
    """Count operations over the positions of a stem's maps: attention when it decodes, and keypoints in all frames that it reads."""
    if not config.stem.tokens:
        return 0.0
    looks = 8.0 * WAVES * config.stem.looks * (uses.noised // config.stem.tokens)
    points = 4.0 * config.stem.keypoints * uses.frames * (1 + config.references)
    return (looks + points) * config.latent_tokens


def _stem_times(name: str, config: ModelConfig, uses: Uses) -> float:
    """Count how often a weight of the stem is used: every frame is encoded to maps, and only noised frames are decoded from them."""
    side, halvings = max(config.latent_grid), 0
    while side > COARSEST:
        side, halvings = side // 2, halvings + 1
    noised = uses.noised // config.frame_tokens
    _, part, *rest = name.split(".")
    if part == "keypoints":  # found in every frame and in those that it is seen beside
        return uses.frames * (1 if "tell" in rest else (1 + config.references) * config.latent_tokens)
    if "condition" in rest or part in ("gather", "spread", "look"):
        return uses.frames if part == "gather" else noised  # once a frame
    level = int(rest[0]) if part in ("down", "enlarge", "up") else 0
    halved = {"down": level + 1, "coarse": halvings, "enlarge": halvings - level, "up": halvings - level - 1}
    return (uses.frames if part in ("first", "down") else noised) * (config.latent_tokens >> 2 * halved.get(part, 0))
