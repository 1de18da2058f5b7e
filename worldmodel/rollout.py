"""Futures of a history under candidate actions, in latents.

A model that sees frames one by one reads the whole history into its cache, and every future frame behind it. A model that sees a frame
beside the frames before it (`stem.py`) needs nothing else of them: each future frame is a document of its own, the actions and the
frame after them, exactly as in training (`transition_document`), so no length comes up that was not trained.

Axes: b problems, s samples (candidates) per problem, t history frames, h horizon, l latent tokens, c channels, a action numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.decoding import (
    ActionSegment,
    BatchSegment,
    DecodingState,
    FrameSegment,
    TextSegment,
    size,
    text_segment,
    token_segment,
)
from worldmodel.errors import UserError
from worldmodel.flow import sample
from worldmodel.model import WorldModel
from worldmodel.tokenizer import Tokenizer

CPU_SEQUENCES = 128
"""Sequences computed together on a CPU: with four times as many each took a third longer."""


@dataclass(frozen=True)
class RolloutConfig:
    """How futures are sampled."""

    num_steps: int = 1
    """Flow steps per frame. With x-prediction 1 gives the expected next frame: sharp enough where the dynamics are deterministic."""
    action_form: Literal["vector", "text"] = "vector"
    """How actions enter: as one vector position (fast) or as text (the paper's form)."""
    jump: int = 1
    """Model steps from one predicted frame to the next: the more, the less work, and the less often do errors add up, but the way
    between is not seen. A model that sees frames one by one knows no jumps and takes one step at a time."""
    max_sequences: int = 512
    """Candidates rolled out at once; bounds memory. On a CPU they are never more than suit its caches."""
    guidance: float = 1.0
    """Classifier-free guidance on the actions (arXiv 2207.12598): how far a frame's velocity goes from the one without any actions
    toward, and beyond, the one with them. 1: none, at half the cost. For models trained with the packing's action_dropout."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "jump", "max_sequences"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not self.guidance >= 0:
            raise UserError(f"guidance is {self.guidance}, must be at least 0; 1 is none")


PLANNING = RolloutConfig(jump=2)
"""How futures are sampled where only the best of many is wanted."""


@dataclass(frozen=True)
class Window:
    """The newest frames of a history: all that a model needs that sees frames beside those before them."""

    frames: tuple[Tensor, ...]
    """(b, l, c) each, the newest first."""

    def share(self, samples: int, rows: slice) -> "Window":
        """Select the problems `rows` for `samples` candidates of each."""
        return Window(tuple(repeat(frame[rows], "b l c -> (b s) l c", s=samples) for frame in self.frames))


class Rollout:
    """Futures of a history under candidate action sequences, in latents."""

    def __init__(
        self,
        model: WorldModel,
        tokenizer: Tokenizer,
        config: RolloutConfig,
        describe: Callable[[Tensor], str] | None = None,
        units: ActionUnits | None = None,
    ) -> None:
        """Build a rollout.

        Args:
            model: in evaluation mode.
            tokenizer: its tokenizer.
            config: how futures are sampled.
            describe: writes one action vector (a,) as text; needed when `config.action_form` is text.
            units: in which the model reads the actions of this task; by default the environment's own.
        """
        if config.action_form == "text" and describe is None:
            raise ValueError("action_form 'text' needs `describe`, the function that writes an action as text")
        self.model, self.tokenizer, self.config, self.describe = model, tokenizer, config, describe
        self.units = units

    def with_config(self, config: RolloutConfig) -> "Rollout":
        """Return the same rollout with futures sampled in another way."""
        return Rollout(self.model, self.tokenizer, config, self.describe, self.units)

    @property
    def device(self) -> torch.device:
        """The model's, to which frames and actions are brought."""
        return self.model.device

    @torch.no_grad()
    def encode(self, latents: Tensor, actions: Tensor) -> DecodingState | Window:
        """Read a history once.

        Args:
            latents: (b, t, l, c) clean latents of the frames, on any device.
            actions: (b, t - 1, a), the actions between them, on any device.

        Returns:
            What to pass to `rollout`, as often as wanted.
        """
        t = latents.shape[1]
        if actions.shape[1] != t - 1:
            raise ValueError(f"{t} frames need {t - 1} actions between them, got {actions.shape[1]}")
        latents, actions = latents.to(self.device), self._where_used(actions)
        if self.model.config.references:
            return Window(tuple(latents[:, -1 - i] for i in range(min(t, self.model.config.references))))
        state = self._read(latents, [self._action(actions[:, step]) for step in range(t - 1)])
        if self.config.guidance != 1:
            state.unconditional = self._read(latents, [])
        return state

    def _read(self, latents: Tensor, actions: Sequence[BatchSegment]) -> DecodingState:
        """Start a decoding state that has read frames (b, t, l, c), with the actions between them or, as in a plain video, without."""
        b, t = latents.shape[:2]
        segments: list[BatchSegment] = []
        for step in range(t):
            if step and actions:
                segments.append(actions[step - 1])
            segments += [self._special(self.tokenizer.boi_id, b), FrameSegment(latents[:, step], 1.0)]
            segments.append(self._special(self.tokenizer.eoi_id, b))
        state = DecodingState.start(self.model, b, size(segments, self.model.config.frame_tokens))
        state.append(segments, commit=len(segments))
        return state

    @torch.no_grad()
    def rollout(self, state: DecodingState | Window, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """Predict what follows under each candidate.

        Args:
            state: from `encode`; it is not changed.
            candidates: (b, s, h, a) actions, on any device.
            generator: CPU generator of the noise; all candidates of all problems share it, so that they are compared on equal terms
                and a future does not depend on what else is asked for.

        Returns:
            (b, s, h, l, c) latents, on the model's device; with jumps those after each jump, of which the last may be shorter.
        """
        b, s, h, _ = candidates.shape
        config = self.model.config
        candidates = self._where_used(candidates)
        frames = -(-h // (self.config.jump if isinstance(state, Window) else 1))
        noise = (
            torch.randn(1, frames, config.latent_tokens, config.channels, generator=generator).to(self.device).expand(b, -1, -1, -1)
        )
        limit = min(self.config.max_sequences, CPU_SEQUENCES) if self.device.type == "cpu" else self.config.max_sequences
        per_chunk = max(1, limit // s)
        futures = []
        for start in range(0, b, per_chunk):
            rows = slice(start, start + per_chunk)
            parts = [self._some(state, some, noise[rows], rows) for some in candidates[rows].split(limit, dim=1)]
            futures.append(torch.cat(parts, dim=1))
        return torch.cat(futures)

    def _some(self, state: DecodingState | Window, candidates: Tensor, noise: Tensor, rows: slice) -> Tensor:
        """Predict the futures of some candidates of the problems `rows`, all together."""
        if isinstance(state, Window):
            return self._leap(state, candidates, noise, rows)
        return self._rollout(state, candidates, noise, rows)

    def _leap(self, window: Window, candidates: Tensor, noise: Tensor, rows: slice) -> Tensor:
        """Predict each frame from those before it."""
        b, s, h, _ = candidates.shape
        jump = self.config.jump
        actions = [self._action(rearrange(candidates[:, :, i], "b s a -> (b s) a")) for i in range(h)]
        boi = self._special(self.tokenizer.boi_id, b * s)
        before = window.share(s, rows).frames
        future: list[Tensor] = []
        for i in range(noise.shape[1]):
            taken: list[BatchSegment] = [*actions[i * jump : (i + 1) * jump], boi]
            known: list[list[BatchSegment]] = [taken] if self.config.guidance == 1 else [taken, [boi]]
            capacity = size(known[0], self.model.config.frame_tokens) + self.model.config.frame_tokens
            states = [DecodingState.start(self.model, b * s, capacity) for _ in known]
            start = repeat(noise[:, i], "b l c -> (b s) l c", s=s)
            future.append(denoise_frame(states, known, start, self.config.num_steps, self.config.guidance, before))
            kept = before[: self.model.config.references - 1] if jump == 1 else ()  # in training the older one is one step older
            before = (future[-1], *kept)
        return rearrange(torch.stack(future, 1), "(b s) h l c -> b s h l c", s=s)

    def _rollout(self, state: DecodingState, candidates: Tensor, noise: Tensor, rows: slice) -> Tensor:
        b, s, h, _ = candidates.shape
        sequences = b * s
        actions = [self._action(rearrange(candidates[:, :, i], "b s a -> (b s) a")) for i in range(h)]
        boi, eoi = (self._special(i, sequences) for i in (self.tokenizer.boi_id, self.tokenizer.eoi_id))
        p = self.model.config.frame_tokens
        states = [state.share(s, sum(size([a], p) + p + 2 for a in actions), rows)]
        if self.config.guidance != 1:
            if state.unconditional is None:
                raise ValueError("guidance needs a decoding state that was encoded with guidance")
            states.append(state.unconditional.share(s, h * (p + 2), rows))
        frames: list[Tensor] = []
        for i in range(h):
            seen: list[BatchSegment] = [FrameSegment(frames[-1], 1.0), eoi] if frames else []
            before = [[*seen, actions[i], boi], [*seen, boi]][: len(states)]
            start = repeat(noise[:, i], "b l c -> (b s) l c", s=s)
            frames.append(denoise_frame(states, before, start, self.config.num_steps, self.config.guidance))
        return rearrange(torch.stack(frames, 1), "(b s) h l c -> b s h l c", s=s)

    def _special(self, token: int, batch: int) -> TextSegment:
        return token_segment(token, batch, self.device)

    def _where_used(self, actions: Tensor) -> Tensor:
        """Move actions to the device, or to the CPU if they are to be written as text."""
        return actions.to("cpu" if self.config.action_form == "text" else self.device)

    def _action(self, vectors: Tensor) -> BatchSegment:
        if self.describe is None or self.config.action_form == "vector":
            return ActionSegment(vectors if self.units is None else to_model(vectors, self.units))
        return text_segment([self.describe(v) for v in vectors], self.tokenizer, self.device)


def to_model(actions: Tensor, units: ActionUnits) -> Tensor:
    """Convert environment actions (..., k * a) to the units in which a model reads them."""
    center, scale = (torch.from_numpy(each).to(actions) for each in units.blocks(actions.shape[-1]))
    return actions if units.are_own else (actions - center) / scale


def denoise_frame(
    states: Sequence[DecodingState],
    before: Sequence[Sequence[BatchSegment]],
    noise: Tensor,
    num_steps: int,
    guidance: float = 1.0,
    beside: tuple[Tensor, ...] = (),
) -> Tensor:
    """Keep the segments `before` in each state, then denoise one frame (b, l, c) behind them; the frame itself is not kept.

    The first flow step runs in the same pass as the segments it follows.

    Args:
        states: one, or with and without the condition.
        before: new segments of each state.
        noise: (b, l, c).
        num_steps: flow steps.
        guidance: with two states: without + guidance * (with - without) is the velocity.
        beside: (b, l, c) each, the newest first: what the frame is seen beside.
    """
    model = states[0].model
    pending = [list(segments) for segments in before]

    def velocity(z: Tensor, t: float) -> Tensor:
        times = torch.full((len(z),), t, device=z.device)
        found = []
        for state, segments in zip(states, pending, strict=True):
            frame = FrameSegment(z, t, beside)
            hidden = state.append([*segments, frame], commit=len(segments))[-1]
            segments.clear()
            assert frame.seen is not None, "it has just been appended"
            found.append(model.denoise(hidden, z, times, frame.seen))
        return found[0] if len(found) == 1 else torch.lerp(found[1], found[0], guidance)

    return sample(velocity, noise, num_steps, model.flow_shift)
