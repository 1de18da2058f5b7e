"""Pretrain the unified model from scratch on action video, video, captions, questions, text and pictures at once."""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from worldmodel.codec.codec import Codec, load_codec
from worldmodel.datasets.mixture import Mixture
from worldmodel.datasets.mixture_stats import as_text
from worldmodel.datasets.training_data import MixtureConfig, TrainingData, open_training_data
from worldmodel.errors import UserError
from worldmodel.flops import parameter_counts
from worldmodel.home import cache_dir, runs_dir
from worldmodel.known_tasks import card_of
from worldmodel.model import WorldModel
from worldmodel.packing import Packer
from worldmodel.precision import choose_device
from worldmodel.presets import Preset, base, fit, fit_packing, paper, small, tiny
from worldmodel.scripts.console import command, run_verb
from worldmodel.scripts.pretrain_arguments import read_arguments, refuse_changed_data, write_arguments
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import tokenise
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import Processes, processes, single
from worldmodel.training.latent_cache import LatentCache, build_latent_cache, cache_bytes, codec_key
from worldmodel.training.launch import launch, number_of_processes
from worldmodel.training.samples import sampler
from worldmodel.training.train import TrainResult, stop_on_signals, train
from worldmodel.training.validation import Validation
from worldmodel.unseen import trained_on, warn_of_seen


def summary(function: Callable[..., object]) -> str:
    """Return the first line of a docstring."""
    return (function.__doc__ or "").partition("\n")[0]


PresetFlag = (
    Annotated[Preset, tyro.conf.subcommand("tiny", default=tiny(), description=summary(tiny))]
    | Annotated[Preset, tyro.conf.subcommand("small", default=small(), description=summary(small))]
    | Annotated[Preset, tyro.conf.subcommand("base", default=base(), description=summary(base))]
    | Annotated[Preset, tyro.conf.subcommand("paper", default=paper(), description=summary(paper))]
)
"""A preset by name, every field of it a flag behind the name."""


