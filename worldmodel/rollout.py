"""Futures of a history under candidate actions, in latents.

Axes: b problems, s samples (candidates) per problem, t history frames, h horizon, p latent tokens, c channels, a action numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.flow import sample
from worldmodel.model import WorldModel
from worldmodel.session import ActionPiece, FramePiece, Piece, Session, TextPiece, size, text_piece, token_piece
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
    guidance: float = 1.0
    """Classifier-free guidance on the actions (arXiv 2207.12598): how far a frame's velocity goes from the one without any actions
    towards, and beyond, the one with them. 1: none, at half the cost. For models trained with the packing's action_dropout."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "max_sequences"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not self.guidance >= 0:
            raise UserError(f"guidance is {self.guidance}, must be at least 0; 1 is none")


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

    @property
    def device(self) -> torch.device:
        """The model's, to which frames and actions are brought."""
        return self.model.latent_in.weight.device

    @torch.no_grad()
    def encode(self, latents: Tensor, actions: Tensor) -> Session:
        """Read a history once.

        Args:
            latents: (b, t, p, c) clean latents of the frames, on any device.
            actions: (b, t - 1, a), the actions between them, on any device.

        Returns:
            The session to pass to `rollout`, as often as wanted.
        """
        b, t, p, _ = latents.shape
        if actions.shape[1] != t - 1:
            raise ValueError(f"{t} frames need {t - 1} actions between them, got {actions.shape[1]}")
        latents, actions = latents.to(self.device), self._where_used(actions)
        session = self._read(latents, [self._action(actions[:, step]) for step in range(t - 1)])
        if self.config.guidance != 1:
            session.unconditional = self._read(latents, [])
        return session

    def _read(self, latents: Tensor, actions: Sequence[Piece]) -> Session:
        """A session that has read frames (b, t, p, c), with the actions between them or, as in a plain video, without."""
        b, t = latents.shape[:2]
        pieces: list[Piece] = []
        for step in range(t):
            if step and actions:
                pieces.append(actions[step - 1])
            pieces += [self._special(self.tokenizer.boi_id, b), FramePiece(latents[:, step], 1.0)]
            pieces.append(self._special(self.tokenizer.eoi_id, b))
        session = Session.start(self.model, b, size(pieces))
        session.feed(pieces, keep=len(pieces))
        return session

    @torch.no_grad()
    def rollout(self, session: Session, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """Predict what follows under each candidate.

        Args:
            session: from `encode`; it is not changed.
            candidates: (b, s, h, a) actions, on any device.
            generator: CPU generator of the noise; all candidates of a problem share their noise, so that they are
                compared on equal terms.

        Returns:
            (b, s, h, p, c) latents, on the model's device.
        """
        b, s, h, _ = candidates.shape
        p, c = self.model.config.frame_tokens, self.model.config.channels
        candidates = self._where_used(candidates)
        noise = torch.randn(b, h, p, c, generator=generator).to(self.device)
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
        sessions = [session.share(s, sum(size([a]) + p + 2 for a in actions), rows)]
        if self.config.guidance != 1:
            if session.unconditional is None:
                raise ValueError("guidance needs a session that was encoded with guidance")
            sessions.append(session.unconditional.share(s, h * (p + 2), rows))
        frames: list[Tensor] = []
        for i in range(h):
            seen: list[Piece] = [FramePiece(frames[-1], 1.0), eoi] if frames else []
            before = [[*seen, actions[i], boi], [*seen, boi]][: len(sessions)]
            start = repeat(noise[:, i], "b p c -> (b s) p c", s=s)
            frames.append(denoise_frame(sessions, before, start, self.config.num_steps, self.config.guidance))
        return rearrange(torch.stack(frames, 1), "(b s) h p c -> b s h p c", s=s)

    def _special(self, token: int, batch: int) -> TextPiece:
        return token_piece(token, batch, self.device)

    def _where_used(self, actions: Tensor) -> Tensor:
        """Actions on the device, or on the CPU if they are to be written as text."""
        return actions.to("cpu" if self.config.action_form == "text" else self.device)

    def _action(self, vectors: Tensor) -> Piece:
        if self.describe is None or self.config.action_form == "vector":
            return ActionPiece(vectors)
        return text_piece([self.describe(v) for v in vectors], self.tokenizer, self.device)


def denoise_frame(
    sessions: Sequence[Session], before: Sequence[Sequence[Piece]], noise: Tensor, num_steps: int, guidance: float = 1.0
) -> Tensor:
    """Keep the pieces `before` in each session, then denoise one frame (b, p, c) behind them; the frame itself is not kept.

    The first flow step runs in the same pass as the pieces it follows.

    Args:
        sessions: one, or with and without the condition.
        before: new pieces of each session.
        noise: (b, p, c).
        num_steps: flow steps.
        guidance: with two sessions: without + guidance * (with - without) is the velocity.
    """
    model = sessions[0].model
    pending = [list(pieces) for pieces in before]

    def velocity(z: Tensor, t: float) -> Tensor:
        times = torch.full((len(z),), t, device=z.device)
        found = []
        for session, pieces in zip(sessions, pending, strict=True):
            hidden = session.feed([*pieces, FramePiece(z, t)], keep=len(pieces))[-1]
            pieces.clear()
            found.append(model.denoise(hidden, z, times))
        return found[0] if len(found) == 1 else torch.lerp(found[1], found[0], guidance)

    return sample(velocity, noise, num_steps, model.flow_shift)
