"""What the model predicts about the way to a goal: how many steps it takes, and which actions come next.

Both are read off one short document, as in training (`goal_document`): the frame of now and the goal, then the number of steps,
then the actions. A model that sees frames beside those before them takes one frame's room for it.

Axes: b problems, t history frames, l latent tokens, c channels, h model steps, a action numbers, m pairs of frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.decoding import (
    BatchSegment,
    DecodingState,
    FrameSegment,
    QuestionSegment,
    TextSegment,
    size,
    text_segment,
    token_segment,
)
from worldmodel.model import WorldModel
from worldmodel.rollout import CPU_SEQUENCES
from worldmodel.tokenizer import STEP_COUNTS, Tokenizer


class Acting:
    """The actions and the number of steps to a goal, from a trained model.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        units: in which the model says the actions of this task; by default the environment's own.
        at_once: documents computed together; bounds memory. By default as many as suit the device.

    Attributes:
        horizon: model steps whose actions are said.
    """

    def __init__(self, model: WorldModel, tokenizer: Tokenizer, units: ActionUnits | None = None, at_once: int | None = None) -> None:
        self.model, self.tokenizer, self.units = model, tokenizer, units
        self.at_once = at_once or (CPU_SEQUENCES if model.device.type == "cpu" else 1024)
        self.horizon = model.config.action_horizon

    @torch.no_grad()
    def propose(self, frames: Tensor, actions: Tensor, goal: Tensor | Sequence[str], steps: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the next actions toward a goal.

        Args:
            frames: (b, t, l, c) latents of the history; the newest is looked at.
            actions: (b, t - 1, a) between them; not looked at.
            goal: (b, l, c) latents of the goals' frames, or b sentences.
            steps: (b,) environment steps that are left.

        Returns:
            Mean and standard deviation (b, h, a) of the actions of the next h model steps, in the environment's units.
        """
        means, spreads = [], []
        for start in range(0, len(frames), self.at_once):
            here = slice(start, start + self.at_once)
            state, last = self._ask(frames[here, -1], goal[here])
            ids = self.tokenizer.steps_id + steps[here].round().long().clamp(0, STEP_COUNTS - 1).to(self.model.device)[:, None]
            count = TextSegment(ids, torch.ones_like(ids, dtype=torch.bool))
            hidden = state.append([last, count, QuestionSegment(len(ids))], commit=0)[-1][:, 0]
            mean, spread = self.model.next_actions(hidden)
            means.append(mean)
            spreads.append(spread.exp())
        return self._to_environment(torch.cat(means), torch.cat(spreads))

    def _to_environment(self, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Convert mean and spread (..., a) from the model's units; padding behind the task's own numbers stays."""
        if self.units is None or self.units.are_own:
            return mean, spread
        known = mean.shape[-1] // len(self.units.center) * len(self.units.center)
        center, scale = torch.zeros(mean.shape[-1]), torch.ones(mean.shape[-1])
        center[:known], scale[:known] = map(torch.from_numpy, self.units.blocks(known))
        return mean * scale.to(mean) + center.to(mean), spread * scale.to(spread)

    @torch.no_grad()
    def steps_to_go(self, frames: Tensor, goal: Tensor) -> Tensor:
        """Predict the mean number of env steps (m,) from frames (m, l, c) to goals (m, l, c)."""
        found = []
        for start in range(0, len(frames), self.at_once):
            here = slice(start, start + self.at_once)
            state, last = self._ask(frames[here], goal[here])
            logits = self.model.logits(state.append([last], commit=0)[0][:, -1])
            chances = logits[:, self.tokenizer.steps_id : self.tokenizer.steps_id + STEP_COUNTS].softmax(-1)
            found.append(chances @ torch.arange(STEP_COUNTS, dtype=chances.dtype, device=chances.device))
        return torch.cat(found)

    def _ask(self, frames: Tensor, goal: Tensor | Sequence[str]) -> tuple[DecodingState, BatchSegment]:
        """Start a decoding state that has read frames (b, l, c) and goals; also return the segment before the number of steps."""
        b, device, tokens = len(frames), self.model.device, self.model.config.frame_tokens
        frames = frames.to(device)
        boi, eoi = (token_segment(token, b, device) for token in (self.tokenizer.boi_id, self.tokenizer.eoi_id))
        shown = [frames, goal.to(device)] if isinstance(goal, Tensor) else [frames]
        if self.model.config.references:  # the frames before are references of the last one
            segments: list[BatchSegment] = [boi, FrameSegment(shown[-1], 1.0, tuple(reversed(shown[:-1]))), eoi]
        else:
            segments = [segment for frame in shown for segment in (boi, FrameSegment(frame, 1.0), eoi)]
        if not isinstance(goal, Tensor):
            segments.append(text_segment(goal, self.tokenizer, device))
        *segments, last = segments
        state = DecodingState.start(self.model, b, size(segments, tokens) + size([last], tokens) + 2)
        state.append(segments, commit=len(segments))
        return state, last
