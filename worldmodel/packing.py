"""Documents -> packed batch: whole documents laid end to end in rows of fixed length, with everything the model needs per position.

A frame becomes `<boi>`, one position per latent token, `<eoi>`. An action becomes either one position that carries its vector, or
its text; which of the two is drawn per document, so that one checkpoint serves both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.datasets.documents import Action, Document, Frame, Text
from worldmodel.datasets.mixture import Mixture
from worldmodel.errors import UserError
from worldmodel.tokenizer import Tokenizer

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
    context_noise: float = 0.2
    """Probability that a context frame of a video is noised too. Frames alternate between context and target, so that a target
    mostly follows a clean frame, which is what a rollout sees, and sometimes a noised one (Diffusion Forcing, arXiv 2407.01392)."""
    caption_dropout: float = 0.1
    """Probability that a picture is generated without its caption, for classifier-free guidance."""
    lookahead: int = 32
    """How many documents that do not fit may wait for the next batch before this one is closed."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("length", 2), ("lookahead", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")


@dataclass
class PackedBatch:
    """One batch. b rows, n positions, f frames, m action vectors; N tokens per frame."""

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
    sources: dict[str, int] = field(default_factory=dict)  # positions per source

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return PackedBatch(**moved)

    @property
    def filled(self) -> float:
        """Share of positions that are not padding."""
        return float((self.document_id >= 0).float().mean())


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
    actions: list[np.ndarray] = field(default_factory=list)
    time: int = 0

    def __len__(self) -> int:
        return len(self.token_id)

    def add_text(self, ids: list[int], predict: bool) -> None:
        """Text tokens, each one step of time."""
        n = len(ids)
        self.token_id += ids
        self.modality += [TEXT] * n
        self.frame += [-1] * n
        self.action += [-1] * n
        self.position += [(self.time + i, 0, 0) for i in range(n)]
        self.predicted += [predict] * n
        self.time += n

    def add_frame(self, pixels: np.ndarray, clean: bool, grid: tuple[int, int], tokenizer: Tokenizer) -> None:
        """`<boi>`, the frame's latent tokens at one step of time, `<eoi>`."""
        self.add_text([tokenizer.boi_id], predict=False)
        n = grid[0] * grid[1]
        self.token_id += [tokenizer.pad_id] * n
        self.modality += [VISION] * n
        self.frame += [len(self.frames)] * n
        self.action += [-1] * n
        self.position += [(self.time, row, column) for row in range(grid[0]) for column in range(grid[1])]
        self.predicted += [False] * n
        self.time += 1
        self.frames.append(pixels)
        self.clean.append(clean)
        self.add_text([tokenizer.eoi_id], predict=False)

    def add_action_vector(self, vector: np.ndarray, pad_id: int) -> None:
        """One position that carries the action's vector."""
        self.token_id.append(pad_id)
        self.modality.append(ACTION)
        self.frame.append(-1)
        self.action.append(len(self.actions))
        self.position.append((self.time, 0, 0))
        self.predicted.append(False)
        self.time += 1
        self.actions.append(vector)


def tokenise(
    document: Document, tokenizer: Tokenizer, grid: tuple[int, int], config: PackingConfig, rng: np.random.Generator
) -> Tokens:
    """Turn a document into positions, drawing what is random about it from `rng`.

    Args:
        document: segments; a frame with `predict=False` stays clean.
        tokenizer: for the text.
        grid: rows and columns of a frame's latent tokens.
        config: the shares to draw with.
        rng: the document's own generator.
    """
    actions_as_text = rng.random() < config.text_action_share
    drop_caption = rng.random() < config.caption_dropout
    video = sum(isinstance(s, Frame) for s in document) > 1
    target_parity = 1 if rng.random() < 0.9 else 0  # 1: the first frame is context
    makes_picture = not video and isinstance(document[-1], Frame)
    tokens, frames = Tokens(), 0
    for segment in document:
        if isinstance(segment, Text):
            if not (makes_picture and drop_caption):
                tokens.add_text(tokenizer.encode(segment.text), segment.predict)
        elif isinstance(segment, Frame):
            clean = not segment.predict
            if video and segment.predict and frames % 2 != target_parity:
                clean = rng.random() >= config.context_noise
            tokens.add_frame(segment.pixels, clean, grid, tokenizer)
            frames += 1
        elif isinstance(segment, Action):
            if actions_as_text:
                ids = tokenizer.encode(segment.text)
                if len(tokens) + len(ids) + grid[0] * grid[1] + 2 > config.length:
                    break
                tokens.add_text(ids, predict=False)
            else:
                tokens.add_action_vector(segment.vector, tokenizer.pad_id)
    if isinstance(document[-1], Text):
        tokens.add_text([tokenizer.eos_id], predict=document[-1].predict)
    return tokens


