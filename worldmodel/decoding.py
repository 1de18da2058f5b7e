"""Running the model segment by segment with a key/value cache: texts, frames and actions as they come.

Axes: b sequences, n positions, p latent tokens, c channels, a action numbers, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor

from worldmodel.attention import hybrid_mask
from worldmodel.kv_cache import CachedContext, KVCache
from worldmodel.model import Seen, WorldModel
from worldmodel.moe import TokenGroups
from worldmodel.precision import copied
from worldmodel.stem import Beside
from worldmodel.tokenizer import Tokenizer
from worldmodel.transformer import Modulation


@dataclass
class TextSegment:
    """Token ids (b, n); `valid` (b, n) is False at padding on the right."""

    ids: Tensor
    valid: Tensor


@dataclass
class FrameSegment:
    """Latents (b, l, c) of one frame at flow time t (1 = clean), seen beside the latents of the frames before it, the newest first."""

    latents: Tensor
    t: float
    beside: tuple[Tensor, ...] = ()
    seen: Seen | None = field(default=None, repr=False)  # set where it is appended: what the model paints it with

    def references(self, count: int) -> Beside:
        """Return the newest `count` frames that it is seen beside."""
        chosen = self.beside[:count]
        known = [*chosen, *[torch.zeros_like(self.latents)] * (count - len(chosen))]
        present = torch.arange(count, device=self.latents.device) < len(chosen)
        return Beside(torch.stack(known, 1) if known else self.latents[:, None][:, :0], present.expand(len(self.latents), count))


@dataclass
class ActionSegment:
    """Action vectors (b, a)."""

    vectors: Tensor


@dataclass
class QuestionSegment:
    """Asks each of `batch` sequences for the next actions."""

    batch: int


BatchSegment = TextSegment | FrameSegment | ActionSegment | QuestionSegment


class DecodingState:
    """A batch of sequences that grow segment by segment; what has been kept is never computed again."""

    def __init__(self, model: WorldModel, cache: KVCache, time: Tensor) -> None:
        self.model, self.cache, self.time = model, cache, time  # time (b,): each sequence's next place
        self.unconditional: DecodingState | None = None  # the same without what guidance strengthens

    @classmethod
    def start(cls, model: WorldModel, batch: int, capacity: int) -> "DecodingState":
        """Start `batch` empty sequences of up to `capacity` positions."""
        device = model.device
        return cls(model, KVCache(model.config.trunk.depth, capacity), torch.zeros(batch, dtype=torch.long, device=device))

    def share(self, samples: int, capacity: int, rows: slice) -> "DecodingState":
        """Make `samples` continuations of each of the sequences `rows`, which share what is kept so far."""
        cache = self.cache.share(samples, capacity, rows)
        return DecodingState(self.model, cache, repeat(self.time[rows], "b -> (b s)", s=samples))

    def append(self, segments: Sequence[BatchSegment], commit: int) -> list[Tensor]:
        """Run new segments and commit the first `commit` of them; returns each segment's hidden states (b, n, d)."""
        embedded, positions, frame, valid, visual, sizes = [], [], [], [], [], []
        device, b = self.time.device, len(self.time)
        time, committed_time = self.time, self.time
        for index, segment in enumerate(segments):
            x, offsets, advance, ok = self._embed(segment)
            n = x.shape[1]
            embedded.append(x)
            place = F.pad(time[:, None, None], (0, 2)) + offsets
            positions.append(place.expand(b, n, 3))
            is_frame = isinstance(segment, FrameSegment)
            frame.append(torch.full((b, n), index if is_frame else -1, device=device))
            visual.append(torch.full((b, n), is_frame, device=device))
            valid.append(ok)
            sizes.append(n)
            time = time + advance
            if index < commit:
                committed_time = time
        is_valid = torch.cat(valid, 1)
        document = torch.zeros_like(is_valid, dtype=torch.long)
        mask = hybrid_mask(document, torch.cat(frame, 1)) & is_valid[:, None, :]
        is_visual = torch.cat(visual, 1)
        places = torch.cat(positions, 1)[..., : 1 if self.model.config.positions == "sequence" else 3]
        modulation = self._modulation(segments, sizes) if self.model.config.time == "adaln" else None
        context, groups = CachedContext(self.cache, mask), TokenGroups.of(is_visual)
        hidden, _ = self.model.trunk(torch.cat(embedded, 1), places, context, groups, modulation)
        committed = sum(sizes[:commit])
        if committed:
            self.cache.commit(is_valid[:, :committed])
            self.time = committed_time
        return list(hidden.split(sizes, dim=1))

    def _embed(self, segment: BatchSegment) -> tuple[Tensor, Tensor, Tensor | int, Tensor]:
        """Embed a piece: embeddings (b, n, d), offsets of position (n, 3), steps of time taken, validity (b, n)."""
        model, device = self.model, self.time.device
        if isinstance(segment, TextSegment):
            n = segment.ids.shape[1]
            offsets = torch.zeros(n, 3, dtype=torch.long, device=device)
            offsets[:, 0] = torch.arange(n, device=device)
            return model.token_embedding(segment.ids), offsets, segment.valid.sum(1), segment.valid
        if isinstance(segment, FrameSegment):
            b, p = len(segment.latents), model.config.frame_tokens
            index = torch.arange(p, device=device)
            columns = model.config.grid[1]
            in_sequence = model.config.positions == "sequence"
            offsets = torch.stack([index if in_sequence else torch.zeros_like(index), index // columns, index % columns], -1)
            t = torch.full((b,), segment.t, device=device)
            valid = torch.ones(b, p, dtype=torch.bool, device=device)
            segment.seen = model.see(segment.latents, t, segment.references(model.config.references))
            return segment.seen.tokens, offsets, p if in_sequence else 1, valid
        zero = torch.zeros(1, 3, dtype=torch.long, device=device)
        if isinstance(segment, QuestionSegment):
            b, x = segment.batch, repeat(model.action_question, "d -> b 1 d", b=segment.batch)
            return x, zero, 1, torch.ones(b, 1, dtype=torch.bool, device=device)
        b, a = segment.vectors.shape
        padding = segment.vectors.new_zeros(b, model.config.action_dim - a)
        x = model.action_in(torch.cat([segment.vectors, padding], -1))[:, None]
        return x, zero, 1, torch.ones(b, 1, dtype=torch.bool, device=device)

    def _modulation(self, segments: Sequence[BatchSegment], sizes: Sequence[int]) -> Modulation:
        """Compute how the frames' flow times modulate their tokens."""
        times: list[float] = []
        frame: list[int] = []
        for segment, n in zip(segments, sizes, strict=True):
            if isinstance(segment, FrameSegment):
                frame += [len(times)] * n
                times.append(segment.t)
            else:
                frame += [-1] * n
        of_frames = self.model.frame_modulation(copied(torch.tensor(times), self.time.device))
        index = repeat(copied(torch.tensor(frame), self.time.device), "n -> b n", b=len(self.time))
        return Modulation.of(of_frames, index, len(times))


def token_segment(token: int, batch: int, device: torch.device) -> TextSegment:
    """Make a piece of one special token for every sequence."""
    ids = torch.full((batch, 1), token, dtype=torch.long, device=device)
    return TextSegment(ids, torch.ones_like(ids, dtype=torch.bool))


def text_segment(texts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> TextSegment:
    """Make a piece of one text per sequence, padded on the right."""
    encoded = [tokenizer.encode(text) for text in texts]
    n = max(1, *(len(ids) for ids in encoded))
    ids = torch.full((len(texts), n), tokenizer.pad_id, dtype=torch.long)
    valid = torch.zeros(len(texts), n, dtype=torch.bool)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        valid[row, : len(tokens)] = True
    return TextSegment(ids.to(device), valid.to(device))


def size(segments: Sequence[BatchSegment], frame_tokens: int) -> int:
    """Count the positions that segments take, with so many of each frame."""
    return sum(
        segment.ids.shape[1] if isinstance(segment, TextSegment) else frame_tokens if isinstance(segment, FrameSegment) else 1
        for segment in segments
    )
