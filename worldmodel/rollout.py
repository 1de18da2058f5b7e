"""Using the model: feed it piece by piece with a key/value cache; roll out futures, write text, draw pictures.

Axes: b problems, s samples (candidates) per problem, t history frames, h horizon, p latent tokens, c channels, a action numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from worldmodel.attention import KVCache, hybrid_mask
from worldmodel.errors import UserError
from worldmodel.flow import sample
from worldmodel.model import WorldModel
from worldmodel.moe import TokenGroups
from worldmodel.tokenizer import Tokenizer


@dataclass(frozen=True)
class RolloutConfig:
    """How futures are sampled."""

    num_steps: int = 1
    """Flow steps per frame. With x-prediction 1 gives the expected next frame: sharp enough where the dynamics are deterministic."""
    action_form: Literal["vector", "text"] = "vector"
    """How actions enter: as one vector position (fast) or as text (the paper's form)."""
    max_sequences: int = 512
    """Candidates rolled out at once; bounds memory."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "max_sequences"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")


@dataclass
class TextPiece:
    """Token ids (b, n); `valid` (b, n) is False at padding on the right."""

    ids: Tensor
    valid: Tensor


@dataclass
class FramePiece:
    """Latents (b, p, c) of one frame at flow time t (1 = clean)."""

    latents: Tensor
    t: float


@dataclass
class ActionPiece:
    """Action vectors (b, a)."""

    vectors: Tensor


Piece = TextPiece | FramePiece | ActionPiece


class Session:
    """A batch of sequences that grow piece by piece; what has been kept is never computed again."""

    def __init__(self, model: WorldModel, cache: KVCache, time: Tensor) -> None:
        self.model, self.cache, self.time = model, cache, time  # time (b,): each sequence's next place

    @classmethod
    def start(cls, model: WorldModel, batch: int, capacity: int) -> "Session":
        """`batch` empty sequences of up to `capacity` positions."""
        device = model.latent_in.weight.device
        return cls(model, KVCache(model.config.trunk.depth, capacity), torch.zeros(batch, dtype=torch.long, device=device))

    def share(self, samples: int, capacity: int, rows: slice) -> "Session":
        """`samples` continuations of each of the sequences `rows`, which share what is kept so far."""
        cache = self.cache.share(samples, capacity, rows)
        return Session(self.model, cache, repeat(self.time[rows], "b -> (b s)", s=samples))

    def feed(self, pieces: Sequence[Piece], keep: int) -> list[Tensor]:
        """Run new pieces and keep the first `keep` of them; returns each piece's hidden states (b, n, d)."""
        embedded, positions, frame, valid, visual, sizes = [], [], [], [], [], []
        device, b = self.time.device, len(self.time)
        time, kept_time = self.time, self.time
        for index, piece in enumerate(pieces):
            x, offsets, advance, ok = self._embed(piece)
            n = x.shape[1]
            embedded.append(x)
            place = time[:, None, None] * torch.tensor([1, 0, 0], device=device) + offsets
            positions.append(place.expand(b, n, 3))
            is_frame = isinstance(piece, FramePiece)
            frame.append(torch.full((b, n), index if is_frame else -1, device=device))
            visual.append(torch.full((b, n), is_frame, device=device))
            valid.append(ok)
            sizes.append(n)
            time = time + advance
            if index < keep:
                kept_time = time
        is_valid = torch.cat(valid, 1)
        document = torch.zeros_like(is_valid, dtype=torch.long)
        mask = hybrid_mask(document, torch.cat(frame, 1)) & is_valid[:, None, :]
        groups = TokenGroups.of(torch.cat(visual, 1))
        hidden, _ = self.model.trunk(torch.cat(embedded, 1), torch.cat(positions, 1), mask, groups, self.cache)
        kept = sum(sizes[:keep])
        if kept:
            self.cache.commit(is_valid[:, :kept])
            self.time = kept_time
        return list(hidden.split(sizes, dim=1))

    def _embed(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor | int, Tensor]:
        """Embeddings (b, n, d), offsets of place (n, 3), steps of time taken, validity (b, n)."""
        model, device = self.model, self.time.device
        if isinstance(piece, TextPiece):
            n = piece.ids.shape[1]
            offsets = torch.zeros(n, 3, dtype=torch.long, device=device)
            offsets[:, 0] = torch.arange(n, device=device)
            return model.token_embedding(piece.ids), offsets, piece.valid.sum(1), piece.valid
        if isinstance(piece, FramePiece):
            b, p, _ = piece.latents.shape
            index = torch.arange(p, device=device)
            columns = model.config.grid[1]
            offsets = torch.stack([torch.zeros_like(index), index // columns, index % columns], -1)
            t = torch.full((b,), piece.t, device=device)
            valid = torch.ones(b, p, dtype=torch.bool, device=device)
            return model.embed_frames(piece.latents, t), offsets, 1, valid
        b, a = piece.vectors.shape
        padding = piece.vectors.new_zeros(b, model.config.action_dim - a)
        x = model.action_in(torch.cat([piece.vectors, padding], -1))[:, None]
        zero = torch.zeros(1, 3, dtype=torch.long, device=device)
        return x, zero, 1, torch.ones(b, 1, dtype=torch.bool, device=device)


def token_piece(token: int, batch: int, device: torch.device) -> TextPiece:
    """One special token for every sequence."""
    ids = torch.full((batch, 1), token, dtype=torch.long, device=device)
    return TextPiece(ids, torch.ones_like(ids, dtype=torch.bool))


def text_piece(texts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> TextPiece:
    """One text per sequence, padded on the right."""
    encoded = [tokenizer.encode(text) for text in texts]
    n = max(1, *(len(ids) for ids in encoded))
    ids = torch.full((len(texts), n), tokenizer.pad_id, dtype=torch.long)
    valid = torch.zeros(len(texts), n, dtype=torch.bool)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        valid[row, : len(tokens)] = True
    return TextPiece(ids.to(device), valid.to(device))


class Rollout:
    """Futures of a history under candidate action sequences, in latents."""

    def __init__(
        self,
        model: WorldModel,
        tokenizer: Tokenizer,
        config: RolloutConfig,
        describe: Callable[[Tensor], str] | None = None,
    ) -> None:
        """`describe` writes one action vector (a,) as text; needed when `config.action_form` is text."""
        if config.action_form == "text" and describe is None:
            raise ValueError("action_form 'text' needs `describe`, the function that writes an action as text")
        self.model, self.tokenizer, self.config, self.describe = model, tokenizer, config, describe

    @torch.no_grad()
    def encode(self, latents: Tensor, actions: Tensor) -> Session:
        """Read a history once.

        Args:
            latents: (b, t, p, c) clean latents of the frames.
            actions: (b, t - 1, a), the actions between them.

        Returns:
            The session to pass to `rollout`, as often as wanted.
        """
        b, t, p, _ = latents.shape
        if actions.shape[1] != t - 1:
            raise ValueError(f"{t} frames need {t - 1} actions between them, got {actions.shape[1]}")
        pieces: list[Piece] = []
        for step in range(t):
            if step:
                pieces.append(self._action(actions[:, step - 1]))
            pieces += [self._special(self.tokenizer.boi_id, b), FramePiece(latents[:, step], 1.0)]
            pieces.append(self._special(self.tokenizer.eoi_id, b))
        session = Session.start(self.model, b, _size(pieces))
        session.feed(pieces, keep=len(pieces))
        return session

    @torch.no_grad()
    def rollout(self, session: Session, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """Predict what follows under each candidate.

        Args:
            session: from `encode`; it is not changed.
            candidates: (b, s, h, a) actions.
            generator: CPU generator of the noise; all candidates of a problem share their noise, so that they are
                compared on equal terms.

        Returns:
            (b, s, h, p, c) latents.
        """
        b, s, h, _ = candidates.shape
        p, c = self.model.config.frame_tokens, self.model.config.channels
        noise = torch.randn(b, h, p, c, generator=generator).to(candidates.device)
        per_chunk = max(1, self.config.max_sequences // s)
        futures = []
        for start in range(0, b, per_chunk):
            rows = slice(start, start + per_chunk)
            futures.append(self._rollout(session, candidates[rows], noise[rows], rows))
        return torch.cat(futures)

    def _rollout(self, session: Session, candidates: Tensor, noise: Tensor, rows: slice) -> Tensor:
        b, s, h, _ = candidates.shape
        sequences = b * s
        actions = [self._action(rearrange(candidates[:, :, i], "b s a -> (b s) a")) for i in range(h)]
        boi, eoi = (self._special(i, sequences) for i in (self.tokenizer.boi_id, self.tokenizer.eoi_id))
        p = self.model.config.frame_tokens
        branch = session.share(s, sum(_size([a]) + p + 2 for a in actions), rows)
        frames: list[Tensor] = []
        for i in range(h):
            pieces: list[Piece] = [FramePiece(frames[-1], 1.0), eoi] if frames else []
            pieces += [actions[i], boi]
            start = repeat(noise[:, i], "b p c -> (b s) p c", s=s)
            frames.append(denoise_frame(branch, pieces, start, self.config.num_steps))
        return rearrange(torch.stack(frames, 1), "(b s) h p c -> b s h p c", s=s)

    def _special(self, token: int, batch: int) -> TextPiece:
        return token_piece(token, batch, self.model.latent_in.weight.device)

    def _action(self, vectors: Tensor) -> Piece:
        if self.describe is None or self.config.action_form == "vector":
            return ActionPiece(vectors)
        return text_piece([self.describe(v) for v in vectors], self.tokenizer, vectors.device)


def denoise_frame(session: Session, before: list[Piece], noise: Tensor, num_steps: int) -> Tensor:
    """Keep the pieces `before`, then denoise one frame (b, p, c) behind them; the frame itself is not kept.

    The first flow step runs in the same pass as the pieces it follows.
    """
    model = session.model
    pending = list(before)

    def velocity(z: Tensor, t: float) -> Tensor:
        hidden = session.feed([*pending, FramePiece(z, t)], keep=len(pending))[-1]
        pending.clear()
        return model.denoise(hidden, z, torch.full((len(z),), t, device=z.device))

    return sample(velocity, noise, num_steps, model.flow_shift)


@torch.no_grad()
def write_text(
    session: Session,
    last: Piece,
    tokenizer: Tokenizer,
    max_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Continue every sequence with text until `<eos>` or `max_tokens`.

    Args:
        session: sequences of equal structure.
        last: the piece to feed first; text follows it (for a caption, the frame's `<eoi>`).
        tokenizer: decodes the result.
        max_tokens: upper bound on new tokens.
        temperature: 0 takes the likeliest token; otherwise sample with `generator`.
        generator: CPU generator, needed when the temperature is above 0.
    """
    hidden = session.feed([last], keep=1)[0]
    if isinstance(last, TextPiece):  # the last valid token of each sequence
        ends = last.valid.sum(1).clamp_min(1) - 1
        hidden = hidden[torch.arange(len(ends), device=ends.device), ends]
    else:
        hidden = hidden[:, -1]
    written: list[list[int]] = [[] for _ in range(len(hidden))]
    done = [False] * len(hidden)
    for _ in range(max_tokens):
        logits = session.model.text_out(hidden).float()
        logits[:, [tokenizer.pad_id, tokenizer.boi_id, tokenizer.eoi_id]] = -torch.inf
        if temperature > 0:
            weights = (logits / temperature).softmax(-1).cpu()
            token = torch.multinomial(weights, 1, generator=generator)[:, 0].to(logits.device)
        else:
            token = logits.argmax(-1)
        for row, value in enumerate(token.tolist()):
            done[row] = done[row] or value == tokenizer.eos_id
            if not done[row]:
                written[row].append(value)
        if all(done):
            break
        ids = token[:, None]
        hidden = session.feed([TextPiece(ids, torch.ones_like(ids, dtype=torch.bool))], keep=1)[0][:, -1]
    return [tokenizer.decode(ids) for ids in written]


@torch.no_grad()
def continue_text(
    model: WorldModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_tokens: int = 40,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Continuations of prompts (each at least one token long), without the prompts themselves."""
    piece = text_piece(prompts, tokenizer, model.latent_in.weight.device)
    session = Session.start(model, len(prompts), piece.ids.shape[1] + max_tokens)
    return write_text(session, piece, tokenizer, max_tokens, temperature, generator)


@torch.no_grad()
def describe_frames(
    model: WorldModel, tokenizer: Tokenizer, latents: Tensor, questions: Sequence[str] | None = None, max_tokens: int = 40
) -> list[str]:
    """Captions of frames (b, p, c), or answers to one question about each."""
    b, device = len(latents), latents.device
    before: list[Piece] = [token_piece(tokenizer.boi_id, b, device), FramePiece(latents, 1.0)]
    last: Piece = token_piece(tokenizer.eoi_id, b, device)
    if questions is not None:
        before.append(last)
        last = text_piece(questions, tokenizer, device)
    session = Session.start(model, b, _size([*before, last]) + max_tokens)
    session.feed(before, keep=len(before))
    return write_text(session, last, tokenizer, max_tokens)


@torch.no_grad()
def draw_pictures(
    model: WorldModel,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    generator: torch.Generator,
    num_steps: int = 25,
    guidance: float = 3.0,
) -> Tensor:
    """Latents (b, p, c) of pictures for captions: Euler steps with classifier-free guidance (arXiv 2207.12598).

    Args:
        model: a trained model.
        tokenizer: its tokenizer.
        captions: b texts.
        generator: CPU generator of the noise.
        num_steps: flow steps (the paper's 25).
        guidance: 1 = none; the paper's 3.
    """
    b, device, config = len(captions), model.latent_in.weight.device, model.config
    noise = torch.randn(b, config.frame_tokens, config.channels, generator=generator).to(device)
    boi = token_piece(tokenizer.boi_id, b, device)
    contexts: list[list[Piece]] = [[text_piece(captions, tokenizer, device), boi], [boi]]
    sessions = []
    for pieces in contexts:
        session = Session.start(model, b, _size(pieces) + config.frame_tokens)
        session.feed(pieces, keep=len(pieces))
        sessions.append(session)

    def velocity(z: Tensor, t: float) -> Tensor:
        times = torch.full((b,), t, device=device)
        with_caption, without = (model.denoise(session.feed([FramePiece(z, t)], keep=0)[0], z, times) for session in sessions)
        return without + guidance * (with_caption - without)

    return sample(velocity, noise, num_steps, model.flow_shift)


def _size(pieces: Sequence[Piece]) -> int:
    """Positions that pieces take."""
    sizes = {TextPiece: lambda x: x.ids.shape[1], FramePiece: lambda x: x.latents.shape[1], ActionPiece: lambda x: 1}
    return sum(sizes[type(piece)](piece) for piece in pieces)
