"""Pretrain the unified model from scratch on action video, video, captions, questions, text and pictures at once."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from worldmodel.checkpoint import Pretrained
from worldmodel.codec.codec import Codec, load_codec
from worldmodel.datasets.drawn import as_text
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture import Mixture
from worldmodel.datasets.standard import MixtureConfig, StandardData, open_standard
from worldmodel.errors import UserError
from worldmodel.home import cache_dir, runs_dir
from worldmodel.latent_cache import LatentCache, build_latent_cache, cache_bytes, codec_key
from worldmodel.model import WorldModel
from worldmodel.packing import Packer
from worldmodel.precision import choose_device
from worldmodel.presets import Preset, base, fit, paper, small, tiny
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.scripts.console import run_verb
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import tokenise
from worldmodel.tracking import Tracker
from worldmodel.training import OnSample, TrainResult, stop_on_signals, train
from worldmodel.training_config import TrainConfig


def summary(function: Callable[..., object]) -> str:
    """First line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


@dataclass(frozen=True)
class PretrainConfig:
    """What to train on, and how.

    Every field of model and training is a flag behind the preset: `... preset:small --preset.train.lr 3e-4`; `preset:small --help`
    lists them.
    """

    codec: Path
    """Folder of the codec, from worldmodel codec."""
    data: tuple[Path, ...] = ()
    """Episode files, from worldmodel collect or worldmodel datasets convert; a recipe may name them instead."""
    out: Path | None = None
    """Run folder; by default `pretrain` in the runs folder of WORLDMODEL_HOME. The same arguments continue it."""
    vocab_size: int = 2048
    """Largest vocabulary of the tokenizer, which is trained on the texts of this run."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""
    preset: (
        Annotated[Preset, tyro.conf.subcommand("tiny", default=tiny(), description=summary(tiny))]
        | Annotated[Preset, tyro.conf.subcommand("small", default=small(), description=summary(small))]
        | Annotated[Preset, tyro.conf.subcommand("base", default=base(), description=summary(base))]
        | Annotated[Preset, tyro.conf.subcommand("paper", default=paper(), description=summary(paper))]
    ) = field(default_factory=tiny)
    """Sizes of model and training to start from."""


def main(config: PretrainConfig) -> None:
    """Train or continue, then say where the checkpoint is."""
    out = config.out or runs_dir() / "pretrain"
    codec = load_codec(config.codec)
    data = open_standard(config.data, config.mixture, codec.image_size)
    with stop_on_signals() as stop:
        result = pretrain(data, codec, config.preset, config.vocab_size, out, stop=stop)
    if not result.finished:
        print(f"stopped after step {result.step}; the same command goes on from {result.checkpoint}")
        return
    print(f"{result.checkpoint}: checkpoint written after {result.step} steps")
    with_actions = [store.path for store in data.stores if store.has_actions]
    if with_actions:
        print(f"next: worldmodel dream --checkpoint {result.checkpoint} --data {with_actions[0]}")
    else:
        print(f"next: worldmodel generate --checkpoint {result.checkpoint} --text 'Our economy'")


def pretrain(data: StandardData, codec: Codec, preset: Preset, vocab_size: int, out: Path, **options: object) -> TrainResult:
    """Tokenizer, mixture, model and training on opened data; goes on where `out` left off.

    `options` go to `worldmodel.training.train`.
    """
    choose_device(preset.train.device)  # mistakes are told before anything is printed
    size = codec.image_size
    for store in data.stores:
        if store.image_size != size:
            raise UserError(
                f"{store.path} has frames of shape ({store.image_size}, {store.image_size}), but the codec encodes ({size}, {size}): "
                "give data of that size, or train a codec on these"
            )
    texts = data.tokenizer_texts()
    if not texts:
        raise UserError("there is no text to train a tokenizer on: give the mixture a corpus or a task's episodes")
    tokenizer = Tokenizer.train(texts, vocab_size)
    packing, seed = preset.train.packing, preset.train.seed
    rng = np.random.default_rng(seed)
    mixture = Mixture(data.sources(), seed, lambda d: len(tokenise(d, tokenizer, codec.grid, packing, rng)))
    action_dim = max([1, *(data.config.action_block * store.action_size for store in data.stores)])
    torch.manual_seed(seed)
    model = WorldModel(fit(preset.model, codec, tokenizer, action_dim))
    packer = Packer(mixture, tokenizer, codec.grid, action_dim, packing)
    table = data.report(mixture, packer.documents_before(preset.train.steps))
    latents = latent_cache(data, codec, preset.train) if preset.train.cache_latents == "disk" else None
    sampler = dream_sampler(data, codec, tokenizer)
    card = {"mixture": asdict(data.config), "data": [store.path.name for store in data.stores], "sources": data.description()}
    options |= {"card": card, "latents": latents, "on_start": lambda: print(as_text(table, "expected"))}
    result = train(model, codec, packer, tokenizer, preset.train, out, sampler, **options)  # type: ignore[arg-type]
    if all(f"data/share/{row.source}" in result.metrics for row in table):
        print(as_text([replace(row, share=result.metrics[f"data/share/{row.source}"]) for row in table]))
    return result


def latent_cache(data: StandardData, codec: Codec, config: TrainConfig) -> LatentCache:
    """Latents of all frames and training pictures of the data, in the cache of WORLDMODEL_HOME; made if they are not there."""
    pictures = len(data.train_pictures) if data.train_pictures else 0
    count = sum(store.num_frames for store in data.stores) + pictures
    origin = hashlib.blake2b(repr((codec_key(codec), config.cache_dtype)).encode(), digest_size=12)
    for store in data.stores:
        about = store.path.stat()
        origin.update(repr((str(store.path.resolve()), about.st_size, about.st_mtime_ns)).encode())
    for part in data.train_pictures.parts if data.train_pictures else []:
        origin.update(repr((part.name, len(part), part.square, data.config.split_seed, data.config.held_out)).encode())
    folder = cache_dir() / "latents" / origin.hexdigest()
    size = cache_bytes(codec, count, config.cache_dtype)
    print(f"latents of {count:,} frames take up to {size / 2**20:,.0f} MiB in {folder}")
    codec = codec.to(choose_device(config.device)).eval()
    return build_latent_cache(folder, codec, every_frame(data), count, config.cache_dtype)


def every_frame(data: StandardData) -> Iterator[np.ndarray]:
    """All frames of the episode files, then all pictures that are trained on: uint8 (H, W, 3) each."""
    for store in data.stores:
        for start in range(0, store.num_frames, 256):
            yield from store.frames(np.arange(start, min(start + 256, store.num_frames)))
    pictures = data.train_pictures
    yield from (pictures.image(i) for i in range(len(pictures))) if pictures else ()


def dream_sampler(data: StandardData, codec: Codec, tokenizer: Tokenizer, clips: int = 64) -> OnSample | None:
    """Logs one-step and open-loop errors beside copying, and a film of truth above dream, while the model trains.

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
        errors = dream_errors(Rollout(model, tokenizer, RolloutConfig()), codec, store, episodes, block, config)
        last = config.horizon
        values = {}
        for name, by_horizon in errors.latent.items():
            values[f"dream/latent_mse_1/{name}"] = by_horizon[0][0]
            values[f"dream/latent_mse_{last}/{name}"] = by_horizon[-1][0]
        tracker.scalars(step, values)
        tracker.video(step, "samples/truth_above_dream", film(errors.truth[:4], errors.dream[:4]))

    return sample


