"""The smallest model that has everything (four tokens a frame, two blocks), and documents for it."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.batch import PackedBatch, collate
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Text, goal_document, transition_document
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.source import Source
from worldmodel.flow import FlowConfig
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import FeedForwardKind, MoEConfig
from worldmodel.packing import Packer
from worldmodel.stem import StemConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.transformer import TrunkConfig

IMAGE, GRID, CHANNELS = 16, (2, 2), 8
STEM, MAP = StemConfig(tokens=2, references=2, width=8, widest=16), (8, 8)
"""Of `stem_model`."""
WORDS = "a red disc is near the top left of the blue room and moves right by half a step then stops. action: dx=+0.300, dy=-0.120"


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train([WORDS] * 4, 400)


def codec(seed: int = 0) -> RAE:
    torch.manual_seed(seed)
    encoder = EncoderConfig(image_size=IMAGE, patch_size=8, channels=CHANNELS, width=16, depth=1, heads=2)
    return RAE(RAEConfig(encoder, DecoderConfig(width=16, depth=1, heads=2))).eval()


def model_config(feed_forward: FeedForwardKind = "modality", flow: FlowConfig | None = None, **fields: Any) -> ModelConfig:
    trunk = TrunkConfig(width=32, depth=2, heads=4, kv_heads=2, hidden=64, feed_forward=feed_forward, moe=MoEConfig(6, 3, 16))
    flow = flow or FlowConfig()
    sizes: dict[str, Any] = {"latent_grid": GRID, "channels": CHANNELS, "action_dim": 2} | fields
    return ModelConfig(trunk, flow, tokenizer().vocab_size, **sizes)


def model(feed_forward: FeedForwardKind = "modality", flow: FlowConfig | None = None, seed: int = 0, **fields: Any) -> WorldModel:
    """Further fields are those of `ModelConfig`; what is zeros before training is not."""
    torch.manual_seed(seed)
    made = WorldModel(model_config(feed_forward, flow, **fields)).eval()
    torch.nn.init.normal_(made.action_out.weight, std=0.05)
    return made


def stem_model(feed_forward: FeedForwardKind = "modality", flow: FlowConfig | None = None, seed: int = 0, **fields: Any) -> WorldModel:
    """A model with a stem of maps of 8 x 8 and 4 x 4: frames are seen beside two others and are two tokens of the trunk."""
    made = model(feed_forward, flow, seed, **{"stem": STEM, "latent_grid": MAP} | fields)
    assert made.stem is not None
    if made.stem.missing is not None:
        torch.nn.init.normal_(made.stem.missing)  # zeros before training
    return made


def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8)


def action(rng: np.random.Generator) -> Action:
    vector = rng.uniform(-1, 1, 2).round(3).astype(np.float32)
    return Action(vector, describe(torch.from_numpy(vector)), "move right by half a step")


def describe(vector: Tensor) -> str:
    dx, dy = vector.tolist()
    return f"action: dx={dx:+.3f}, dy={dy:+.3f}"


def action_video(rng: np.random.Generator, frames: int = 3) -> Document:
    segments: list[Frame | Action] = [Frame(picture(rng), predict=True)]
    for _ in range(frames - 1):
        segments += [action(rng), Frame(picture(rng), predict=True)]
    return tuple(segments)


def transition(rng: np.random.Generator, steps: int = 2, before: int = 2) -> Document:
    """`before` given frames, so many actions, the frame after them."""
    return transition_document([picture(rng) for _ in range(before)], [action(rng) for _ in range(steps)], picture(rng))


def goal(rng: np.random.Generator, steps: int = 5, said: bool = False, known: int = 4) -> Document:
    """A frame, a goal that many steps away, three model steps of two numbers, of which so many are known."""
    asked = NextActions(rng.uniform(-1, 1, (3, 2)).astype(np.float32), known)
    return goal_document(picture(rng), sentence(rng) if said else picture(rng), steps, asked)


def sentence(rng: np.random.Generator) -> str:
    words = WORDS.split()
    return " ".join(words[i] for i in rng.integers(0, len(words), rng.integers(2, 12)))


class Videos:
    name = "videos"

    def __len__(self) -> int:
        return 1000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return action_video(rng, int(rng.integers(2, 4)))


class Sentences:
    name = "sentences"

    def __len__(self) -> int:
        return 1000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return (Text(sentence(rng)),)


class Captions:
    name = "captions"

    def __len__(self) -> int:
        return 1000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return Frame(picture(rng), predict=False), Text(sentence(rng))


class Hindsight:
    """Transitions, goals and spoken goals."""

    name = "hindsight"

    def __len__(self) -> int:
        return 1000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        before, steps = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        return transition(rng, steps, before) if item % 3 == 0 else goal(rng, steps, said=item % 3 == 1, known=2 * steps)


class Drawings:
    name = "drawings"

    def __len__(self) -> int:
        return 1000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return Text(sentence(rng), predict=False), Frame(picture(rng), predict=True)


PACKING = PackingConfig(rows=3, length=96)


def mixture(seed: int = 0, config: PackingConfig = PACKING, extra: Sequence[tuple[Source, float]] = ()) -> Mixture:
    sources = [(Videos(), 2.0), (Sentences(), 1.0), (Captions(), 1.0), (Drawings(), 1.0), *extra]
    return measured(sources, seed, config)


def measured(sources: Sequence[tuple[Source, float]], seed: int = 0, config: PackingConfig = PACKING) -> Mixture:
    rng = np.random.default_rng(seed)
    return Mixture(sources, seed, lambda document: len(tokenise(document, tokenizer(), GRID, config, rng)))


def packer(
    seed: int = 0,
    config: PackingConfig = PACKING,
    rank: int = 0,
    world_size: int = 1,
    grid: tuple[int, int] = GRID,
    extra: Sequence[tuple[Source, float]] = (),
) -> Packer:
    return Packer(mixture(seed, config, extra), tokenizer(), grid, 2, config, rank, world_size)


def pack(
    *rows: list[Document], length: int = 96, config: PackingConfig = PACKING, seed: int = 0, grid: tuple[int, int] = GRID
) -> PackedBatch:
    rng = np.random.default_rng(seed)
    tokens = [[tokenise(document, tokenizer(), grid, config, rng) for document in row] for row in rows]
    return collate(tokens, length, tokenizer().pad_id, 2)


def everything(model: WorldModel, seed: int = 0) -> PackedBatch:
    """A batch of all that a model learns, as it sees it: videos, sentences, captions, drawings, transitions and goals."""
    config = replace(PACKING, references=model.config.references)
    return packer(seed, config, grid=model.config.grid, extra=[(Hindsight(), 6.0)]).batch(0)


def hidden(model: WorldModel, batch: PackedBatch, z_t: Tensor, t: Tensor, given: Tensor | None = None) -> Tensor:
    """Hidden states (b, n, d) of a batch, from the latents of its frames as they are shown, and of the pictures that they refer to."""
    beside = model.beside(batch, z_t, z_t[:0] if given is None else given)
    return model(batch, model.see(z_t, t, beside), t)[0]


def random_latents(count: int, seed: int = 0, grid: tuple[int, int] = GRID) -> Tensor:
    return torch.randn(count, grid[0] * grid[1], CHANNELS, generator=torch.Generator().manual_seed(seed))


def latents_of(model: WorldModel, batch: PackedBatch) -> Tensor:
    """Random latents of all pictures of a batch."""
    return random_latents(len(batch.pictures), grid=model.config.latent_grid)


def loss_of(model: WorldModel, batch: PackedBatch, latents: Tensor, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its parts, noise drawn from `seed`."""
    return model.loss(batch, latents, model.sample_noise(batch.clean, torch.Generator().manual_seed(seed)))
