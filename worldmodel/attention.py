"""Rotary positions, the hybrid mask in the form that each backend wants, and attention.

Axes: b batch, n query tokens, m key tokens, k heads, g key/value heads, r = k / g heads per group, d head width.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.compilation import keep_many_graphs, missing_compiler
from worldmodel.errors import UserError
from worldmodel.kv_cache import MASKED

logger = logging.getLogger(__name__)

Backend = Literal["auto", "softmax", "sdpa", "flex"]
SHORTEST_WAVE = 3.0  # patches; the waves across a frame double from here, so that neighboring patches differ clearly
SOFTMAX_LIMIT = 512  # up to this length a plain softmax is faster than SDPA on a CPU
BLOCK = 128  # queries and keys that FlexAttention skips or computes together
NARROWEST = 16  # head width that FlexAttention's kernels take


def hybrid_mask(document_id: Tensor, frame_id: Tensor) -> Tensor:
    """Compute which positions may attend to which: causal, but both ways inside one frame, never across documents.

    (arXiv 2603.03276, section 3: text is causal, vision is block-wise causal.) With T a text token and Fi a token of frame i of
    one document, row = query:

              T  F1 F1 T  F2              T  T'                (T' begins another document)
        T     1  .  .  .  .          T    1  .
        F1    1  1  1  .  .          T'   .  1
        F1    1  1  1  .  .
        T     1  1  1  1  .
        F2    1  1  1  1  1

    Args:
        document_id: (b, n) int; padding is -1.
        frame_id: (b, n) int, equal inside one frame, -1 for everything that is not part of a frame.

    Returns:
        (b, n, n) bool, True where query (axis 1) may attend to key (axis 2).
    """
    n = document_id.shape[1]
    order = torch.arange(n, device=document_id.device)
    same_document = document_id[:, :, None] == document_id[:, None, :]
    causal = order[:, None] >= order[None, :]
    same_frame = (frame_id[:, :, None] == frame_id[:, None, :]) & (frame_id[:, :, None] >= 0)
    return same_document & (causal | same_frame)


class AttentionContext(Protocol):
    """What tokens may attend to: each other (`AttentionMask`), or earlier ones, too (`worldmodel.kv_cache.CachedContext`)."""

    def at(self, layer: int) -> "AttentionContext":
        """Return the context of a layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attend with q (b, k, n, d), whose own keys and values are k, v (b, g, n, d); returns (b, k, n, d)."""


@dataclass(frozen=True)
class AttentionMask:
    """A mask prepared once per batch and shared by all layers, in the form its backend wants."""

    backend: str
    value: Any  # softmax: (b, 1, n, n) bias; sdpa: (b, 1, n, n) bool, None: no mask; flex: BlockMask

    def at(self, layer: int) -> "AttentionMask":
        """Return the mask itself, whatever the layer: one compiled graph serves all."""
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attend as `attend` does."""
        return attend(q, k, v, self, scale)


def prepare_mask(document_id: Tensor, frame_id: Tensor, backend: Backend = "auto", dtype: torch.dtype | None = None) -> AttentionMask:
    """Build the hybrid mask for one packed batch: FlexAttention on CUDA, plain softmax or SDPA elsewhere.

    All work on masks is here: layers use the result as it is. Nothing waits for the device. On CUDA `auto` takes SDPA for rows that
    are shorter than one block, and where FlexAttention, which has to be compiled, cannot be.

    Args:
        document_id: (b, n) int; padding is -1. Any n will do; for FlexAttention a multiple of 128 is best, since the last block of a
            row is computed whole.
        frame_id: (b, n) int, equal inside one frame, -1 outside.
        backend: see above.
        dtype: that attention is computed in, in which `softmax` adds its mask; None: autocast's, or float32.

    Raises:
        UserError: `flex` on a GPU where nothing can be compiled.
    """
    n = document_id.shape[1]
    if backend == "auto":
        backend = choose_backend(document_id.device, n)
    if backend == "flex":
        if document_id.is_cuda and (missing := _missing_compiler(document_id.device)):
            raise UserError(f"FlexAttention has to be compiled, but {missing}; install it, or set attention to sdpa")
        return AttentionMask("flex", _flex_mask(document_id, frame_id))
    allowed = hybrid_mask(document_id, frame_id)[:, None]
    if backend == "sdpa":
        return AttentionMask("sdpa", allowed)
    device = allowed.device
    if dtype is None:
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    return AttentionMask("softmax", torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, MASKED))


