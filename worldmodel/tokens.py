"""Documents -> positions: what each position of a sequence carries, and what is learned there.

A frame becomes `<boi>`, its tokens, `<eoi>`. A given action becomes either one position that carries its vector, or text: its exact
numbers or its words. Which of them is drawn per document, so that one checkpoint serves all. The actions of the next model steps
that are to be said become one position that asks for all of them. A number of steps is one token of text.

A frame may be seen beside the frames before it in its document (`references`): these enter through its own tokens, where the same
place of both can be compared. A given frame that others refer to then needs no positions of its own and has none, so that a
transition or a goal takes one frame's room instead of three.

What is trained where, position by position (arXiv 2603.03276: next tokens on text, flow on latents, no text loss at `<boi>`):

| the input is       | text loss: the target is the next token                          | flow loss                 |
|--------------------|------------------------------------------------------------------|---------------------------|
| a text token       | if the next position is text to be learned, or `<eos>` after it  | -                         |
| `<boi>`            | never: what follows is a picture                                 | -                         |
| a frame's latent   | never, not even at the last one: `<eoi>` always follows          | if its frame is a target  |
| `<eoi>`            | as a text token: the first token of a caption or answer          | -                         |
| a number of steps  | never: what follows asks for actions                             | -                         |
| an action vector   | never: only a frame can follow it                                | -                         |
| asking for actions | never                                                            | -, but an action loss     |
| `<eos>`, padding   | never                                                            | -                         |

So `<boi>` and `<eoi>` are never targets (who calls the model decides where a picture begins), nor is the first token of a document;
the texts of actions and whatever a document marks as given are inputs only. The frames of a video take turns as clean context and
as noised target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Steps, Text
from worldmodel.errors import UserError
from worldmodel.tokenizer import STEP_COUNTS, Tokenizer

TEXT, VISION, ACTION = 0, 1, 2
IGNORE = -100


@dataclass(frozen=True)
class PackingConfig:
    """Shape of a batch, and what is drawn per document."""

    rows: int = 16
    """Sequences per batch."""
    length: int = 256
    """Positions per sequence."""
    text_action_share: float = 0.2
    """Share of action videos whose actions are written as text; the others carry them as vectors. Text is longer: such a video ends
    with the last frame that fits a sequence."""
    action_words_share: float = 0.25
    """Of the action videos written as text, the share that gives actions in words where these are known; the others give their
    exact numbers."""
    context_noise: float = 0.2
    """Probability that a context frame of a video is noised too. Frames alternate between context and target, so that a target
    mostly follows a clean frame, which is what a rollout sees, and sometimes a noised one (Diffusion Forcing, arXiv 2407.01392)."""
    caption_dropout: float = 0.1
    """Probability that a picture is generated without its caption, for classifier-free guidance."""
    action_dropout: float = 0.0
    """Share of action videos packed as plain videos, without their actions, for classifier-free guidance on actions
    (arXiv 2603.03276 drops the condition 10 % of the time; of which documents is not known)."""
    references: int = 0
    """Frames before it that a frame is seen beside (set from the model's stem)."""
    data_shards: int = 1
    """Parts of a batch that are packed apart, each of rows / data_shards rows. Any number of processes that divides it shares the work
    and sees the same batches."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("length", 2), ("data_shards", 1), ("references", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        for name in ("text_action_share", "action_words_share", "context_noise", "caption_dropout", "action_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie between 0 and 1")
        if self.rows % self.data_shards:
            raise UserError(
                f"{self.rows} rows do not divide into {self.data_shards} shards; take a number of data_shards that divides them"
            )


@dataclass
class Tokens:
    """One document as positions; frame and action indices are local to it."""

    token_id: list[int] = field(default_factory=list)
    modality: list[int] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    position: list[tuple[int, int, int]] = field(default_factory=list)
    predicted: list[bool] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    references: list[tuple[int, ...]] = field(default_factory=list)
    """Of each frame: indices into `given` of the frames it is seen beside, the newest first."""
    given: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    asked: list[NextActions] = field(default_factory=list)
    instead: dict[int, int] = field(default_factory=dict)
    """By position: the token that is learned there, where it is not the one that stands there."""
    time: int = 0

    def __len__(self) -> int:
        return len(self.token_id)

    def add_text(self, ids: list[int], predict: bool) -> None:
        """Add text tokens, each one step of time."""
        n = len(ids)
        self.token_id += ids
        self.modality += [TEXT] * n
        self.frame += [-1] * n
        self.action += [-1] * n
        self.question += [-1] * n
        self.position += [(self.time + i, 0, 0) for i in range(n)]
        self.predicted += [predict] * n
        self.time += n

    def add_frame(
        self, pixels: np.ndarray, clean: bool, grid: tuple[int, int], tokenizer: Tokenizer, beside: Sequence[np.ndarray] = ()
    ) -> None:
        """Add `<boi>`, the frame's tokens at one step of time, `<eoi>`; it is seen beside the pixels `beside`, the newest first."""
        self.add_text([tokenizer.boi_id], predict=False)
        n = grid[0] * grid[1]
        self.token_id += [tokenizer.pad_id] * n
        self.modality += [VISION] * n
        self.frame += [len(self.frames)] * n
        self.action += [-1] * n
        self.question += [-1] * n
        self.position += [(self.time, row, column) for row in range(grid[0]) for column in range(grid[1])]
        self.predicted += [False] * n
        self.time += 1
        self.frames.append(pixels)
        self.clean.append(clean)
        self.references.append(tuple(reversed([self._given(before) for before in reversed(beside)])))
        self.add_text([tokenizer.eoi_id], predict=False)

    def _given(self, pixels: np.ndarray) -> int:
        """Return the index in `given` of a frame that another is seen beside; only such frames are kept."""
        for index, known in enumerate(self.given):
            if known is pixels:
                return index
        self.given.append(pixels)
        return len(self.given) - 1

    def add_action_vector(self, vector: np.ndarray, pad_id: int) -> None:
        """Add one position that carries the action's vector."""
        self._add_action(len(self.actions), -1, pad_id)
        self.actions.append(vector)

    def add_question(self, actions: NextActions, pad_id: int) -> None:
        """Add one position that asks for the next actions."""
        self._add_action(-1, len(self.asked), pad_id)
        self.asked.append(actions)

    def _add_action(self, action: int, question: int, pad_id: int) -> None:
        self.token_id.append(pad_id)
        self.modality.append(ACTION)
        self.frame.append(-1)
        self.action.append(action)
        self.question.append(question)
        self.position.append((self.time, 0, 0))
        self.predicted.append(False)
        self.time += 1

    @property
    def is_text(self) -> bool:
        """Whether there is nothing but text in it."""
        return not self.frames and not self.actions and not self.asked

    def part(self, start: int, stop: int) -> "Tokens":
        """Cut positions start .. stop - 1 of a document of text alone into a document of their own; all of any document is itself."""
        if stop - start == len(self):
            return self
        assert self.is_text, "a document with frames or actions is never split"
        part = Tokens()
        for token_id, predict in zip(self.token_id[start:stop], self.predicted[start:stop], strict=True):
            part.add_text([token_id], predict)
        return part


def tokenise(
    document: Document, tokenizer: Tokenizer, grid: tuple[int, int], config: PackingConfig, rng: np.random.Generator
) -> Tokens:
    """Turn a document into positions, drawing what is random about it from `rng`.

    Args:
        document: segments; a frame with `predict=False` stays clean.
        tokenizer: for the text.
        grid: rows and columns of a frame's tokens.
        config: the shares to draw with.
        rng: the document's own generator.
    """
    actions_as_text = rng.random() < config.text_action_share
    actions_in_words = rng.random() < config.action_words_share
    drop_caption = rng.random() < config.caption_dropout
    target_parity = 1 if rng.random() < 0.9 else 0  # 1: the first frame is context
    given_actions = [segment for segment in document if isinstance(segment, Action)]
    actions_as_text &= all(action.text for action in given_actions)  # unnamed actions have vectors only
    video = sum(isinstance(s, Frame) and s.predict for s in document) > 1
    makes_picture = not video and isinstance(document[-1], Frame) and not given_actions
    drop_actions = config.action_dropout > 0 and rng.random() < config.action_dropout
    if actions_as_text and not video and given_actions:  # the frame after them must have room
        names = [tokenizer.encode(action.words if actions_in_words and action.words else action.text) for action in given_actions]
        actions_as_text = sum(map(len, names)) + (grid[0] * grid[1] + 2) * len(document) <= config.length
    tokens, frames, seen = Tokens(), 0, list[np.ndarray]()
    for place, segment in enumerate(document):
        if isinstance(segment, Text):
            if not (makes_picture and drop_caption):
                tokens.add_text(tokenizer.encode(segment.text), segment.predict)
        elif isinstance(segment, Steps):
            if segment.first is not None:
                tokens.instead[len(tokens)] = tokenizer.steps_id + min(segment.first, STEP_COUNTS - 1)
            tokens.add_text([tokenizer.steps_id + min(segment.count, STEP_COUNTS - 1)], segment.predict)
        elif isinstance(segment, Frame):
            clean = not segment.predict
            if video and segment.predict and frames % 2 != target_parity:
                clean = rng.random() >= config.context_noise
            frames += 1
            beside = seen[: -config.references - 1 : -1] if config.references else []
            seen.append(segment.pixels)
            if config.references and not segment.predict and _is_referred_to(document, place):
                continue
            tokens.add_frame(segment.pixels, clean, grid, tokenizer, beside)
        elif isinstance(segment, NextActions):
            tokens.add_question(segment, tokenizer.pad_id)
        elif drop_actions:
            continue
        elif actions_as_text:
            ids = tokenizer.encode(segment.words if actions_in_words and segment.words else segment.text)
            if len(tokens) + len(ids) + grid[0] * grid[1] + 2 > config.length:
                break
            tokens.add_text(ids, predict=False)
        else:
            tokens.add_action_vector(segment.vector, tokenizer.pad_id)
    if isinstance(document[-1], Text):
        tokens.add_text([tokenizer.eos_id], predict=document[-1].predict)
    return tokens


def _is_referred_to(document: Document, place: int) -> bool:
    """Tell whether another frame follows the given frame at `place`, with nothing between that is said about it."""
    for segment in document[place + 1 :]:
        if not isinstance(segment, Action):
            return isinstance(segment, Frame)
    return False