@dataclass(frozen=True)
class PretrainConfig:
    """Train the model from scratch on a mixture of action video, video, captions, questions, text and pictures.

    `worldmodel pretrain --data two_room.h5 --codec codec --out run preset:tiny` trains the smallest model; small, base and paper are
    the others. Every field of model and training is a flag behind the preset: `... preset:small --preset.train.lr 3e-4`, and
    `worldmodel pretrain preset:small --help` lists them. `worldmodel pretrain --resume run` goes on after an interruption, and
    `tensorboard --logdir run` shows the curves. Several GPUs share each step under torchrun:
    `torchrun --nproc-per-node 8 -m worldmodel.scripts.pretrain --data two_room.h5 --codec codec --out run preset:base`.
    """

    codec: Path | None = None
    """Folder of the codec, from worldmodel codec; not needed with --resume."""
    data: tuple[Path, ...] = ()
    """Episode files, from worldmodel collect or worldmodel datasets convert; a recipe may name them instead."""
    out: Path | None = None
    """Run folder; by default `pretrain` in the runs folder of WORLDMODEL_HOME. The same arguments continue it."""
    resume: Path | None = None
    """Run folder to go on with, with the arguments that it was begun with; --codec and --data are needed only if these were moved."""
    vocab_size: int = 2048
    """Largest vocabulary of the tokenizer, which is trained on the texts of this run."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""
    preset: PresetFlag = field(default_factory=tiny)
    """Sizes of model and training to start from."""

    def __post_init__(self) -> None:
        if self.codec is None and self.resume is None:
            raise UserError("give a codec with --codec FOLDER, made by worldmodel codec, or a run to go on with, with --resume FOLDER")
        if self.resume is not None and self.out is not None:
            raise UserError(f"--resume {self.resume} goes on in its own folder; leave out --out")


def main(config: PretrainConfig) -> None:
    """Train or continue, then say where the checkpoint is."""
    pretrain_on_files(resumed(config))


def pretrain_on_files(config: PretrainConfig, tell: bool = True) -> TrainResult:
    """Train on the files that a configuration names, in as many processes as it asks for; goes on where `out` left off.

    Args:
        config: not one that resumes; see `resumed`.
        tell: print how it ended, and what comes next.
    """
    return launch(partial(_train_on_files, config, tell), number_of_processes(config.preset.train))


def _train_on_files(config: PretrainConfig, tell: bool) -> TrainResult:
    """Train in one of the processes."""
    assert config.codec is not None, "refused by PretrainConfig and resumed"
    out = config.out or config.resume or runs_dir() / "pretrain"
    with processes(config.preset.train.device) as group:
        if not group.is_main:
            logging.getLogger("worldmodel").setLevel(logging.ERROR)  # the main process says it for all
        codec = load_codec(config.codec)
        data = open_training_data(config.data, config.mixture, codec.image_size)
        with stop_on_signals() as stop:
            result = pretrain(
                data,
                codec,
                config.preset,
                config.vocab_size,
                out,
                group,
                on_start=lambda: write_arguments(out, asdict(replace(config, resume=None, out=None))),
                stop=stop,
            )
        if group.is_main and tell:
            say_end(result, data, out)
    return result


def resumed(config: PretrainConfig) -> PretrainConfig:
    """Return the arguments of the run that is to be resumed; `config` itself if there is none.

    Raises:
        UserError: there is no such run, or its codec or data are not where they were.
    """
    run = config.resume
    if run is None:
        return config
    found = read_arguments(run)
    codec, data = config.codec or found.codec, config.data or found.data
    moved = [f"the codec {codec} (--codec FOLDER)"] if not codec.is_dir() else []
    moved += [f"the data {path} (--data FILE...)" for path in data if not path.exists()]
    if moved:
        raise UserError(f"the run {run} was begun with {' and '.join(moved)}, not there any more: say where it is now")
    return PretrainConfig(codec, data, run, None, found.vocab_size, found.mixture, found.preset)


def say_end(result: TrainResult, data: TrainingData, out: Path) -> None:
    """Print how a run ended, and what comes next."""
    if not result.finished:
        print(f"stopped after step {result.step}; the same command goes on from {result.checkpoint}, or --resume {out}")
        return
    print(f"{result.checkpoint}: the checkpoint after {result.step} steps")
    with_actions = [store.path for store in data.stores if store.has_actions]
    if with_actions:
        print(f"next: {command('dream', '--checkpoint', result.checkpoint, '--data', with_actions[0])}")
    else:
        print(f"next: {command('generate', '--checkpoint', result.checkpoint, '--text', 'Our economy')}")


def pretrain(
    data: TrainingData,
    codec: Codec,
    preset: Preset,
    vocab_size: int,
    out: Path,
    group: Processes | None = None,
    on_start: Callable[[], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Build tokenizer, mixture and model and train on opened data; goes on where `out` left off.

    `group` are the processes that train together, this one alone if it is not given; `on_start` and `options` go to
    `worldmodel.training.train`.
    """
    group = group or single(choose_device(preset.train.device))  # mistakes are reported before anything is printed
    size = codec.image_size
    for store in data.stores:
        if store.image_size != size:
            raise UserError(
                f"{store.path} has frames of shape ({store.image_size}, {store.image_size}), but the codec encodes ({size}, {size}): "
                "give data of that size, or train a codec on these"
            )
    warn_of_seen(codec, data.stores, data.held_out_episodes)
    tokenizer = group.broadcast_object(train_tokenizer(data, vocab_size) if group.is_main else None)
    action_dim = max([1, *(data.config.action_block * store.action_size for store in data.stores)])
    fitted = fit(preset.model, codec, tokenizer, action_dim)
    if data.config.horizon > fitted.action_horizon:
        raise UserError(
            f"the mixture's horizon is {data.config.horizon} model steps, but the model says the actions of {fitted.action_horizon}: "
            "lower the one or raise the other (action_horizon)"
        )
    packing, seed = fit_packing(preset.train.packing, fitted), preset.train.seed
    rng = np.random.default_rng(seed)
    mixture = Mixture(data.sources(), seed, lambda d: len(tokenise(d, tokenizer, fitted.grid, packing, rng)))
    torch.manual_seed(seed)
    with torch.device("cpu" if group.is_main else "meta"):  # the main process gives the others their parts
        model = WorldModel(fitted)
    packer = Packer(mixture, tokenizer, fitted.grid, action_dim, packing)
    table = data.report(mixture, packer.documents_before(preset.train.steps))
    on_disk = preset.train.cache_latents == "disk"
    latents = latent_cache(data, codec, preset.train, group.device, group.is_main) if on_disk else None
    unseen = [source for source, _ in data.held_out_sources()]
    batches = preset.train.validation_batches
    seen = trained_on(data.stores, data.train_episodes)
    refuse_changed_data(out, seen)
    options |= {
        "card": {
            "mixture": asdict(data.config),
            "data": [store.path.name for store in data.stores],
            "sources": data.description(),
            "trained_on": seen,
            **card_of(data.stores, data.config.action_block),
        },
        "latents": latents,
        "processes": group,
        "validation": Validation(unseen, tokenizer, fitted.grid, action_dim, packing, batches, seed),
        "on_sample": sampler(data, codec, tokenizer),
    }

    def started() -> None:
        print(as_text(table, "expected"))
        counts, steps = parameter_counts(model.config), preset.train.steps
        positions = packing.rows * packing.length
        print(f"model: {counts.total / 1e6:,.1f} M parameters, {counts.active / 1e6:,.1f} M active per token")
        print(f"training: {steps:,} steps of up to {positions:,} tokens on {group.world_size} x {group.device.type}")
        print(f"curves: tensorboard --logdir {out}")
        if on_start is not None:
            on_start()

    result = train(model, codec, packer, tokenizer, replace(preset.train, packing=packing), out, on_start=started, **options)
    if group.is_main and all(f"data/share/{row.source}" in result.metrics for row in table):
        print(as_text([replace(row, share=result.metrics[f"data/share/{row.source}"]) for row in table]))
    return result


