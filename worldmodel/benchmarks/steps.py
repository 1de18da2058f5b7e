"""What `worldmodel benchmark train` compares: real training steps on made-up packed batches, measured in turn."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worldmodel.attention import Backend
from worldmodel.batch import PackedBatch
from worldmodel.compilation import compile_blocks, missing_compiler
from worldmodel.datasets.mixture.documents import Action, Document, Frame, Text
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.losses import LossCounts
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.moe import MoEConfig
from worldmodel.packing import Packer
from worldmodel.precision import choose_dtype
from worldmodel.presets import Preset
from worldmodel.stem import StemConfig
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, tokenise
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import clip_gradients
from worldmodel.training.optimizer import build_optimizers
from worldmodel.training.step import gradient, sample_noise_by_shard

SENTENCE = "a red disc is near the top left of the blue room, moves right by half a step, then stops; a green box waits at the door"
ACTION_NUMBERS = 6
BATCHES = 4
"""Different batches that steps take in turn."""
NOISY = 0.25
"""Quartiles of a ratio that lie so far apart, as a share of it, say that a CPU was busy: nothing is reported."""

BenchmarkRow = dict[str, Any]
Sparsity = Literal["dense", "moe"]


@dataclass(frozen=True)
class MadeUp:
    """Documents of one kind, as long as those of the standard mixture (clips of four frames, sentences), of noise."""

    name: str

    def __len__(self) -> int:
        return 100_000

    def document(self, item: int, rng: np.random.Generator) -> Document:
        """Make a document as `Source` says; its frames are never encoded, so they are small."""
        words = SENTENCE.split()
        text = Text(" ".join(words[i] for i in rng.integers(0, len(words), rng.integers(8, 40))), self.name != "drawing")
        frame = Frame(np.zeros((8, 8, 3), np.uint8), predict=self.name != "caption")
        if self.name == "text":
            return (text,)
        if self.name == "caption":
            return frame, text
        if self.name == "drawing":
            return text, frame
        vector = rng.uniform(-1, 1, ACTION_NUMBERS).astype(np.float32)
        action = Action(vector, "action: " + ", ".join(f"{x:+.3f}" for x in vector), "right by half a step")
        return frame, action, frame, action, frame, action, frame


def made_up_batches(config: ModelConfig, packing: PackingConfig, count: int) -> list[PackedBatch]:
    """Pack batches with the shares of the standard mixture, on the CPU."""
    tokenizer = Tokenizer.train([SENTENCE] * 4, 400)
    rng = np.random.default_rng(0)
    shares = {"video": 0.60, "caption": 0.19, "drawing": 0.11, "text": 0.10}
    sources = [(MadeUp(name), share) for name, share in shares.items()]
    packing = replace(packing, data_shards=1)
    mixture = Mixture(sources, 0, lambda document: len(tokenise(document, tokenizer, config.grid, packing, rng)))
    packer = Packer(mixture, tokenizer, config.grid, config.action_dim, packing)
    return [packer.batch(step) for step in range(count)]


class Step:
    """One optimizer step after another, as training does them: batch to the device, loss, gradients, clipping, weights, balance.

    Frames are encoded already, and no moving average is kept.
    """

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        device: torch.device,
        dtype: torch.dtype,
        batches: list[PackedBatch],
        compiled: bool,
    ) -> None:
        torch.manual_seed(0)
        self.config, self.train, self.device, self.dtype = config, train, device, dtype
        self.model = WorldModel(config).to(device).train()
        self.optimizers = build_optimizers(
            self.model, train.optimizer, train.lr, train.muon_lr, train.weight_decay, train.betas, dtype
        )
        if compiled:
            compile_blocks(self.model.trunk)
        self.batches = batches
        shape = (config.latent_tokens, config.channels)
        self.latents = [torch.randn(len(batch.pictures), *shape, device=device) for batch in batches]
        self.done = 0

    def __call__(self) -> None:
        place = self.done % len(self.batches)
        batch = self.batches[place]
        noise_sample = sample_noise_by_shard(self.model, batch, 0, self.done, range(self.train.packing.data_shards), self.device)
        gradient(self.model, [batch], self.latents[place], noise_sample, LossCounts.of(batch), self.dtype)
        clip_gradients(self.model, self.train.gradient_clip)
        self.update()
        self.model.trunk.update_balance()
        self.done += 1

    def update(self) -> None:
        """Move the weights along the present gradient."""
        for optimizer in self.optimizers:
            optimizer.step()


@dataclass(frozen=True)
class Ratio:
    """One side over another, one number a round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies the middle half of the rounds."""
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Distance of the quartiles, as a share of the median."""
        return (self.quartiles[1] - self.quartiles[0]) / self.median


