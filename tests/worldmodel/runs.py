"""Small training runs, their states, and what must be equal between two of them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.checkpoint import Pretrained
from worldmodel.model import WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.training.config import TrainConfig
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.optimizer import Ema, build_optimizers
from worldmodel.training.resume import Progress, State, read_state
from worldmodel.training.train import TrainResult, train

CONFIG = TrainConfig(
    steps=6,
    packing=toys.PACKING,
    lr=3e-3,
    warmup_steps=2,
    dtype="float32",
    device="cpu",
    log_every=1,
    sample_every=0,
    checkpoint_every=3,
)


IN_BATCHES = {"packer", "latents", "validation"}
IN_HOOKS = {"on_start", "on_sample", "stop"}


def run(run_dir: Path, config: TrainConfig = CONFIG, kind: FeedForwardKind = "moe", seed: int = 0, **extra: Any) -> TrainResult:
    arguments = {"model": toys.model(kind, seed=seed), "packer": toys.packer(config=config.packing)} | extra
    parts = Pretrained(arguments.pop("model"), toys.tokenizer(), toys.codec(), arguments.pop("card", {}))
    processes = arguments.pop("processes", None)
    given = [{name: arguments.pop(name) for name in names & arguments.keys()} for names in (IN_BATCHES, IN_HOOKS)]
    assert not arguments, f"train takes no {', '.join(arguments)}"
    return train(parts, Batches(**given[0]), config, run_dir, Hooks(**given[1]), processes)


def state(folder: Path, kind: FeedForwardKind = "moe", config: TrainConfig = CONFIG) -> dict[str, Tensor]:
    """All tensors of a training state."""
    model = toys.model(kind)
    optimizers = build_optimizers(model, config.optimizer, 1.0, 1.0, 0.0, (0.9, 0.95))
    found = State(model, Ema(model, 0.9).model, optimizers, Progress())
    read_state(folder, found)
    return found.tensors()


def losses(run_dir: Path) -> list[dict[str, float]]:
    """Everything logged that does not depend on the clock."""
    clocked = ("tokens_per_second", "data/wait_share", "speed/flops", "speed/share_of_matmul")
    return [{k: v for k, v in row.items() if k not in clocked} for row in read_rows(run_dir / "metrics.jsonl")]


def assert_same_run(a: Path, b: Path, step: int, kind: FeedForwardKind = "moe", config: TrainConfig = CONFIG) -> None:
    """Weights, averages, optimizer state, place in the data and losses are equal bit for bit."""
    folders = [run_dir / "checkpoints" / f"step_{step:06d}" for run_dir in (a, b)]
    mine, theirs = (state(folder, kind, config) for folder in folders)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    progress = [json.loads((folder / "progress.json").read_text()) | {"seconds": 0.0} for folder in folders]
    assert progress[0] == progress[1]
    assert losses(a) == losses(b)
    assert len(losses(a)) == step


class Crash(Exception):
    pass


def crash_after(steps: int, model: WorldModel) -> WorldModel:
    """A model that fails once it has been trained for so many steps."""
    done, original = [], model.loss

    def loss(*arguments: Any) -> Any:
        if len(done) == steps:
            raise Crash
        done.append(1)
        return original(*arguments)

    model.loss = loss  # type: ignore[method-assign]
    return model
