"""The smallest model that has everything (four tokens a frame, two blocks), and documents for it."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.batch import PackedBatch, collate
from worldmodel.codec.rae import RAE, RAEConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.datasets.documents import Action, Document, Frame, Text
from worldmodel.datasets.mixture import Mixture
from worldmodel.datasets.sources import Source
from worldmodel.flow import FlowConfig
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import FeedForwardKind, MoEConfig
from worldmodel.packing import Packer
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.transformer import TrunkConfig

IMAGE, GRID, CHANNELS = 16, (2, 2), 8
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
    return ModelConfig(trunk, flow, tokenizer().vocab_size, latent_grid=GRID, channels=CHANNELS, action_dim=2, **fields)


def model(feed_forward: FeedForwardKind = "modality", flow: FlowConfig | None = None, seed: int = 0, **fields: Any) -> WorldModel:
    """Further fields are those of `ModelConfig`."""
    torch.manual_seed(seed)
    return WorldModel(model_config(feed_forward, flow, **fields)).eval()


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


def packer(seed: int = 0, config: PackingConfig = PACKING, rank: int = 0, world_size: int = 1) -> Packer:
    return Packer(mixture(seed, config), tokenizer(), GRID, 2, config, rank, world_size)


def pack(*rows: list[Document], length: int = 96, config: PackingConfig = PACKING, seed: int = 0) -> PackedBatch:
    rng = np.random.default_rng(seed)
    tokens = [[tokenise(document, tokenizer(), GRID, config, rng) for document in row] for row in rows]
    return collate(tokens, length, tokenizer().pad_id, 2)


def random_latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, GRID[0] * GRID[1], CHANNELS, generator=torch.Generator().manual_seed(seed))