class Packer:
    """Draws documents from a mixture and packs them; its state is two small lists, so that a run resumes on the same batches."""

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, grid: tuple[int, int], action_dim: int, config: PackingConfig) -> None:
        self.mixture, self.tokenizer, self.grid = mixture, tokenizer, grid
        self.action_dim, self.config = action_dim, config
        self.next_document = 0
        self.waiting: list[int] = []
        self.held: dict[int, Tokens] = {}  # of the waiting documents, so that none is read and tokenised twice

    def state_dict(self) -> dict[str, object]:
        """Where the stream stands."""
        return {"next_document": self.next_document, "waiting": list(self.waiting)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state`."""
        next_document, waiting = state["next_document"], state["waiting"]
        assert isinstance(next_document, int) and isinstance(waiting, list)
        self.next_document, self.waiting = next_document, list(waiting)
        self.held.clear()

    def __iter__(self) -> Iterator[PackedBatch]:
        while True:
            yield self.next_batch()

    def source_name(self, index: int) -> str:
        """The source that document `index` of the mixture comes from."""
        return self.mixture.source_name(index)

    def tokens(self, index: int) -> Tokens:
        """Document `index` of the mixture as positions: a pure function of the mixture's seed and the index."""
        rng = np.random.default_rng([self.mixture.seed, index, 1])
        tokens = tokenise(self.mixture.document(index), self.tokenizer, self.grid, self.config, rng)
        if len(tokens) > self.config.length:
            if tokens.frames:
                raise UserError(
                    f"a document of source {self.source_name(index)!r} takes {len(tokens)} positions, a sequence has "
                    f"{self.config.length}: use shorter clips or a larger packing length"
                )
            tokens = _cut(tokens, self.config.length)
        return tokens

    def next_batch(self) -> PackedBatch:
        """Fill all rows first-fit; documents that fit nowhere wait for the next batch, first in line."""
        rows: list[list[Tokens]] = [[] for _ in range(self.config.rows)]
        room = [self.config.length] * self.config.rows
        sources: dict[str, int] = {}
        queue, self.waiting = self.waiting, []
        while len(self.waiting) < self.config.lookahead and max(room) > 0:
            if queue:
                index = queue.pop(0)
            else:
                index, self.next_document = self.next_document, self.next_document + 1
            tokens = self.held.pop(index) if index in self.held else self.tokens(index)
            row = next((r for r, free in enumerate(room) if free >= len(tokens)), None)
            if row is None:
                self.waiting.append(index)
                self.held[index] = tokens
                continue
            rows[row].append(tokens)
            room[row] -= len(tokens)
            name = self.source_name(index)
            sources[name] = sources.get(name, 0) + len(tokens)
        self.waiting += queue
        return collate(rows, self.config.length, self.tokenizer.pad_id, self.action_dim, sources)


def _cut(tokens: Tokens, length: int) -> Tokens:
    lists = ("token_id", "modality", "frame", "action", "position", "predicted")
    return Tokens(**{name: getattr(tokens, name)[:length] for name in lists}, time=length)


def collate(rows: list[list[Tokens]], length: int, pad_id: int, action_dim: int, sources: dict[str, int] | None = None) -> PackedBatch:
    """Lay tokenised documents end to end, one list of them per row, and pad.

    Raises:
        UserError: an action vector is longer than `action_dim`; shorter ones are padded with zeros.
    """
    b = len(rows)
    token_id = np.full((b, length), pad_id, np.int64)
    modality = np.zeros((b, length), np.int64)
    document_id = np.full((b, length), -1, np.int64)
    frame_id = np.full((b, length), -1, np.int64)
    action_id = np.full((b, length), -1, np.int64)
    position = np.zeros((b, length, 3), np.int64)
    text_target = np.full((b, length), IGNORE, np.int64)
    frames: list[np.ndarray] = []
    clean: list[bool] = []
    actions: list[np.ndarray] = []
    documents = 0
    for r, row in enumerate(rows):
        start = 0
        for tokens in row:
            end = start + len(tokens)
            token_id[r, start:end] = tokens.token_id
            modality[r, start:end] = tokens.modality
            document_id[r, start:end] = documents
            local = np.array(tokens.frame)
            frame_id[r, start:end] = np.where(local >= 0, local + len(frames), -1)
            local = np.array(tokens.action)
            action_id[r, start:end] = np.where(local >= 0, local + len(actions), -1)
            position[r, start:end] = tokens.position
            predicted = np.array(tokens.predicted[1:], bool)
            text_target[r, start : end - 1] = np.where(predicted, tokens.token_id[1:], IGNORE)
            frames += tokens.frames
            clean += tokens.clean
            actions += tokens.actions
            documents, start = documents + 1, end
    for vector in actions:
        if len(vector) > action_dim:
            raise UserError(f"an action has {len(vector)} numbers, the model takes {action_dim}: raise its action_dim")
    vectors = np.zeros((len(actions), action_dim), np.float32)
    for i, vector in enumerate(actions):
        vectors[i, : len(vector)] = vector
    pixels = np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
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
        sources=sources or {},
    )
