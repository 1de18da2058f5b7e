"""Training: one loop from batches to checkpoints, from which a killed run goes on as if nothing had happened.

What step i does is a function of the weights, the packer's state and (seed, i) alone; the first two are in
every checkpoint. So run it again with the same arguments and number of threads, and on a CPU it continues bit
for bit.
"""

import contextlib
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from worldmodel.checkpoint import check_fit, whole_folder, write_pretrained
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.rae import RAE
from worldmodel.errors import UserError
from worldmodel.feeding import BatchStream, FrameEncoder
from worldmodel.model import WorldModel
from worldmodel.optimizer import Ema, OptimizerName, build_optimizers, schedule, set_rate
from worldmodel.packing import PackedBatch, Packer, PackingConfig
from worldmodel.precision import DTypeName, autocast, choose_device, choose_dtype
from worldmodel.resume import (
    Progress,
    State,
    claim,
    locked,
    newest_checkpoint,
    prune,
    read_state,
    write_state,
)
from worldmodel.tokenizer import Tokenizer
from worldmodel.tracking import Meter, Tracker, shares

logger = logging.getLogger(__name__)

OnSample = Callable[[int, WorldModel, Tracker], None]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 1000
    """Optimizer steps."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    """Shape of a batch."""
    optimizer: OptimizerName = "adamw"
    """adamw: for all weights; muon: for the trunk's matrices, AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up, then a cosine down to final_lr_share of it."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon, on the same schedule."""
    warmup_steps: int = 50
    """Steps of warm-up."""
    final_lr_share: float = 0.1
    """Learning rate of the last step, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay, of matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights, which is what checkpoints and samples use."""
    seed: int = 0
    """Of flow times and noise; step i draws from (seed, i)."""
    dtype: DTypeName = "auto"
    """Of the forward pass. auto: bfloat16 where the hardware multiplies it fast, else float32."""
    device: str = "auto"
    """auto: the first GPU, else the CPU."""
    cache_latents: bool = True
    """Keep latents of frames seen since the last checkpoint, up to 2 GiB, instead of encoding them again."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    sample_every: int = 200
    """Steps between two sets of samples; 0: none."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; one is written at the end in any case."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "sample_every", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    checkpoint: Path
    """The newest checkpoint: `from_pretrained` reads it."""
    step: int
    """Optimizer steps done, in all runs of this folder together."""
    finished: bool
    """False if the run was asked to stop; the same arguments continue it."""
    metrics: dict[str, float]
    """The newest value of everything that was logged."""


def train(
    model: WorldModel,
    codec: RAE,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path | str,
    on_sample: OnSample | None = None,
    stop: threading.Event | None = None,
    card: dict[str, Any] | None = None,
) -> TrainResult:
    """Train `model` in place, or go on with the run that `run_dir` holds.

    Args:
        model: initialised; its weights are overwritten where a run is continued.
        codec: frozen; frames are encoded on the fly.
        packer: where batches come from; its config is `config.packing`.
        tokenizer: goes into the checkpoints.
        config: how to train.
        run_dir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        on_sample: called with the step, the averaged model (evaluation mode, no gradients) and the tracker.
        stop: set it from outside, and the run saves and returns after the step it is in.
        card: what else to write on the card of every checkpoint, as JSON; a continued run must give the same.

    Raises:
        UserError: the run folder is in use or holds a run with other settings; model, codec and tokenizer do
            not fit; a loss is not finite (the last checkpoint stays as it is).
    """
    run_dir = Path(run_dir)
    check_fit(model.config, codec, tokenizer)
    if packer.config != config.packing:
        raise ValueError(f"the packer was built with {packer.config}, but the training config has {config.packing}")
    choose_device(config.device)  # a device that is not there must not claim the folder
    with locked(run_dir):
        record = {
            "train": dataclasses.asdict(config),
            "model": dataclasses.asdict(model.config),
            "data": describe_data(packer),
            "card": card or {},
        }
        claim(run_dir, record)
        stop = stop or threading.Event()
        return _run(model, codec, packer, tokenizer, config, run_dir, on_sample, stop, record)