def run_interleaved(
    sides: Mapping[str, Callable[[], None]], rounds: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds per call of every side, one number a round, in an order that is reversed each time.

    Args:
        sides: name -> what is called; every side is called twice before anything is measured.
        rounds: measurements of each side.
        seconds: length of a measurement, at least one call.
        device: waited for before and after each measurement.
    """
    calls = {}
    for name, side in sides.items():
        side()
        calls[name] = max(1, math.ceil(seconds / _seconds(side, 1, device)))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            found[name].append(_seconds(sides[name], calls[name], device))
    return found


def _seconds(side: Callable[[], None], calls: int, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    for _ in range(calls):
        side()
    synchronise(device)
    return (time.perf_counter() - began) / calls


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(numerator: list[float], denominator: list[float], factor: float = 1.0) -> Ratio:
    """Divide one side's seconds by the other's, round by round, times a constant."""
    return Ratio(tuple(factor * a / b for a, b in zip(numerator, denominator, strict=True)))


@dataclass(frozen=True)
class Training:
    """One run of the benchmark."""

    preset: Preset
    """Its dense and its mixture-of-experts form, at equal active operations but for the router, are compared."""
    device: torch.device
    """Where."""
    rounds: int
    """Measurements of each side."""
    seconds: float
    """Length of one, at least one step."""
    steps: int
    """In which waiting for data is measured."""
    episodes: int
    """That this waiting reads."""
    workers: int
    """Processes that pack for it."""

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the forward pass."""
        return choose_dtype(self.preset.train.dtype, self.device)

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled: as `auto` does, on a GPU."""
        return self.device.type == "cuda" and not missing_compiler(self.device)

    def model(self, kind: Sparsity, attention: Backend = "auto") -> ModelConfig:
        """Configure the preset's model with one feed-forward for all tokens, or with experts of which a token visits equally much."""
        grid = (4, 4) if self.preset.model.trunk.width < 384 else (8, 8)  # 64 pixels in patches of 16, 128 pixels
        trunk = self.preset.model.trunk
        moe = trunk.moe if trunk.feed_forward == "moe" else MoEConfig(16, 3, trunk.hidden // 4)
        hidden = moe.slots * moe.hidden_for(trunk.width)
        trunk = replace(trunk, hidden=hidden, moe=moe, feed_forward="moe" if kind == "moe" else "shared")
        sizes: dict[str, Any] = {"latent_grid": grid, "stem": StemConfig(), "action_dim": ACTION_NUMBERS}
        return replace(self.preset.model, trunk=trunk, attention=attention, **sizes)

    @functools.cached_property
    def batches(self) -> list[PackedBatch]:
        """Packed batches, on the CPU."""
        return made_up_batches(self.model("dense"), self.preset.train.packing, BATCHES)

    def step(self, kind: Sparsity, attention: Backend = "auto", **options: Any) -> Step:
        """Build a model and its optimizer; `optimizer`, `dtype` and `compiled` differ from the run's where they are given."""
        train = replace(self.preset.train, optimizer=options.get("optimizer", "adamw"))
        dtype, compiled = options.get("dtype", self.dtype), options.get("compiled", self.compiled)
        return Step(self.model(kind, attention), train, self.device, dtype, self.batches, compiled)

    def turns(self, sides: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        """Return the seconds per call of each side, one number a round."""
        return run_interleaved(sides, self.rounds, self.seconds, self.device)

    def row(self, name: str, found: Ratio | None, target: str = "", note: str = "") -> BenchmarkRow:
        """Compare one ratio with its target, such as ">= 0.5"; None where it cannot be measured, for the reason in the note."""
        row: BenchmarkRow = {"ratio": name, "median": None, "quartiles": None, "target": target, "reached": "", "note": note}
        if found is None:
            return row
        row["quartiles"] = found.quartiles
        if self.device.type == "cpu" and found.spread > NOISY:
            return row | {"note": f"not reported, the quartiles lie {found.spread:.0%} apart: the machine is busy"}
        row["median"] = found.median
        if target:
            sign, limit = target.split()
            reached = found.median >= float(limit) if sign == ">=" else found.median <= float(limit)
            row["reached"] = "yes" if reached else "no"
        return row

    def target(self, cuda: str, cpu: str = "") -> str:
        """Return the target for this kind of device."""
        return cuda if self.device.type == "cuda" else cpu


def packed(run: Training, length: int) -> PackedBatch:
    """Pack as many positions as a batch of the preset has, in rows of this length."""
    packing = run.preset.train.packing
    shape = replace(packing, rows=max(1, packing.rows * packing.length // length), length=length, data_shards=1)
    return made_up_batches(run.model("dense"), shape, 1)[0]


def random(run: Training, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Draw normal numbers that require a gradient."""
    return torch.randn(shape, device=run.device, dtype=dtype or run.dtype).requires_grad_()
