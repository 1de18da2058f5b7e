"""Training: one loop from batches to checkpoints, from which a killed run goes on as if nothing had happened.

What step i does is a function of the weights and of (seed, i) alone: its batch, its noise and its flow times follow from the
number of the step. Weights and step are in every checkpoint. So run it again with the same arguments and number of threads,
and on a CPU it continues bit for bit.
"""

import contextlib
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import check_fit, whole_folder, write_pretrained
from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import frames_to_float
from worldmodel.errors import UserError
from worldmodel.feeding import BatchStream, FrameEncoder
from worldmodel.latent_cache import LatentCache
from worldmodel.model import WorldModel
from worldmodel.optimizer import Ema, build_optimizers, schedule, set_rate
from worldmodel.packing import Packer
from worldmodel.precision import autocast, choose_device, choose_dtype
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
from worldmodel.tracking import Meter, Passes, Tracker, shares
from worldmodel.training_config import TrainConfig

logger = logging.getLogger(__name__)

OnSample = Callable[[int, WorldModel, Tracker], None]


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
    codec: Codec,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path | str,
    on_sample: OnSample | None = None,
    stop: threading.Event | None = None,
    card: dict[str, Any] | None = None,
    latents: LatentCache | None = None,
    on_start: Callable[[], None] | None = None,
) -> TrainResult:
    """Train `model` in place, or go on with the run that `run_dir` holds.

    Args:
        model: initialised; its weights are overwritten where a run is continued.
        codec: frozen; it encodes the frames.
        packer: where batches come from; its config is `config.packing`.
        tokenizer: goes into the checkpoints.
        config: how to train.
        run_dir: gets config.json, metrics.jsonl, tensorboard/ and checkpoints/.
        on_sample: called with the step, the averaged model (evaluation mode, no gradients) and the tracker.
        stop: set it from outside, and the run saves and returns after the step it is in.
        card: what else to write on the card of every checkpoint, as JSON; a continued run must give the same.
        latents: the codec's latents of the data, where `config.cache_latents` is "disk".
        on_start: called when the run folder is claimed, before the first step.

    Raises:
        UserError: the run folder is in use or holds a run with other settings; model, codec and tokenizer do
            not fit; a loss is not finite (the last checkpoint stays as it is).
    """
    run_dir = Path(run_dir)
    check_fit(model.config, codec, tokenizer)
    if packer.config != config.packing:
        raise ValueError(f"the packer was built with {packer.config}, but the training config has {config.packing}")
    if (config.cache_latents == "disk") != (latents is not None):
        raise ValueError(f"cache_latents is {config.cache_latents!r}, and {'no' if latents is None else 'a'} latent cache was given")
    choose_device(config.device)  # a device that is not there must not claim the folder
    with locked(run_dir):
        record = {
            "train": {k: v for k, v in dataclasses.asdict(config).items() if k != "data_workers"},  # they change nothing
            "model": dataclasses.asdict(model.config),
            "data": describe_data(packer),
            "card": card or {},
        }
        claim(run_dir, record)
        if on_start is not None:
            on_start()
        stop = stop or threading.Event()
        return _run(model, codec, packer, tokenizer, config, run_dir, on_sample, stop, record, latents)


def _run(
    model: WorldModel,
    codec: Codec,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path,
    on_sample: OnSample | None,
    stop: threading.Event,
    record: dict[str, Any],
    cache: LatentCache | None,
) -> TrainResult:
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model.to(device).train()
    encoder = FrameEncoder(codec.to(device).eval(), device, config.cache_latents == "memory", cache)
    average = Ema(model, config.ema_decay)
    rates = (config.lr, config.muon_lr)
    optimizers = build_optimizers(model, config.optimizer, *rates, config.weight_decay, config.betas, dtype)
    state = State(model, average.model, optimizers, Progress())
    newest = newest_checkpoint(run_dir)
    if newest is not None:
        logger.info("going on from %s", newest)
        read_state(newest, state)
    progress, meter = state.progress, Meter()
    passes = Passes(packer.mixture, packer.documents_before(progress.step))
    shown: tuple[PackedBatch, Tensor] | None = None  # the batch and latents of the last step
    with (
        Tracker(run_dir, progress.step) as tracker,
        BatchStream(packer, progress.step, config.steps, config.data_workers) as stream,
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
            progress.advance(batch.sources, seconds)
            meter.add(losses | {"data/filled": batch.filled}, tokens, seconds, waited)
            bar.update()
            if progress.step % config.log_every == 0 or progress.step == config.steps:
                metrics = meter.row() | {"learning_rate": share * config.lr} | shares(progress.positions)
                metrics |= passes.row(packer.documents_before(progress.step))
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
def one_step_samples(model: WorldModel, codec: Codec, batch: PackedBatch, latents: Tensor, count: int = 8) -> Tensor:
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