def _run(
    model: WorldModel,
    codec: RAE,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path,
    on_sample: OnSample | None,
    stop: threading.Event,
    record: dict[str, Any],
) -> TrainResult:
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model.to(device).train()
    encoder = FrameEncoder(codec.to(device).eval(), device, config.cache_latents)
    average = Ema(model, config.ema_decay)
    rates = (config.lr, config.muon_lr)
    optimizers = build_optimizers(model, config.optimizer, *rates, config.weight_decay, config.betas, dtype)
    state = State(model, average.model, optimizers, Progress(packer=packer.state_dict()))
    newest = newest_checkpoint(run_dir)
    if newest is not None:
        logger.info("going on from %s", newest)
        read_state(newest, state)
        packer.load_state_dict(state.progress.packer)
    progress, meter = state.progress, Meter()
    shown: tuple[PackedBatch, Tensor] | None = None  # the batch and latents of the last step
    with (
        Tracker(run_dir, progress.step) as tracker,
        BatchStream(packer) as stream,
        tqdm(total=config.steps, initial=progress.step, unit="step", desc="train", disable=None) as bar,
    ):
        while True:
            # what is due after `step` steps
            step = progress.step
            finished, stopped = step >= config.steps, stop.is_set()
            folder = run_dir / "checkpoints" / f"step_{step:06d}"
            due = finished or stopped or (step > 0 and step % config.checkpoint_every == 0)
            if due and not folder.exists():
                card = {"train": record["train"], "metrics": tracker.last, **vars(progress), **record["card"]}
                with whole_folder(folder) as beside:
                    write_pretrained(beside, average.model, tokenizer, codec, card)
                    write_state(beside, state)
                prune(run_dir, config.keep_checkpoints)
                encoder.forget()  # a run that goes on from here has nothing cached, and gets the same bits
            due = config.sample_every > 0 and (finished or step % config.sample_every == 0)
            if due and shown is not None:
                if not shown[0].clean.all():
                    pictures = one_step_samples(average.model, codec, *shown)
                    tracker.images(step, "samples/truth_above_one_step", pictures)
                if on_sample is not None:
                    with torch.no_grad():
                        on_sample(step, average.model, tracker)
            if finished or stopped:
                return TrainResult(folder, step, finished, tracker.last)

            # one step
            began = time.perf_counter()
            batch = stream.next()
            waited = time.perf_counter() - began
            share = schedule(step, config.steps, config.warmup_steps, config.final_lr_share)
            set_rate(optimizers, share)
            latents = encoder.encode(batch.frames)
            batch = batch.to(device)
            with autocast(device, dtype):
                loss, parts = model.loss(batch, latents, step_generator(config.seed, step))
            model.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), config.gradient_clip)
            losses = {f"loss/{name}": value.item() for name, value in {"total": loss, **parts}.items()}
            losses["gradient_norm"] = norm.item()
            check_finite(step + 1, losses, batch, run_dir)
            for optimizer in optimizers:
                optimizer.step()
            model.trunk.update_balance()
            average.update(model, step)
            seconds = time.perf_counter() - began

            # count and log it
            shown, tokens = (batch, latents), int((batch.document_id >= 0).sum())
            progress.advance(stream.state, batch.sources, seconds)
            meter.add(losses | {"filled": batch.filled}, tokens, seconds, waited)
            bar.update()
            if progress.step % config.log_every == 0 or progress.step == config.steps:
                metrics = meter.row() | {"learning_rate": share * config.lr} | shares(progress.positions)
                tracker.scalars(progress.step, metrics)
                bar.set_postfix({k[5:]: f"{v:.3f}" for k, v in metrics.items() if k.startswith("loss/")})


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of one step's flow times and noise."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def describe_data(packer: Packer) -> dict[str, Any]:
    """What the batches are drawn from, for the run's config."""
    names = [source.name for source in packer.mixture.sources]
    return {
        "seed": packer.mixture.seed,
        "sources": dict(zip(names, packer.mixture.probabilities.tolist(), strict=True)),
    }


def check_finite(step: int, losses: dict[str, float], batch: PackedBatch, run_dir: Path) -> None:
    """Stop before weights are spoilt.

    Raises:
        UserError: a loss or the gradient's norm is NaN or infinite.
    """
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    newest = newest_checkpoint(run_dir)
    kept = f"the last checkpoint is {newest}" if newest else "there is no checkpoint yet"
    sources = ", ".join(sorted(batch.sources)) or "unnamed documents"
    raise UserError(
        f"step {step} is not finite ({values}) on a batch of {sources}; "
        f"{kept}; train with a lower lr, or look for broken values in these sources"
    )


@torch.no_grad()
def one_step_samples(model: WorldModel, codec: RAE, batch: PackedBatch, latents: Tensor, count: int = 8) -> Tensor:
    """Up to `count` predicted frames of a batch, then what one flow step from pure noise makes of each.

    Args:
        model: in evaluation mode.
        codec: decodes latents.
        batch: a batch on the model's device.
        latents: (f, p, c) of its frames.
        count: how many frames at most.

    Returns:
        (2 * count, 3, h, w) in [0, 1], true frames first.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    t = batch.clean.to(latents.dtype)
    z_t = torch.where(rearrange(batch.clean, "f -> f 1 1"), latents, noise)
    hidden, _ = model.forward(batch, z_t, t)
    chosen = (~batch.clean).nonzero()[:count, 0]
    flat = rearrange(hidden, "b n d -> (b n) d")[(batch.frame_id >= 0).flatten()]
    frames = rearrange(flat, "(f p) d -> f p d", p=model.config.frame_tokens)[chosen]
    predicted = noise[chosen] + model.denoise(frames, noise[chosen], t[chosen])
    return torch.cat([frames_to_float(batch.frames[chosen]), codec.decode(predicted)])


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets, for `train(stop=...)`; a second signal interrupts at once.

    For a program's main thread.
    """
    event = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        logger.warning("%s: saving after this step; again to stop at once", signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
