"""Pretrain the unified model from scratch on action video, video, captions, questions, text and pictures at once."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData
from worldmodel.errors import UserError
from worldmodel.home import runs_dir
from worldmodel.presets import tiny
from worldmodel.scripts.console import command, run_verb
from worldmodel.scripts.preset_flag import PresetFlag
from worldmodel.training.arguments import read_arguments
from worldmodel.training.pretrain import PretrainConfig, pretrain
from worldmodel.training.train import TrainResult


@dataclass(frozen=True)
class PretrainVerbConfig:
    """Train the model from scratch on a mixture of action video, video, captions, questions, text and pictures.

    `worldmodel pretrain --data two_room.h5 --codec codec --out run --preset tiny` trains the smallest model; small, base and paper
    are the others. Every field of model and training is a flag: `... --preset small --train.lr 3e-4`, and
    `worldmodel pretrain --preset small --help-all` lists them. `worldmodel pretrain --resume run` goes on after an interruption, and
    `tensorboard --logdir run` shows the curves. Several GPUs share each step under torchrun:
    `torchrun --nproc-per-node 8 -m worldmodel.scripts.pretrain --data two_room.h5 --codec codec --out run --preset base`.
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


def main(config: PretrainVerbConfig) -> None:
    """Train or continue, then say where the checkpoint is."""
    config = resumed(config)
    assert config.codec is not None, "refused by PretrainVerbConfig and resumed"
    out = config.out or runs_dir() / "pretrain"
    settings = PretrainConfig(config.preset, config.vocab_size, config.mixture)
    pretrain(settings, config.data, config.codec, out, on_end=partial(say_end, out))


def resumed(config: PretrainVerbConfig) -> PretrainVerbConfig:
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
    return PretrainVerbConfig(codec, data, run, None, found.vocab_size, found.mixture, found.preset)


def say_end(out: Path, result: TrainResult, data: TrainingData) -> None:
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


if __name__ == "__main__":
    sys.exit(run_verb("pretrain", lambda: main, sys.argv[1:]))
