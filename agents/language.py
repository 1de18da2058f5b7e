"""Does the model say what is true? Captions and answers for held-out frames, scored against the task's own, beside chance."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.agents.intervals import wilson
from worldmodel.codec.codec import Codec
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import make_task
from worldmodel.errors import UserError
from worldmodel.generation import describe_frames
from worldmodel.model import WorldModel
from worldmodel.tokenizer import Tokenizer


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers."""

    name: str
    right: int
    total: int
    chance: float
    """What always giving the commonest true value of this sample would reach."""

    @property
    def rate(self) -> float:
        """Share of right ones."""
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `rate`."""
        return wilson(self.right, self.total)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return {**asdict(self), "rate": self.rate, "interval": self.interval}


@dataclass(frozen=True)
class LanguageScore:
    """Captions and answers for a sample of frames."""

    accuracies: list[Accuracy]
    """Whole captions, each attribute of a caption, answers to yes/no and to open questions."""
    frames: np.ndarray
    """uint8 (n, height, width, 3)"""
    captions: list[tuple[str, str]]
    """(true, written) for each frame."""
    answers: list[tuple[str, str, str]]
    """(question, true, written) for each frame."""


@torch.no_grad()
def score_language(
    model: WorldModel,
    tokenizer: Tokenizer,
    codec: Codec,
    store: EpisodeStore,
    episodes: Sequence[int],
    count: int = 200,
    seed: int = 0,
) -> LanguageScore:
    """Caption `count` held-out frames and answer the question recorded with each.

    An attribute (a colour, a room) is right if the written caption names the true value, in any phrasing; a whole
    caption is right if all attributes of the recorded one are.
    """
    if count < 1:
        raise UserError(f"count is {count}, must be at least 1")
    rng = np.random.default_rng(seed)
    places = []
    for i in rng.choice(list(episodes), count):
        places.append((int(i), int(rng.integers(int(store.lengths[int(i)]) + 1))))
    frames = np.stack([store.frame(i, t) for i, t in places])
    true = [store.caption(i, t) for i, t in places]
    asked = [store.question(i, t) for i, t in places]
    latents = codec.encode_frames(frames)
    written = describe_frames(model, tokenizer, latents)
    answered = describe_frames(model, tokenizer, latents, [question for question, _ in asked], max_tokens=12)
    task = make_task(store.meta["env_id"], image_size=store.image_size)
    true_attributes = [task.caption_attributes(text) for text in true]
    written_attributes = [task.caption_attributes(text) for text in written]
    kept = [{name: w.get(name, "") for name in t} for t, w in zip(true_attributes, written_attributes, strict=True)]
    accuracies = [_accuracy("caption, whole", list(map(str, true_attributes)), list(map(str, kept)))]
    for name in task.attribute_values:
        named = [(t[name], w.get(name, "")) for t, w in zip(true_attributes, written_attributes, strict=True) if name in t]
        if named:
            accuracies.append(_accuracy(f"caption, {name}", *map(list, zip(*named, strict=True))))
    pairs = list(zip(asked, answered, strict=True))
    closed = [(right, said) for (_, right), said in pairs if right in ("yes", "no")]
    spoken = [pair for pair in pairs if pair[0][1] not in ("yes", "no")]
    if closed:
        accuracies.append(_accuracy("answer, yes or no", *map(list, zip(*closed, strict=True))))
    if spoken:
        accuracies.append(_answers("answer, open", *map(list, zip(*spoken, strict=True))))
    answers = [(question, right, said) for (question, right), said in zip(asked, answered, strict=True)]
    return LanguageScore(accuracies, frames, list(zip(true, written, strict=True)), answers)


def _accuracy(name: str, true: list[str], said: list[str]) -> Accuracy:
    right = sum(a == b for a, b in zip(true, said, strict=True))
    commonest = Counter(true).most_common(1)[0][1]
    return Accuracy(name, right, len(true), commonest / len(true))


def _answers(name: str, asked: list[tuple[str, str]], answered: list[str]) -> Accuracy:
    """Chance is that of one who knows the commonest answer to every question, but does not look."""
    by_question: dict[str, list[str]] = {}
    for question, answer in asked:
        by_question.setdefault(question, []).append(answer)
    blind = sum(Counter(answers).most_common(1)[0][1] for answers in by_question.values())
    right = sum(true == said for (_, true), said in zip(asked, answered, strict=True))
    return Accuracy(name, right, len(asked), blind / len(asked))
