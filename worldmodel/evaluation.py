"""How well a trained model predicts: dreams against truth by horizon, and held-out text; each beside its controls.

Axes: b clips, t context frames, h horizon, p latent tokens, c channels, a action numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.batch import collate
from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import frames_to_uint8
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.sources import ClipSampler
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.rollout import Rollout
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import IGNORE, PackingConfig, Tokens


@dataclass(frozen=True)
class DreamConfig:
    """Which held-out clips are dreamt."""

    clips: int = 128
    """Number of clips, drawn with replacement from the held-out episodes."""
    context: int = 2
    """Frames given."""
    horizon: int = 8
    """Frames predicted."""
    seed: int = 0
    """Of the draw and of the noise."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 2), ("context", 1), ("horizon", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")


@dataclass(frozen=True)
class DreamErrors:
    """Mean squared error by horizon (index 0 = one step ahead) with the half width of its 95 % interval."""

    latent: dict[str, list[tuple[float, float]]]
    """By name: learned, shuffled_actions (the same model told another clip's actions), copy_last_frame."""
    pixel: dict[str, list[tuple[float, float]]]
    """The same in pixels scaled to [0, 1]; learned frames pass through the decoder, copied ones do not."""
    truth: np.ndarray
    """uint8 (b, t + h, height, width, 3)."""
    dream: np.ndarray
    """uint8 (b, h, height, width, 3)."""

    def to_json(self) -> dict[str, object]:
        """Numbers only."""
        return {"latent_mse": self.latent, "pixel_mse": self.pixel, "clips": len(self.dream)}


@torch.no_grad()
def dream_errors(
    rollout: Rollout, codec: Codec, store: EpisodeStore, episodes: Sequence[int], block: int, config: DreamConfig
) -> DreamErrors:
    """Dream held-out clips open loop with their own actions, with another clip's actions, and by copying the last frame.

    Args:
        rollout: the model.
        codec: its codec.
        store: episode file.
        episodes: held-out episodes.
        block: environment actions per model step.
        config: how many clips, how far.
    """
    rng = np.random.default_rng(config.seed)
    sampler = ClipSampler(store, episodes, config.context - 1 + config.horizon, block)
    clips = [sampler.draw(rng) for _ in range(config.clips)]
    truth = np.stack([clip.frames for clip in clips])  # (b, t + h, height, width, 3)
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips]))  # (b, t - 1 + h, a)
    latents = rearrange(codec.encode_frames(rearrange(truth, "b t h w c -> (b t) h w c")), "(b t) p c -> b t p c", b=config.clips)
    past, future = latents[:, : config.context], latents[:, config.context :]
    session = rollout.encode(past, actions[:, : config.context - 1])
    ahead = actions[:, config.context - 1 :]
    generator = torch.Generator()
    dreamt = {}
    for name, given in (("learned", ahead), ("shuffled_actions", ahead.roll(1, 0))):
        dreamt[name] = rollout.rollout(session, given[:, None], generator.manual_seed(config.seed))[:, 0]
    dreamt["copy_last_frame"] = past[:, -1:].expand_as(future)
    target = torch.from_numpy(truth[:, config.context :]).float() / 255
    latent, pixel, frames = {}, {}, {}
    for name, predicted in dreamt.items():
        latent[name] = by_horizon((predicted - future).square().mean((2, 3)))
        if name == "copy_last_frame":
            seen = np.broadcast_to(truth[:, config.context - 1, None], truth[:, config.context :].shape)
        else:
            seen = decode_video(codec, predicted)
        frames[name] = seen
        pixel[name] = by_horizon((torch.from_numpy(seen.copy()).float() / 255 - target).square().mean((2, 3, 4)))
    return DreamErrors(latent, pixel, truth, frames["learned"])


def decode_video(codec: Codec, latents: Tensor, batch_size: int = 256) -> np.ndarray:
    """Latents (b, t, p, c) -> uint8 frames (b, t, height, width, 3)."""
    flat = rearrange(latents, "b t p c -> (b t) p c")
    frames = np.concatenate([frames_to_uint8(codec.decode(part)) for part in flat.split(batch_size)])
    return rearrange(frames, "(b t) h w c -> b t h w c", b=len(latents))


def by_horizon(error: Tensor) -> list[tuple[float, float]]:
    """Errors (b, h) -> mean and half width of the normal 95 % interval for each horizon."""
    half = 1.96 * error.std(0) / math.sqrt(len(error))
    return list(zip(error.mean(0).tolist(), half.tolist(), strict=True))


@dataclass(frozen=True)
class TextScore:
    """Held-out text in bits per byte; lower is better."""

    model: float
    unigram: float
    """Control: every token predicted by its frequency in the same held-out text, an optimistic context-free model."""
    tokens: int
    """Tokens scored."""


@torch.no_grad()
def score_text(model: WorldModel, tokenizer: Tokenizer, texts: Sequence[str], length: int = 256) -> TextScore:
    """Bits per byte of texts, each cut to `length` tokens; the first token of a text is given."""
    device = model.latent_in.weight.device
    packing = PackingConfig(length=length)
    nats, counted, size = 0.0, 0, 0
    counts = np.zeros(tokenizer.vocab_size)
    nothing = torch.zeros(0, model.config.frame_tokens, model.config.channels, device=device)
    for start in range(0, len(texts), 16):
        rows = []
        for text in texts[start : start + 16]:
            ids = tokenizer.encode(text)[:length]
            if len(ids) < 2:
                continue
            tokens = Tokens()
            tokens.add_text(ids, predict=True)
            rows.append([tokens])
            size += len(tokenizer.decode(ids[1:]).encode())
            np.add.at(counts, ids[1:], 1)
        if not rows:
            continue
        batch = collate(rows, packing.length, tokenizer.pad_id, model.config.action_dim).to(device)
        hidden, _ = model(batch, nothing, torch.zeros(0, device=device))
        targets = batch.text_target.flatten()
        at = (targets != IGNORE).nonzero()[:, 0]
        nats += model.text_loss(rearrange(hidden, "b n d -> (b n) d")[at], targets[at]).item()
        counted += len(at)
    if not counted:
        raise UserError("no text of at least two tokens was given to score")
    share = counts[counts > 0] / counts.sum()
    unigram = -float((counts[counts > 0] * np.log(share)).sum())
    return TextScore(nats / math.log(2) / size, unigram / math.log(2) / size, counted)
