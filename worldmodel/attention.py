"""Rotary positions, the hybrid mask, attention, and attention over a key/value cache with a shared prefix.

Axes: b batch, n query tokens, m key tokens, k heads, g key/value heads, r = k / g heads per group, d head width,
s sequences that share one prefix.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.errors import UserError

Backend = Literal["auto", "softmax", "sdpa", "flex"]
MASKED = -1e9
SHORTEST_WAVE = 3.0  # patches; the waves across a frame double from here, so that neighbouring patches differ clearly
SOFTMAX_LIMIT = 512  # up to this length a plain softmax is faster than SDPA on a CPU


def hybrid_mask(document_id: Tensor, frame_id: Tensor) -> Tensor:
    """Who may look at whom: causal, but both ways inside one frame, never across documents.

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


@dataclass(frozen=True)
class AttentionMask:
    """A mask prepared once per batch and shared by all layers, in the form its backend wants."""

    backend: str
    value: Any  # softmax: (b, 1, n, n) float bias; sdpa: (b, 1, n, n) bool; flex: BlockMask


def prepare_mask(document_id: Tensor, frame_id: Tensor, backend: Backend = "auto") -> AttentionMask:
    """Build the hybrid mask for one packed batch: FlexAttention on CUDA, plain softmax or SDPA elsewhere."""
    n = document_id.shape[1]
    if backend == "auto":
        backend = "flex" if document_id.is_cuda else "softmax" if n <= SOFTMAX_LIMIT else "sdpa"
    if backend == "flex":
        return AttentionMask("flex", _flex_mask(document_id, frame_id))
    allowed = hybrid_mask(document_id, frame_id)[:, None]
    if backend == "sdpa":
        return AttentionMask("sdpa", allowed)
    bias = torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, MASKED)
    return AttentionMask("softmax", bias)


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    """FlexAttention is only fused when compiled; one compilation serves all layers."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex_mask(document_id: Tensor, frame_id: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allow(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same_frame = (frame_id[b, q] == frame_id[b, k]) & (frame_id[b, q] >= 0)
        return (document_id[b, q] == document_id[b, k]) & ((k <= q) | same_frame)

    b, n = document_id.shape
    return create_block_mask(allow, b, None, n, n, device=str(document_id.device))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
    """Attention of q (b, k, n, d) over k, v (b, g, n, d), scaled by 1/sqrt(d); returns (b, k, n, d)."""
    if mask.backend == "flex":
        out = _compiled_flex_attention()(q, k, v, block_mask=mask.value, enable_gqa=q.shape[1] != k.shape[1])
        assert isinstance(out, Tensor)
        return out
    if mask.backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.value, enable_gqa=q.shape[1] != k.shape[1])
    groups = k.shape[1]
    q = rearrange(q, "b (g r) n d -> b g (r n) d", g=groups)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))  # (b, g, r n, m)
    bias = mask.value.to(scores.dtype)
    scores = rearrange(scores, "b g (r n) m -> b g r n m", n=bias.shape[-2]) + bias[:, :, None]
    weights = rearrange(scores.softmax(-1), "b g r n m -> b g (r n) m")
    return rearrange(torch.matmul(weights, v), "b g (r n) d -> b (g r) n d", n=mask.value.shape[-2])


class KVCache:
    """Keys and values of all layers: a prefix computed once per problem, and each sequence's own suffix.

    `share(s)` turns what has been written so far into the prefix and opens s empty suffixes per problem, so that the
    candidates of a planner share the history's memory and its matrix products (Hydragen, arXiv 2402.05099).
    """

    def __init__(self, depth: int, capacity: int) -> None:
        self.depth, self.capacity = depth, capacity
        self.length = 0
        self.keys: list[Tensor | None] = [None] * depth  # (b s, g, capacity, d)
        self.values: list[Tensor | None] = [None] * depth
        self.valid: Tensor | None = None  # (b s, capacity) bool: False for padding
        self.prefix: list[tuple[Tensor, Tensor]] | None = None  # per layer (b, g, p, d) twice
        self.prefix_valid: Tensor | None = None  # (b, p)

    def share(self, samples: int, capacity: int, rows: slice) -> "KVCache":
        """A new cache whose prefix is this one's content at problems `rows`, for `samples` suffixes of up to `capacity` tokens."""
        if self.prefix is not None:
            raise ValueError("this cache shares a prefix already; share the cache that encoded the history")
        assert self.valid is not None, "nothing has been written to this cache"
        shared = KVCache(self.depth, capacity)
        shared.prefix = [
            (k[rows, :, : self.length], v[rows, :, : self.length])
            for k, v in zip(self.keys, self.values, strict=True)
            if k is not None and v is not None
        ]
        shared.prefix_valid = self.valid[rows, : self.length]
        return shared

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values (b s, g, n, d) behind what is committed; returns all of the suffix, new ones included."""
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens per sequence, {end} are needed")
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            keys = k.new_zeros(k.shape[0], k.shape[1], self.capacity, k.shape[3])
            values = torch.zeros_like(keys)
            self.keys[layer], self.values[layer] = keys, values
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def commit(self, valid: Tensor) -> None:
        """Keep the tokens written last; valid (b s, n) is False at padding."""
        if self.valid is None:
            self.valid = torch.zeros(valid.shape[0], self.capacity, dtype=torch.bool, device=valid.device)
        end = self.length + valid.shape[1]
        self.valid[:, self.length : end] = valid
        self.length = end


def attend_cached(q: Tensor, k: Tensor, v: Tensor, cache: KVCache, layer: int, mask: Tensor) -> Tensor:
    """Attention of new tokens over the cache and over each other.

    Args:
        q: (b s, k, n, d) queries of the new tokens.
        k: (b s, g, n, d) their keys.
        v: (b s, g, n, d) their values.
        cache: written to, not committed: write again to replace (each denoising step), or `commit`.
        layer: which layer of the cache.
        mask: (n, n) or (b s, n, n) bool among the new tokens, padding excluded.

    Returns:
        (b s, k, n, d).
    """
    past, n, groups = cache.length, q.shape[2], k.shape[1]
    all_k, all_v = cache.write(layer, k, v)
    q = rearrange(q * q.shape[-1] ** -0.5, "b (g r) n d -> b g (r n) d", g=groups)
    repeats = q.shape[2] // n
    new = mask.expand(q.shape[0], n, n)
    if cache.valid is not None and past:
        new = torch.cat([repeat(cache.valid[:, :past], "b m -> b n m", n=n), new], dim=2)
    bias = torch.zeros(new.shape, dtype=q.dtype, device=q.device).masked_fill_(~new, MASKED)
    scores = torch.matmul(q, all_k.transpose(-1, -2)) + repeat(bias, "b n m -> b 1 (r n) m", r=repeats)
    if cache.prefix is None or cache.prefix_valid is None:
        return rearrange(torch.matmul(scores.softmax(-1), all_v), "b g (r n) d -> b (g r) n d", n=n)
    prefix_k, prefix_v = cache.prefix[layer]
    b = prefix_k.shape[0]
    shared_q = rearrange(q, "(b s) g n d -> b g (s n) d", b=b)
    prefix_scores = torch.matmul(shared_q, prefix_k.transpose(-1, -2))  # one product for all samples of a problem
    prefix_bias = torch.zeros(cache.prefix_valid.shape, dtype=q.dtype, device=q.device)
    prefix_bias.masked_fill_(~cache.prefix_valid, MASKED)
    prefix_scores = prefix_scores + prefix_bias[:, None, None, :]
    samples = q.shape[0] // b
    prefix_scores = rearrange(prefix_scores, "b g (s n) p -> (b s) g n p", s=samples)
    weights = torch.cat([prefix_scores, scores], dim=-1).softmax(-1)
    prefix_weights, own_weights = weights.split([prefix_k.shape[2], all_k.shape[2]], dim=-1)
    shared = torch.matmul(rearrange(prefix_weights, "(b s) g n p -> b g (s n) p", b=b), prefix_v)
    out = torch.matmul(own_weights, all_v) + rearrange(shared, "b g (s n) d -> (b s) g n d", s=samples)
    return rearrange(out, "b g (r n) d -> b (g r) n d", n=n)


def rotary_angles(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of an axial rotary embedding (arXiv 2104.09864).

    Half of the pairs follow the place in the sequence, a quarter the row, a quarter the column.

    Args:
        positions: (b, n, 3) int: place in the sequence, row and column in the frame (0, 0 outside frames). All tokens of a
            frame share the first, so equal patches of two frames differ in it alone, and copying one is easy to learn.
        head_width: width of one head, a multiple of 8.
        theta: base of the wavelengths.

    Returns:
        cos, sin (b, 1, n, head_width / 2).
    """
    pairs = head_width // 2
    side = pairs // 4
    steps = torch.arange(pairs - 2 * side, device=positions.device)
    along_time = theta ** (-steps / len(steps))
    across_frame = 2 * math.pi / SHORTEST_WAVE * 2.0 ** -torch.arange(side, device=positions.device)
    frequencies = (along_time, across_frame, across_frame)
    angles = torch.cat([positions[..., axis, None] * f for axis, f in enumerate(frequencies)], dim=-1)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary angles to x (b, k, n, d)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        if width % heads or heads % kv_heads:
            raise UserError(f"width {width} must divide by heads {heads}, and heads by kv_heads {kv_heads}")
        if width // heads % 8:
            raise UserError(f"the head width {width // heads} (width / heads) must be a multiple of 8")
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(self.head_width)
        self.key_norm = nn.RMSNorm(self.head_width)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: AttentionMask | Tensor,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """X (b, n, width) -> (b, n, width); with a cache, `mask` is the bool mask among the new tokens."""
        qkv = rearrange(self.qkv(x), "b n (k d) -> b k n d", d=self.head_width)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q = rotate(self.query_norm(q.float()), *rotary).to(v.dtype)  # norms in float32 under autocast too, like their weights
        k = rotate(self.key_norm(k.float()), *rotary).to(v.dtype)
        if cache is None:
            assert isinstance(mask, AttentionMask)
            out = attend(q, k, v, mask)
        else:
            assert isinstance(mask, Tensor)
            out = attend_cached(q, k, v, cache, layer, mask)
        return self.out(rearrange(out, "b k n d -> b n (k d)"))
