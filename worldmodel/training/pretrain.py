"""Pretrain the unified model from scratch: on files in one call, or on data and a codec that are open already."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from worldmodel.checkpoint import Pretrained
from worldmodel.codec.codec import Codec
from worldmodel.codec.kinds import load_codec
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.stats import as_text
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, open_training_data
from worldmodel.errors import UserError
from worldmodel.flops import parameter_counts
from worldmodel.known_tasks import card_of
from worldmodel.model import WorldModel
from worldmodel.packing import Packer
from worldmodel.precision import choose_device
from worldmodel.presets import Preset, fit, fit_packing, tiny
from worldmodel.tokenizer import Tokenizer, check_vocabulary
from worldmodel.tokens import tokenise
from worldmodel.training.arguments import refuse_changed_data, write_arguments
from worldmodel.training.distributed import Processes, processes, single
from worldmodel.training.frame_latents import latent_cache
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.launch import launch, number_of_processes
from worldmodel.training.samples import sampler
from worldmodel.training.train import TrainResult, stop_on_signals, train
from worldmodel.training.validation import Validation
from worldmodel.unseen import trained_on, warn_of_seen


@dataclass(frozen=True)
class PretrainConfig:
    """What is trained, and on which shares of the data."""

    preset: Preset = field(default_factory=tiny)
    """Sizes of model and training."""
    vocab_size: int = 2048
    """Largest vocabulary of the tokenizer, which is trained on the texts of this run."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocab_size)
        told = self.preset.model.action_horizon
        if self.mixture.horizon > told:
            raise UserError(
                f"the mixture's horizon is {self.mixture.horizon} model steps, but the model says the actions of {told}: "
                "lower the one or raise the other (action_horizon)"
            )


def pretrain(
    config: PretrainConfig,
    files: Sequence[str | Path],
    codec: str | Path,
    out: str | Path,
    on_end: Callable[[TrainResult, TrainingData], None] | None = None,
) -> TrainResult:
    """Train a model on episode files, in as many processes as the preset asks for; goes on where `out` left off.

    What it was begun with is written to the run folder, so that `worldmodel pretrain --resume` can go on with it, too. A program that
    is not started by the `worldmodel` command guards its entry by `if __name__ == "__main__"`. Ctrl-C and SIGTERM end it behind a
    step, with a checkpoint.

    Args:
        config: sizes of model and training, and the shares of the sources.
        files: episode files; a recipe may name more.
        codec: folder of the codec, from `worldmodel.train_codec`.
        out: run folder; the same arguments go on with the run that is there.
        on_end: called with the result and the data, in the main process; what pickle takes, where several processes train.

    Returns:
        The last step, whether it was the last of all, the newest checkpoint and the metrics of the end.

    Raises:
        UserError: a file, the codec or the run is missing, damaged or does not fit the others.
    """
    work = partial(_pretrain, config, tuple(map(Path, files)), Path(codec), Path(out), on_end)
    return launch(work, number_of_processes(config.preset.train))


def _pretrain(
    config: PretrainConfig,
    files: tuple[Path, ...],
    folder: Path,
    out: Path,
    on_end: Callable[[TrainResult, TrainingData], None] | None,
) -> TrainResult:
    """Train in one of the processes."""
    with processes(config.preset.train.device) as group:
        if not group.is_main:
            logging.getLogger("worldmodel").setLevel(logging.ERROR)  # the main process says it for all
        codec = load_codec(folder)
        data = open_training_data(files, config.mixture, codec.image_size)
        arguments = {"codec": folder, "data": files, **asdict(config)}
        with stop_on_signals() as stop:
            result = pretrain_on_data(
                data,
                codec,
                config.preset,
                config.vocab_size,
                out,
                group,
                on_start=lambda: write_arguments(out, arguments),
                stop=stop,
            )
        if group.is_main and on_end is not None:
            on_end(result, data)
    return result


def pretrain_on_data(
    data: TrainingData,
    codec: Codec,
    preset: Preset,
    vocab_size: int,
    out: Path,
    group: Processes | None = None,
    on_start: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Build tokenizer, mixture and model and train on opened data; goes on where `out` left off.

    `group` are the processes that train together, this one alone if it is not given; `on_start` is called, and `stop` ends the run, as
    `worldmodel.training.job.Hooks` says.
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
    seen = trained_on(data.stores, data.train_episodes)
    refuse_changed_data(out, seen)
    card = {
        "mixture": asdict(data.config),
        "data": [store.path.name for store in data.stores],
        "sources": data.description(),
        "trained_on": seen,
        **card_of(data.stores, data.config.action_block, data.units),
    }
    validation = Validation(unseen, tokenizer, fitted.grid, action_dim, packing, preset.train.validation_batches, seed)

    def started() -> None:
        print(as_text(table, "expected"))
        counts, steps = parameter_counts(model.config), preset.train.steps
        positions = packing.rows * packing.length
        print(f"model: {counts.total / 1e6:,.1f} M parameters, {counts.active / 1e6:,.1f} M active per token")
        print(f"training: {steps:,} steps of up to {positions:,} tokens on {group.world_size} x {group.device.type}")
        print(f"curves: tensorboard --logdir {out}")
        if on_start is not None:
            on_start()

    result = train(
        Pretrained(model, tokenizer, codec, card),
        Batches(packer, latents, validation),
        replace(preset.train, packing=packing),
        out,
        Hooks(started, sampler(data, codec, tokenizer), stop or threading.Event()),
        group,
    )
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
