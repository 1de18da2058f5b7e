"""What the model says of the way to a goal: how many steps it takes, and which actions come next.

Both are read off one short document, as in training (`goal_document`): the frame of now and the goal, then the number of steps,
then the actions. A model that sees frames beside those before them takes one frame's room for it.

Axes: b problems, t history frames, l latent tokens, c channels, h model steps, a action numbers, m pairs of frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worldmodel.decoding import FramePiece, Piece, QuestionPiece, Session, TextPiece, size, text_piece, token_piece
from worldmodel.model import WorldModel
from worldmodel.tokenizer import STEP_COUNTS, Tokenizer


class Acting:
    """The actions and the number of steps to a goal, from a trained model.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        at_once: documents computed together; bounds memory.

    Attributes:
        horizon: model steps whose actions are said.
    """

    def __init__(self, model: WorldModel, tokenizer: Tokenizer, at_once: int = 1024) -> None:
        self.model, self.tokenizer, self.at_once = model, tokenizer, at_once
        self.horizon = model.config.action_horizon

    @torch.no_grad()
    def propose(self, frames: Tensor, actions: Tensor, goal: Tensor | Sequence[str], steps: Tensor) -> tuple[Tensor, Tensor]:
        """The next actions towards a goal.

        Args:
            frames: (b, t, l, c) latents of the history; the newest is looked at.
            actions: (b, t - 1, a) between them; not looked at.
            goal: (b, l, c) latents of the goals' frames, or b sentences.
            steps: (b,) environment steps that are left.

        Returns:
            Mean and standard deviation (b, h, a) of the actions of the next h model steps.
        """
        means, spreads = [], []
        for start in range(0, len(frames), self.at_once):
            here = slice(start, start + self.at_once)
            session, last = self._ask(frames[here, -1], goal[here])
            ids = self.tokenizer.steps_id + steps[here].round().long().clamp(0, STEP_COUNTS - 1).to(self.model.device)[:, None]
            count = TextPiece(ids, torch.ones_like(ids, dtype=torch.bool))
            hidden = session.feed([last, count, QuestionPiece(len(ids))], keep=0)[-1][:, 0]
            mean, spread = self.model.next_actions(hidden)
            means.append(mean)
            spreads.append(spread.exp())
        return torch.cat(means), torch.cat(spreads)

    @torch.no_grad()
    def steps_to_go(self, frames: Tensor, goal: Tensor) -> Tensor:
        """How many environment steps it takes from frames (m, l, c) to goals (m, l, c), on average: (m,)."""
        found = []
        for start in range(0, len(frames), self.at_once):
            here = slice(start, start + self.at_once)
            session, last = self._ask(frames[here], goal[here])
            logits = self.model.logits(session.feed([last], keep=0)[0][:, -1])
            chances = logits[:, self.tokenizer.steps_id : self.tokenizer.steps_id + STEP_COUNTS].softmax(-1)
            found.append(chances @ torch.arange(STEP_COUNTS, dtype=chances.dtype, device=chances.device))
        return torch.cat(found)

    def _ask(self, frames: Tensor, goal: Tensor | Sequence[str]) -> tuple[Session, Piece]:
        """A session that has read frames (b, l, c) and goals, up to the piece behind which the number of steps comes."""
        b, device, tokens = len(frames), self.model.device, self.model.config.frame_tokens
        frames = frames.to(device)
        boi, eoi = (token_piece(token, b, device) for token in (self.tokenizer.boi_id, self.tokenizer.eoi_id))
        shown = [frames, goal.to(device)] if isinstance(goal, Tensor) else [frames]
        if self.model.config.references:  # those before enter beside the last one
            pieces: list[Piece] = [boi, FramePiece(shown[-1], 1.0, tuple(reversed(shown[:-1]))), eoi]
        else:
            pieces = [piece for frame in shown for piece in (boi, FramePiece(frame, 1.0), eoi)]
        if not isinstance(goal, Tensor):
            pieces.append(text_piece(goal, self.tokenizer, device))
        *pieces, last = pieces
        session = Session.start(self.model, b, size(pieces, tokens) + size([last], tokens) + 2)
        session.feed(pieces, keep=len(pieces))
        return session, last
