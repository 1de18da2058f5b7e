"""Packed batches: tokenized documents laid end to end in rows of fixed length, and read back as documents."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Segment, Steps, Text
from worldmodel.errors import UserError
from worldmodel.tokenizer import STEP_COUNTS, Tokenizer
from worldmodel.tokens import ACTION, IGNORE, TEXT, Tokens


@dataclass
class PackedBatch:
    """One batch.

    Axes: b rows, n positions, f frames of p tokens, g pictures that frames refer to, up to r each, m action vectors, q questions for
    the actions of the next h model steps.

    Indices that the model needs are computed here, once, where the batch is made: on the CPU. So a step on a GPU never waits to
    learn how many frames or predicted tokens there are.
    """

    token_id: Tensor  # (b, n) int64; padding id where the position is no text
    modality: Tensor  # (b, n) int64: TEXT, VISION or ACTION
    document_id: Tensor  # (b, n) int64, distinct within the batch; -1 padding
    frame_id: Tensor  # (b, n) int64: index into `frames`, -1 elsewhere; positions of one frame are in patch order
    action_id: Tensor  # (b, n) int64: index into `actions`, -1 elsewhere
    position: Tensor  # (b, n, 3) int64: time, row, column
    text_target: Tensor  # (b, n) int64: the next token, IGNORE where it is not predicted
    frames: Tensor  # (f, H, W, 3) uint8
    clean: Tensor  # (f,) bool: given as it is; the others are noised and predicted
    actions: Tensor  # (m, action_dim) float32
    given: Tensor  # (g, H, W, 3) uint8: what frames are seen beside
    reference: Tensor  # (f, r) int64: index into `given`, the newest first; -1 where there is none
    question_id: Tensor  # (b, n) int64: index into `answers` where actions are asked for, -1 elsewhere
    answers: Tensor  # (q, h, action_dim) float32
    known: Tensor  # (q, h, action_dim) bool: which numbers of the answers are learned
    sources: dict[str, int] = field(default_factory=dict)  # positions per source
    documents: tuple[int, ...] = ()  # index in the mixture of each document_id, in order; empty where it is not known
    tokens: int = field(init=False, repr=False)  # positions that are not padding
    frame_positions: Tensor = field(init=False, repr=False)  # (f p,) int64: places of frames' tokens among b x n, in reading order
    action_positions: Tensor = field(init=False, repr=False)  # (m,) int64: places of action vectors
    predicted_positions: Tensor = field(init=False, repr=False)  # (k,) int64: places whose next token is predicted
    noised_frames: Tensor = field(init=False, repr=False)  # (k,) int64: frames that are not clean
    question_positions: Tensor = field(init=False, repr=False)  # (q,) int64: places where actions are asked for
    known_numbers: int = field(init=False, repr=False)  # how many numbers of actions are learned

    def __post_init__(self) -> None:
        self.tokens = int((self.document_id >= 0).sum())
        self.frame_positions = (self.frame_id >= 0).flatten().nonzero()[:, 0]
        self.action_positions = (self.action_id >= 0).flatten().nonzero()[:, 0]
        self.predicted_positions = (self.text_target != IGNORE).flatten().nonzero()[:, 0]
        self.noised_frames = (~self.clean).nonzero()[:, 0]
        self.question_positions = (self.question_id >= 0).flatten().nonzero()[:, 0]
        self.known_numbers = int(self.known.sum())

    @classmethod
    def restore(cls, fields: dict[str, Any]) -> "PackedBatch":
        """Rebuild a batch from all of its fields, as `vars` gives them."""
        batch = cls.__new__(cls)
        vars(batch).update(fields)
        return batch

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the same batch with its tensors on `device`."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return self.restore(vars(self) | tensors)  # not the constructor, which would look for the places again

    @property
    def filled(self) -> float:
        """Share of positions that are not padding."""
        return self.tokens / self.token_id.numel()

    @property
    def pictures(self) -> Tensor:
        """Frames and given pictures, uint8 (f + g, H, W, 3): all that the codec is to encode."""
        return torch.cat([self.frames, self.given]) if len(self.given) else self.frames

    @property
    def named_sources(self) -> str:
        """Where its documents come from, for messages."""
        return ", ".join(sorted(self.sources)) or "unnamed documents"

    def split(self, parts: int) -> "list[PackedBatch]":
        """Split into batches of rows / parts rows each, in order, with their own frames, actions and documents numbered from 0.

        For a batch on the CPU. Every part names the sources of the whole.

        Raises:
            UserError: the rows do not divide.
        """
        if parts < 1 or len(self.token_id) % parts:
            raise UserError(f"{len(self.token_id)} rows do not divide into {parts} parts: take a number of parts that divides them")
        rows = len(self.token_id) // parts
        split, document, frame, action, given, question = [], 0, 0, 0, 0, 0
        for start in range(0, len(self.token_id), rows):
            here = slice(start, start + rows)
            documents, frames, actions, questions = (
                _count(ids[here], first)
                for ids, first in (
                    (self.document_id, document),
                    (self.frame_id, frame),
                    (self.action_id, action),
                    (self.question_id, question),
                )
            )
            references = self.reference[frame : frame + frames]
            pictures = _count(references, given)
            split.append(
                replace(
                    self,
                    token_id=self.token_id[here],
                    modality=self.modality[here],
                    document_id=_renumbered(self.document_id[here], document),
                    frame_id=_renumbered(self.frame_id[here], frame),
                    action_id=_renumbered(self.action_id[here], action),
                    position=self.position[here],
                    text_target=self.text_target[here],
                    frames=self.frames[frame : frame + frames],
                    clean=self.clean[frame : frame + frames],
                    actions=self.actions[action : action + actions],
                    question_id=_renumbered(self.question_id[here], question),
                    answers=self.answers[question : question + questions],
                    known=self.known[question : question + questions],
                    given=self.given[given : given + pictures],
                    reference=_renumbered(references, given),
                    documents=self.documents[document : document + documents],
                )
            )
            document, frame, action = document + documents, frame + frames, action + actions
            given, question = given + pictures, question + questions
        return split


def _count(ids: Tensor, first: int) -> int:
    """Count the ids from `first` on."""
    return int(ids.max()) + 1 - first if (ids >= 0).any() else 0


def _renumbered(ids: Tensor, first: int) -> Tensor:
    """Renumber ids that start at `first` to start at 0; -1 stays."""
    return torch.where(ids >= 0, ids - first, ids)


def collate(
    rows: list[list[Tokens]],
    length: int,
    pad_id: int,
    action_dim: int,
    sources: dict[str, int] | None = None,
    documents: Sequence[int] = (),
) -> PackedBatch:
    """Lay tokenized documents end to end, one list of them per row, and pad.

    Args:
        rows: what lies in each row.
        length: positions of a row.
        pad_id: token id of positions that are no text.
        action_dim: numbers of an action vector.
        sources: positions per source.
        documents: index in the mixture of each, in the order of `rows`; a split text's pieces have the same.

    Raises:
        UserError: an action vector is longer than `action_dim`; shorter ones are padded with zeros. Frames differ in size.
    """
    b = len(rows)
    token_id = np.full((b, length), pad_id, np.int64)
    modality = np.zeros((b, length), np.int64)
    document_id = np.full((b, length), -1, np.int64)
    frame_id = np.full((b, length), -1, np.int64)
    action_id = np.full((b, length), -1, np.int64)
    question_id = np.full((b, length), -1, np.int64)
    position = np.zeros((b, length, 3), np.int64)
    text_target = np.full((b, length), IGNORE, np.int64)
    frames: list[np.ndarray] = []
    clean: list[bool] = []
    actions: list[np.ndarray] = []
    given: list[np.ndarray] = []
    references: list[tuple[int, ...]] = []
    asked: list[NextActions] = []
    number = 0
    for r, row in enumerate(rows):
        start = 0
        for tokens in row:
            end = start + len(tokens)
            token_id[r, start:end] = tokens.token_id
            modality[r, start:end] = tokens.modality
            document_id[r, start:end] = number
            local = np.array(tokens.frame)
            frame_id[r, start:end] = np.where(local >= 0, local + len(frames), -1)
            local = np.array(tokens.action)
            action_id[r, start:end] = np.where(local >= 0, local + len(actions), -1)
            position[r, start:end] = tokens.position
            predicted = np.array(tokens.predicted[1:], bool)
            targets = [tokens.instead.get(i, token) for i, token in enumerate(tokens.token_id)]
            text_target[r, start : end - 1] = np.where(predicted, targets[1:], IGNORE)
            references += [tuple(index + len(given) for index in of_frame) for of_frame in tokens.references]
            local = np.array(tokens.question)
            question_id[r, start:end] = np.where(local >= 0, local + len(asked), -1)
            frames += tokens.frames
            clean += tokens.clean
            actions += tokens.actions
            asked += tokens.asked
            given += tokens.given
            number, start = number + 1, end
    for vector in (*actions, *(each.vectors[0] for each in asked)):
        if len(vector) > action_dim:
            raise UserError(f"an action has {len(vector)} numbers, the model takes {action_dim}: raise its action_dim")
    vectors = np.zeros((len(actions), action_dim), np.float32)
    for i, vector in enumerate(actions):
        vectors[i, : len(vector)] = vector
    answers = np.zeros((len(asked), max((len(each.vectors) for each in asked), default=0), action_dim), np.float32)
    known = np.zeros(answers.shape, bool)
    for i, question in enumerate(asked):
        h, d = question.vectors.shape
        answers[i, :h, :d] = question.vectors
        known[i, :h, :d] = (np.arange(h * d) < question.known).reshape(h, d)
    shapes = sorted({frame.shape for frame in (*frames, *given)})
    if len(shapes) > 1:
        sizes = " and ".join(f"{height}x{width}" for height, width, _ in shapes)
        raise UserError(f"one batch has frames of {sizes} pixels: bring all sources to one size")
    pixels = np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
    beside = np.full((len(frames), max(map(len, references), default=0)), -1, np.int64)
    for place, of_frame in zip(beside, references, strict=True):
        place[: len(of_frame)] = of_frame
    return PackedBatch(
        token_id=torch.from_numpy(token_id),
        modality=torch.from_numpy(modality),
        document_id=torch.from_numpy(document_id),
        frame_id=torch.from_numpy(frame_id),
        action_id=torch.from_numpy(action_id),
        position=torch.from_numpy(position),
        text_target=torch.from_numpy(text_target),
        frames=torch.from_numpy(pixels),
        clean=torch.tensor(clean, dtype=torch.bool),
        actions=torch.from_numpy(vectors),
        given=torch.from_numpy(np.stack(given)) if given else torch.zeros((0, *pixels.shape[1:]), dtype=torch.uint8),
        reference=torch.from_numpy(beside),
        question_id=torch.from_numpy(question_id),
        answers=torch.from_numpy(answers),
        known=torch.from_numpy(known),
        sources=sources or {},
        documents=tuple(documents),
    )


def unpack(batch: PackedBatch, tokenizer: Tokenizer) -> list[Document]:
    """Read back the documents of a batch, as they were packed; for looking at data, and for tests.

    A batch keeps less than its documents had, so some things come back in another form:

    - neighboring texts that are both learned or both given come back as one, empty texts not at all;
    - an action written as text comes back as a given `Text`; one that is a vector has no words and is padded to the model's width;
    - a frame's `predict` tells how it was drawn: off for the clean context frames of a video;
    - next actions are padded to the model's width;
    - frames that others are seen beside come back before the first frame that is, equal ones once;
    - whether the first token of a document is learned means nothing, since nothing comes before it: its text goes by the second;
    - text that was cut in the middle of a character ends with U+FFFD.
    """
    fields = ("token_id", "modality", "document_id", "frame_id", "action_id", "question_id", "text_target")
    columns = {name: getattr(batch, name).cpu().numpy() for name in fields}
    documents: list[Document] = []
    for row in range(len(batch.token_id)):
        ids = columns["document_id"][row]
        for document in np.unique(ids[ids >= 0]):
            here = {name: column[row, ids == document] for name, column in columns.items()}
            documents.append(_document(here, batch, tokenizer))
    return documents


def _document(here: dict[str, np.ndarray], batch: PackedBatch, tokenizer: Tokenizer) -> Document:
    """Rebuild one document from its positions, by name of the field (k,)."""
    token, modality, frame = here["token_id"], here["modality"], here["frame_id"]
    learnt = np.append(False, here["text_target"][:-1] != IGNORE)
    if len(token) > 1 and modality[0] == modality[1] == TEXT and token[1] != tokenizer.boi_id:
        learnt[0] = learnt[1]
    segments: list[Segment] = []
    text: list[int] = []
    predict = False
    marks = {tokenizer.boi_id, tokenizer.eoi_id, tokenizer.eos_id}

    def end_text() -> None:
        if text:
            segments.append(Text(tokenizer.decode(text), predict))
            text.clear()

    for i in range(len(token)):
        if modality[i] == TEXT and 0 <= token[i] - tokenizer.steps_id < STEP_COUNTS:
            end_text()
            target = here["text_target"][i - 1]
            first = int(target) - tokenizer.steps_id if learnt[i] and target != token[i] else None
            segments.append(Steps(int(token[i]) - tokenizer.steps_id, bool(learnt[i]), first))
            continue
        if modality[i] == TEXT and token[i] not in marks:
            if learnt[i] != predict:
                end_text()
            predict = bool(learnt[i])
            text.append(int(token[i]))
            continue
        end_text()
        if modality[i] == ACTION:
            if here["question_id"][i] >= 0:
                answer, known = (x[here["question_id"][i]].cpu().numpy() for x in (batch.answers, batch.known))
                segments.append(NextActions(answer, int(known.sum())))
                continue
            segments.append(Action(batch.actions[here["action_id"][i]].cpu().numpy(), ""))
        elif frame[i] >= 0 and frame[i] != frame[i - 1]:
            for index in (place for place in reversed(batch.reference[frame[i]].tolist()) if place >= 0):
                pixels = batch.given[index].cpu().numpy()
                if not any(isinstance(s, Frame) and np.array_equal(s.pixels, pixels) for s in segments):
                    segments.append(Frame(pixels, predict=False))
            segments.append(Frame(batch.frames[frame[i]].cpu().numpy(), not bool(batch.clean[frame[i]])))
    end_text()
    return tuple(segments)
