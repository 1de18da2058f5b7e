"""Documents: what the model is trained on, tuples of segments, each a text, a frame, an action or a number of steps.

A document knows no token and no latent: text is text, frames are uint8, actions are float32. `predict` says
whether the model is to learn to produce the segment; a segment that is only given (a picture to be captioned,
a question) has it off. One pair of documents is the same stretch of an episode asked in two directions: what
comes of these actions (`transition_document`), and which actions lead there (`goal_document`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldmodel.datasets.episodes.episode import Clip


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str
    predict: bool = True


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture: uint8 (H, W, 3)."""

    pixels: np.ndarray
    predict: bool

    def __post_init__(self) -> None:
        """Raise ValueError when the pixels are not uint8 (H, W, 3)."""
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"a frame is uint8 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}")


@dataclass(frozen=True, eq=False)
class Action:
    """The actions of one model step, as numbers and in words."""

    vector: np.ndarray
    """float32 (d,), d = action block * action size."""
    text: str
    """The numbers, to three decimals."""
    words: str = ""
    """The same in coarse words ("move right"); "" when it is not known."""


@dataclass(frozen=True)
class Steps:
    """How many environment steps it takes from the frame now to the goal."""

    count: int
    """Steps from now to the goal's frame: what follows is read after this number."""
    predict: bool = True
    first: int | None = None
    """Steps until the goal is first met, where that is known: the number that is learned in the place of `count`."""

    def __post_init__(self) -> None:
        """Raise ValueError when a number is negative, or the goal is first met later than at its own frame."""
        if self.count < 0 or not 0 <= (self.count if self.first is None else self.first) <= self.count:
            raise ValueError(f"a number of steps is at least 0, and the first meeting no later, got {self.count} and {self.first}")


@dataclass(frozen=True, eq=False)
class NextActions:
    """The actions of the next model steps, which the model is to say."""

    vectors: np.ndarray
    """float32 (h, d), h model steps of d = action block * action size numbers."""
    known: int
    """How many of the numbers, read row by row, are known; the others are not learned."""

    def __post_init__(self) -> None:
        """Raise ValueError when there are no h x d numbers, or more are known than there are."""
        if self.vectors.ndim != 2 or not 0 <= self.known <= self.vectors.size:
            raise ValueError(f"next actions are (h, d) with at most as many known, got {self.vectors.shape} and {self.known}")


Segment = Text | Frame | Action | Steps | NextActions
Document = tuple[Segment, ...]


def text_document(text: str) -> Document:
    """Make a document of text to be continued."""
    return (Text(text),)


def caption_document(frame: np.ndarray, caption: str) -> Document:
    """Make a document of picture to text: a frame (uint8, H W 3) is given, its caption is learned."""
    return (Frame(frame, predict=False), Text(caption))


def image_document(caption: str, frame: np.ndarray) -> Document:
    """Make a document of text to picture: a caption is given, its frame (uint8, H W 3) is learned."""
    return (Text(caption, predict=False), Frame(frame, predict=True))


def question_document(frame: np.ndarray, question: str, answer: str) -> Document:
    """Make a document of a question: a frame (uint8, H W 3) and the question are given, the answer is learned."""
    return (Frame(frame, predict=False), Text(question, predict=False), Text(answer))


def video_document(clip: Clip) -> Document:
    """Make a document of frames alone, t + 1 of them, all learned."""
    return tuple(Frame(pixels, predict=True) for pixels in clip.frames)


def action_video_document(clip: Clip) -> Document:
    """Make a document of frame, action, frame, action, ..., frame: t + 1 frames, all learned, and the t actions between them."""
    segments: list[Segment] = [Frame(clip.frames[0], predict=True)]
    words = clip.action_words or [""] * len(clip.actions)
    for vector, text, said, pixels in zip(clip.actions, clip.action_texts, words, clip.frames[1:], strict=True):
        segments += [Action(vector, text, said), Frame(pixels, predict=True)]
    return tuple(segments)


def change_document(clip: Clip) -> Document:
    """Make a document of what happened: the first and last frame of a clip are given, what changed in between is learned.

    The sentences of the clip's steps stand one after the other; one that repeats the sentence before it is left out.
    """
    sentences = [part for change in clip.changes for part in change.split("; ")]
    changed = "; ".join(sentence for sentence, _ in itertools.groupby(filter(None, sentences)))
    return (Frame(clip.frames[0], predict=False), Frame(clip.frames[-1], predict=False), Text(changed))


def instruction_document(frame: np.ndarray, instruction: str, goal: np.ndarray) -> Document:
    """Make a document of what an instruction asks for: frame and instruction are given, the frame that fulfills it is learned.

    Frames are uint8 (H, W, 3).

    This is what a planner whose goal is given in words lacks: its costs compare frames, so the words must become the frame to reach,
    in this very scene. (A video with all its actions does not need the instruction, so nothing would be learned of it there.)
    """
    return (Frame(frame, predict=False), Text(instruction, predict=False), Frame(goal, predict=True))


def transition_document(now: Sequence[np.ndarray], actions: Sequence[Action], after: np.ndarray) -> Document:
    """Make a document of what comes of some actions: frames up to now and actions are given, the frame after them is learned.

    With several actions it is a jump: the frames between are neither given nor predicted.

    Args:
        now: uint8 (H, W, 3) each, the newest last: usually the frame one model step before, and the one now.
        actions: of the model steps in order.
        after: uint8 (H, W, 3).
    """
    return (*(Frame(pixels, predict=False) for pixels in now), *actions, Frame(after, predict=True))


def goal_document(now: np.ndarray, goal: np.ndarray | str, steps: int, actions: NextActions, first: int | None = None) -> Document:
    """Make a document of the way to a goal: current and goal frame are given, the number of steps and the actions are learned.

    The goal is what the same episode came to later (hindsight, arXiv 1707.01495; goal-conditioned imitation, arXiv 1906.05838). One
    step away it is inverse dynamics.

    Args:
        now: uint8 (H, W, 3).
        goal: its frame, uint8 (H, W, 3), or a sentence that is true of it.
        steps: environment steps from now to the goal.
        actions: of the next model steps.
        first: environment steps until the goal is first met, where that is known. How far a goal is, is learned from this: what an
            episode does between that and `steps`, it does near the goal, and is no part of the way.
    """
    shown = Text(goal, predict=False) if isinstance(goal, str) else Frame(goal, predict=False)
    return (Frame(now, predict=False), shown, Steps(steps, first=first), actions)