def film(truth: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """Truth (b, t + h, height, width, 3) above dream (b, h, ...), clips side by side: uint8 (t + h, 2 height, b width, 3).

    While the context is shown both rows are true.
    """
    context = truth.shape[1] - dream.shape[1]
    below = np.concatenate([truth[:, :context], dream], axis=1)
    rows = [np.concatenate(list(video), axis=2) for video in (truth, below)]
    return np.concatenate(rows, axis=1)


def block_of(action_dim: int, action_size: int, checkpoint: Path, data: Path) -> int:
    """Environment actions per model step of a model whose action blocks hold `action_dim` numbers.

    Raises:
        UserError: the model was not trained for such actions.
    """
    if action_dim % action_size:
        raise UserError(
            f"the model of {checkpoint} takes {action_dim} numbers per action block, which is no multiple of the "
            f"{action_size} numbers of an action in {data}"
        )
    return action_dim // action_size


def held_out_episodes(trained: Pretrained, store: EpisodeStore) -> list[int]:
    """Episodes of `store` that the model of a checkpoint has not been trained on: its card says how it split files."""
    split = trained.card.get("mixture", {})
    default = MixtureConfig()
    return store.split(split.get("split_seed", default.split_seed), split.get("held_out", default.held_out))[1]


def with_seed(preset: Preset, seed: int) -> Preset:
    """The same preset with another seed."""
    return replace(preset, train=replace(preset.train, seed=seed))


if __name__ == "__main__":
    sys.exit(run_verb("pretrain", lambda: main, sys.argv[1:]))
