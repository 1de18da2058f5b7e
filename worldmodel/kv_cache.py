"""A key/value cache with a shared prefix, and attention over it.

Axes: b batch, n query tokens, m key tokens, k heads, g key/value heads, r = k / g heads per group, d head width,
s sequences that share one prefix.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor

MASKED = -1e9
"""What is added to the score of a key that must not be seen."""


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
        """Make a cache whose prefix is this one's content at problems `rows`, for `samples` suffixes of up to `capacity` tokens."""
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


@dataclass(frozen=True)
class CachedContext:
    """What new tokens attend to: what the cache holds, and each other."""

    cache: KVCache
    """Written to, not committed: write again to replace (each denoising step), or `commit`."""
    mask: Tensor
    """(n, n) or (b s, n, n) bool among the new tokens, padding excluded."""
    layer: int = 0
    """Which layer of the cache."""

    def at(self, layer: int) -> "CachedContext":
        """Return the context of a layer."""
        return replace(self, layer=layer)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attend with the queries (b s, k, n, d) of new tokens, whose keys and values are (b s, g, n, d); returns (b s, k, n, d)."""
        cache = self.cache
        past, n, groups = cache.length, q.shape[2], k.shape[1]
        all_k, all_v = cache.write(self.layer, k, v)
        q = rearrange(q * scale, "b (g r) n d -> b g (r n) d", g=groups)
        repeats = q.shape[2] // n
        new = self.mask.expand(q.shape[0], n, n)
        if cache.valid is not None and past:
            new = torch.cat([repeat(cache.valid[:, :past], "b m -> b n m", n=n), new], dim=2)
        bias = torch.zeros(new.shape, dtype=q.dtype, device=q.device).masked_fill_(~new, MASKED)
        scores = torch.matmul(q, all_k.transpose(-1, -2)) + repeat(bias, "b n m -> b 1 (r n) m", r=repeats)
        if cache.prefix is None or cache.prefix_valid is None:
            return rearrange(torch.matmul(scores.softmax(-1), all_v), "b g (r n) d -> b (g r) n d", n=n)
        prefix_k, prefix_v = cache.prefix[self.layer]
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
