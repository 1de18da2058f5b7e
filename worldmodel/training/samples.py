"""What a run shows of itself while it trains: pictures, texts, dreams and the use of its experts, of the averaged model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.batch import PackedBatch
from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import frames_to_float, one_above_other
from worldmodel.datasets.mixture.training_data import TrainingData
from worldmodel.generation import continue_text, draw_pictures
from worldmodel.model import WorldModel
from worldmodel.precision import copied
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.training.tracking import Tracker

OnSample = Callable[[int, WorldModel, Tracker], None]
"""Called with the step, the averaged model (whole, in evaluation mode, no gradients) and where to log."""


@dataclass(frozen=True)
class SampleConfig:
    """How much is sampled."""

    clips: int = 64
    """Held-out clips that are dreamed."""
    prompts: int = 4
    """Held-out texts that are continued from their first half."""
    tokens: int = 40
    """Of each continuation, at most."""
    captions: int = 6
    """Held-out captions that pictures are drawn for."""
    flow_steps: int = 10
    """Of these pictures."""


def sampler(data: TrainingData, codec: Codec, tokenizer: Tokenizer, config: SampleConfig | None = None) -> OnSample:
    """Make a sampler of everything that the held-out data allow: continued texts, pictures for captions, dreams."""
    config = config or SampleConfig()
    kinds = [
        text_sampler(data, tokenizer, config),
        picture_sampler(data, codec, tokenizer, config),
        dream_sampler(data, codec, tokenizer, config.clips),
    ]

    def sample(step: int, model: WorldModel, tracker: Tracker) -> None:
        for kind in kinds:
            if kind is not None:
                kind(step, model, tracker)

    return sample


def text_sampler(data: TrainingData, tokenizer: Tokenizer, config: SampleConfig) -> OnSample | None:
    """Make a sampler that logs what the model makes of the first halves of held-out texts; None where there are none."""
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in data.held_out_texts[: config.prompts] if len(text) > 1]
    if not halves:
        return None

    def sample(step: int, model: WorldModel, tracker: Tracker) -> None:
        written = continue_text(model, tokenizer, [half for half, _ in halves], config.tokens)
        rows = [f"**{half}**{said}\n\n(true: {rest})" for (half, rest), said in zip(halves, written, strict=True)]
        tracker.text(step, "samples/text", "\n\n---\n\n".join(rows))

    return sample


def picture_sampler(data: TrainingData, codec: Codec, tokenizer: Tokenizer, config: SampleConfig) -> OnSample | None:
    """Make a sampler that logs held-out pictures, and below them what the model draws for their captions; None where there are none.

    Captions are of pictures, and where the mixture has no pictures of frames of held-out episodes.
    """
    pairs = _captioned(data, config.captions)
    if not pairs:
        return None
    truth = frames_to_float(torch.from_numpy(np.stack([picture for picture, _ in pairs])))
    captions = [caption for _, caption in pairs]

    def sample(step: int, model: WorldModel, tracker: Tracker) -> None:
        latents = draw_pictures(model, tokenizer, captions, torch.Generator().manual_seed(0), config.flow_steps)
        drawn = codec.decode(latents).float().cpu()
        tracker.images(step, "samples/truth_above_drawn", one_above_other(truth, drawn))
        tracker.text(step, "samples/captions", "\n\n".join(captions))

    return sample


def _captioned(data: TrainingData, count: int) -> list[tuple[np.ndarray, str]]:
    """Read held-out pictures, uint8 (H, W, 3), with their captions."""
    pictures = data.held_out_pictures
    if pictures is not None and len(pictures):
        return [pictures.pair(i) for i in range(min(count, len(pictures)))]
    found: list[tuple[np.ndarray, str]] = []
    for store, episodes in zip(data.stores, data.held_out_episodes, strict=True):
        for number in episodes if store.has_text("captions") else ():
            episode = store.episode(number)
            found += [(episode.frames[0], episode.captions[0])] if episode.captions[0] else []
            if len(found) == count:
                return found
    return found


def dream_sampler(data: TrainingData, codec: Codec, tokenizer: Tokenizer, clips: int = 64) -> OnSample | None:
    """Make a sampler that logs one-step and open-loop errors, those of copying, and a film of truth above dream.

    Of the first file with actions and a held-out episode of one model step; None where there is none.
    """
    from worldmodel.evaluation import DreamConfig, dream_errors

    block = data.config.action_block
    for store, episodes in zip(data.stores, data.held_out_episodes, strict=True):
        longest = int(store.lengths[episodes].max()) * store.action_block // block
        if store.has_actions and longest > 0:
            break
    else:
        return None
    context = min(2, longest)
    config = DreamConfig(clips=clips, context=context, horizon=max(1, min(8, longest - context + 1)))

    def sample(step: int, model: WorldModel, tracker: Tracker) -> None:
        rollout = Rollout(model, tokenizer, RolloutConfig(), units=data.units.get(store.meta["env_id"]))
        errors = dream_errors(rollout, codec, store, episodes, block, config)
        last = config.horizon
        values = {}
        for name, by_horizon in errors.latent.items():
            values[f"dream/latent_mse_1/{name}"] = by_horizon[0][0]
            values[f"dream/latent_mse_{last}/{name}"] = by_horizon[-1][0]
        tracker.scalars(step, values)
        tracker.video(step, "samples/truth_above_dream", film(errors.truth[:4], errors.dream[:4]))

    return sample


def film(truth: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Stack truth (b, t + h, height, width, 3) above dream (b, h, ...), side by side: uint8 (t + h, 2 height, b width, 3).

    While the context is shown both rows are true.
    """
    context = truth.shape[1] - dream.shape[1]
    below = np.concatenate([truth[:, :context], dream], axis=1)
    rows = [np.concatenate(list(video), axis=2) for video in (truth, below)]
    return np.concatenate(rows, axis=1)


@torch.no_grad()
def one_step_samples(model: WorldModel, codec: Codec, batch: PackedBatch, latents: Tensor, count: int = 8) -> Tensor:
    """Put below up to `count` predicted frames of a batch what one flow step from pure noise makes of each.

    Args:
        model: whole, in evaluation mode.
        codec: decodes latents.
        batch: a batch on the model's device, its frames on any.
        latents: (f + g, l, c) of its pictures.
        count: how many frames at most.

    Returns:
        (1, 3, 2 h, count * w) in [0, 1]: side by side, each below its true frame.
    """
    latents, given = latents.split([len(batch.clean), len(latents) - len(batch.clean)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    t = batch.clean.to(latents.dtype)
    z_t = torch.where(rearrange(batch.clean, "f -> f 1 1"), latents, noise)
    seen = model.see(z_t, t, model.beside(batch, latents, given))
    hidden, _ = model.forward(batch, seen, t)
    chosen = batch.noised_frames[:count]
    flat = rearrange(hidden, "b n d -> (b n) d").index_select(0, batch.frame_positions)
    frames = rearrange(flat, "(f p) d -> f p d", p=model.config.frame_tokens)[chosen]
    predicted = noise[chosen] + model.denoise(frames, noise[chosen], t[chosen], seen.index_select(chosen))
    true = frames_to_float(copied(batch.frames, latents.device)[chosen], latents.device)
    return one_above_other(true, codec.decode(predicted))