def choose_backend(device: torch.device, n: int) -> Backend:
    """Resolve `auto` for rows of n positions on this device."""
    if device.type == "cuda":
        return "sdpa" if n < BLOCK or _missing_compiler(device) else "flex"
    return "softmax" if n <= SOFTMAX_LIMIT else "sdpa"


@functools.cache
def _missing_compiler(device: torch.device) -> str:
    missing = missing_compiler(device)
    if missing:
        logger.warning("FlexAttention cannot be compiled, since %s: attention takes a dense mask, more time and more memory", missing)
    return missing


def visible_range(document_id: Tensor, frame_id: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and last position (b, n) that each position may attend to, for rows whose documents and frames are whole.

    What a position sees is one stretch: from the start of its document to itself, or to the end of its frame.
    """
    n = document_id.shape[1]
    order = torch.arange(n, device=document_id.device).expand_as(document_id)
    starts = F.pad(document_id[:, 1:] != document_id[:, :-1], (1, 0), value=True)
    first = torch.where(starts, order, 0).cummax(1).values
    ends = F.pad(frame_id[:, 1:] != frame_id[:, :-1], (0, 1), value=True) | (frame_id < 0)
    last = torch.where(ends, order, n).flip(1).cummin(1).values.flip(1)
    return first, last


def _flex_mask(document_id: Tensor, frame_id: Tensor) -> Any:
    """Build FlexAttention's block mask from the ranges alone: n^2 / 128 comparisons instead of the n^2 of `create_block_mask`."""
    from torch.nn.attention.flex_attention import BlockMask

    first, last = (x.int() for x in visible_range(document_id, frame_id))

    def allow(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:  # reads two numbers per query, none per key
        return (first[b, q] <= k) & (k <= last[b, q])

    n = document_id.shape[1]
    blocks = -(-n // BLOCK)
    rest = blocks * BLOCK - n
    low = rearrange(F.pad(first, (0, rest), value=blocks * BLOCK), "b (i q) -> b i q 1", q=BLOCK)  # queries beyond the end see nothing
    high = rearrange(F.pad(last, (0, rest), value=-1), "b (i q) -> b i q 1", q=BLOCK)
    begin = torch.arange(blocks, device=document_id.device) * BLOCK
    end = begin + BLOCK - 1
    touched = ((low <= end) & (high >= begin)).any(2)  # (b, i, j): blocks of queries, blocks of keys
    full = ((low <= begin) & (high >= end)).all(2)
    partial_count, partial_index = _listed(touched & ~full)
    full_count, full_index = _listed(full)
    return BlockMask.from_kv_blocks(
        partial_count, partial_index, full_count, full_index, BLOCK_SIZE=BLOCK, mask_mod=allow, seq_lengths=(n, n)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """List the key blocks that each query block takes, (b, i, j) bool, as how many (b, 1, i) and which, these first (b, 1, i, j)."""
    order = blocks.int().argsort(stable=True, dim=-1, descending=True)
    return blocks.sum(-1).int()[:, None], order.int()[:, None]


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """Compile FlexAttention, which is only fused when compiled; one compilation serves all layers."""
    from torch.nn.attention.flex_attention import flex_attention

    keep_many_graphs()  # held-out batches and texts have other shapes than those that are trained on
    return torch.compile(flex_attention, dynamic=False)


def _flex_attention(on_gpu: bool) -> Callable[..., Any]:
    """Return FlexAttention: compiled on a GPU, unless it is part of something being compiled; as it is on a CPU, forward only."""
    from torch.nn.attention.flex_attention import flex_attention

    if on_gpu and not torch.compiler.is_compiling():
        return _compiled_flex_attention()
    return cast(Callable[..., Any], flex_attention)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: float | None = None) -> Tensor:
    """Attend with q (b, k, n, d) to k, v (b, g, n, d), scaled by 1/sqrt(d) or `scale`; returns (b, k, n, d)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    grouped = q.shape[1] != k.shape[1]
    if mask.backend == "flex":
        width = q.shape[-1]
        if width < NARROWEST:  # zeros change neither scores nor sums
            q, k, v = (F.pad(x, (0, NARROWEST - width)) for x in (q, k, v))
        out = _flex_attention(q.is_cuda)(q, k, v, block_mask=mask.value, scale=scale, enable_gqa=grouped)
        assert isinstance(out, Tensor)
        return out if out.shape[-1] == width else out[..., :width]
    groups = k.shape[1]
    if mask.backend == "sdpa":
        if grouped:  # the fused kernel of CUDA that takes a mask knows no groups; what remains there writes all n^2 scores
            k, v = (repeat(x, "b g n d -> b (g r) n d", r=q.shape[1] // groups) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.value, scale=scale)
    q = rearrange(q, "b (g r) n d -> b g (r n) d", g=groups)
    scores = torch.matmul(q * scale, k.transpose(-1, -2))  # (b, g, r n, m)
    scores = rearrange(scores, "b g (r n) m -> b g r n m", n=mask.value.shape[-2]) + mask.value[:, :, None]
    weights = rearrange(scores.softmax(-1), "b g r n m -> b g (r n) m")
    return rearrange(torch.matmul(weights, v), "b g (r n) d -> b (g r) n d", n=mask.value.shape[-2])


def rotary_angles(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines of a rotary embedding (arXiv 2104.09864), plain or axial.

    Args:
        positions: int; (b, n, 1): place in the sequence, which all pairs follow. (b, n, 3): place in the sequence, row and column in
            the frame (0, 0 outside frames): half of the pairs follow the first, a quarter each of the others. All tokens of a frame
            share the first, so equal patches of two frames differ in it alone, and copying one is easy to learn.
        head_width: width of one head, a multiple of 8.
        theta: base of the wavelengths.

    Returns:
        cos, sin (b, 1, n, head_width / 2).
    """
    pairs = head_width // 2
    side = pairs // 4 if positions.shape[-1] == 3 else 0
    steps = torch.arange(pairs - 2 * side, device=positions.device)
    along_time = theta ** (-steps / len(steps))
    across_frame = 2 * math.pi / SHORTEST_WAVE * 2.0 ** -torch.arange(side, device=positions.device)
    frequencies = (along_time, across_frame, across_frame)[: positions.shape[-1]]
    angles = torch.cat([positions[..., axis, None] * f for axis, f in enumerate(frequencies)], dim=-1)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary angles to x (b, k, n, d)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalized queries and keys and rotary positions.

    Args:
        width: of the tokens.
        heads: query heads; divide the width.
        kv_heads: key/value heads; divide the query heads.
        base_head_width: scale scores by sqrt(base_head_width) / head width instead of 1 / sqrt(head width), which is the same where
            the head has this width (muP: arXiv 2203.03466, definition 4.1).
    """

    def __init__(self, width: int, heads: int, kv_heads: int, base_head_width: int | None = None) -> None:
        super().__init__()
        if width % heads or heads % kv_heads:
            raise UserError(f"width {width} must divide by heads {heads}, and heads by kv_heads {kv_heads}")
        if width // heads % 8:
            raise UserError(f"the head width {width // heads} (width / heads) must be a multiple of 8")
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.scale = math.sqrt(base_head_width or self.head_width) / self.head_width
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(self.head_width)
        self.key_norm = nn.RMSNorm(self.head_width)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        """Map x (b, n, width) to (b, n, width)."""
        qkv = rearrange(self.qkv(x), "b n (k d) -> b k n d", d=self.head_width)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q = rotate(self.query_norm(q.float()), *rotary).to(v.dtype)  # norms in float32 under autocast too, like their weights
        k = rotate(self.key_norm(k.float()), *rotary).to(v.dtype)
        out = context.attend(q, k, v, self.scale)
        return self.out(rearrange(out, "b k n d -> b n (k d)"))
