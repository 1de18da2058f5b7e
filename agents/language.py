"""Does the model say what is true? Captions and answers for held-out frames, scored against the task's own, with chance as control."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from worldmodel.agents.intervals import wilson_of_shares
from worldmodel.codec.codec import Codec
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.envs import task_of_data as make_task
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
    interval: tuple[float, float]
    """Wilson 95 % interval of `rate`, clustered by episode."""

    @property
    def rate(self) -> float:
        """Share of right ones."""
        return self.right / self.total

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able record."""
        return {**asdict(self), "rate": self.rate}


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

    An attribute (a color, a room) is right if the written caption names the true value, in any phrasing; a whole
    caption is right if all attributes of the recorded one are.
    """
    if count < 1:
        raise UserError(f"count is {count}, must be at least 1")
    rng = np.random.default_rng(seed)
    places = draw_places(store, episodes, count, rng)
    of_episode = np.array([i for i, _ in places])
    frames = np.stack([store.frame(i, t) for i, t in places])
    true = [store.caption(i, t) for i, t in places]
    asked = [store.question(i, t) for i, t in places]
    latents = codec.encode_frames(frames)
    written = describe_frames(model, tokenizer, latents, max_tokens=room_for(tokenizer, true))
    answered = describe_frames(
        model, tokenizer, latents, [question for question, _ in asked], max_tokens=room_for(tokenizer, [answer for _, answer in asked])
    )
    task = make_task(store.meta["env_id"], image_size=store.image_size)
    true_attributes = [task.language.read(text) for text in true]
    written_attributes = [task.language.read(text) for text in written]
    kept = [{name: w.get(name, "") for name in t} for t, w in zip(true_attributes, written_attributes, strict=True)]
    accuracies = [_accuracy("caption, whole", list(map(str, true_attributes)), list(map(str, kept)), of_episode)]
    for name in task.language.values:
        rows = [i for i, attributes in enumerate(true_attributes) if name in attributes]
        if rows:
            values = [true_attributes[i][name] for i in rows], [written_attributes[i].get(name, "") for i in rows]
            accuracies.append(_accuracy(f"caption, {name}", *values, of_episode[rows]))
    right = [answer for _, answer in asked]
    closed = [i for i, answer in enumerate(right) if answer in ("yes", "no")]
    spoken = [i for i, answer in enumerate(right) if answer not in ("yes", "no")]
    if closed:
        said = [answered[i] for i in closed]
        accuracies.append(_accuracy("answer, yes or no", [right[i] for i in closed], said, of_episode[closed]))
    if spoken:
        accuracies.append(_answers("answer, open", [asked[i] for i in spoken], [answered[i] for i in spoken], of_episode[spoken]))
    answers = [(question, right, said) for (question, right), said in zip(asked, answered, strict=True)]
    return LanguageScore(accuracies, frames, list(zip(true, written, strict=True)), answers)


def draw_places(store: EpisodeStore, episodes: Sequence[int], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw (episode, frame) pairs for `count` frames: one of each episode, in random order, then another of each."""
    turns = [rng.permutation(list(episodes)) for _ in range(-(-count // len(episodes)))]
    return [(int(i), int(rng.integers(int(store.lengths[int(i)]) + 1))) for i in np.concatenate(turns)[:count]]


def room_for(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Return how many tokens a model may write for texts such as these: twice the longest, so that no true one is cut off."""
    return 2 * max(1, *(len(tokenizer.encode(text)) for text in texts))


def _accuracy(name: str, true: list[str], said: list[str], of_episode: np.ndarray) -> Accuracy:
    right = [a == b for a, b in zip(true, said, strict=True)]
    commonest = Counter(true).most_common(1)[0][1]
    return Accuracy(name, sum(right), len(true), commonest / len(true), wilson_of_shares(right, groups=of_episode.tolist()))


def _answers(name: str, asked: list[tuple[str, str]], answered: list[str], of_episode: np.ndarray) -> Accuracy:
    """Score answers; chance is the accuracy of always saying the commonest answer to each question, without seeing the frame."""
    by_question: dict[str, list[str]] = {}
    for question, answer in asked:
        by_question.setdefault(question, []).append(answer)
    blind = sum(Counter(answers).most_common(1)[0][1] for answers in by_question.values())
    right = [true == said for (_, true), said in zip(asked, answered, strict=True)]
    return Accuracy(name, sum(right), len(asked), blind / len(asked), wilson_of_shares(right, groups=of_episode.tolist()))