def train_tokenizer(data: TrainingData, vocab_size: int) -> Tokenizer:
    """Train a tokenizer on the texts of the data.

    Raises:
        UserError: there are none.
    """
    texts = data.tokenizer_texts()
    if not texts:
        raise UserError("there is no text to train a tokenizer on: give the mixture a corpus or a task's episodes")
    return Tokenizer.train(texts, vocab_size)


def latent_cache(
    data: TrainingData, codec: Codec, config: TrainConfig, device: torch.device | None = None, tell: bool = True
) -> LatentCache:
    """Open the latents of all frames and training pictures of the data, in the cache of WORLDMODEL_HOME; encode them if need be.

    Several processes make them once: those that come later wait for the first.
    """
    pictures = len(data.train_pictures) if data.train_pictures else 0
    count = sum(store.num_frames for store in data.stores) + pictures
    origin = hashlib.blake2b(repr((codec_key(codec), config.cache_dtype)).encode(), digest_size=12)
    for store in data.stores:
        about = store.path.stat()
        origin.update(repr((str(store.path.resolve()), about.st_size, about.st_mtime_ns)).encode())
    for part in data.train_pictures.parts if data.train_pictures else []:
        origin.update(repr((part.name, len(part), part.transform, data.config.split_seed, data.config.held_out)).encode())
    folder = cache_dir() / "latents" / origin.hexdigest()
    size = cache_bytes(codec, count, config.cache_dtype)
    if tell:
        print(f"latents of {count:,} frames take up to {size / 2**20:,.0f} MiB in {folder}")
    codec = codec.to(device or choose_device(config.device)).eval()
    return build_latent_cache(folder, codec, every_frame(data), count, config.cache_dtype)


def every_frame(data: TrainingData) -> Iterator[np.ndarray]:
    """Yield all frames of the episode files, then all pictures that are trained on: uint8 (H, W, 3) each."""
    for store in data.stores:
        for start in range(0, store.num_frames, 256):
            yield from store.frames(np.arange(start, min(start + 256, store.num_frames)))
    pictures = data.train_pictures
    yield from (pictures.image(i) for i in range(len(pictures))) if pictures else ()


def block_of(action_dim: int, action_size: int, checkpoint: Path, data: Path) -> int:
    """Return the env steps per model step of a model whose action blocks hold `action_dim` numbers.

    Raises:
        UserError: the model was not trained for such actions.
    """
    if action_dim % action_size:
        raise UserError(
            f"the model of {checkpoint} takes {action_dim} numbers per action block, which is no multiple of the "
            f"{action_size} numbers of an action in {data}"
        )
    return action_dim // action_size


def with_seed(preset: Preset, seed: int) -> Preset:
    """Return the same preset with another seed."""
    return replace(preset, train=replace(preset.train, seed=seed))


if __name__ == "__main__":
    sys.exit(run_verb("pretrain", lambda: main, sys.argv[1:]))
