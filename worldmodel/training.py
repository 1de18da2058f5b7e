"""Training: one loop from packed batches to checkpoints, which a killed run goes on with as if nothing had happened.

What step i does is a function of the weights, the packer's state and (seed, i) alone; the first two are in every checkpoint. So
run it again with the same arguments and the same number of threads, and on a CPU it continues bit for bit.
"""

import contextlib
import dataclasses
import hashlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
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
from worldmodel.model import WorldModel
from worldmodel.optimizer import Ema, build_optimizer, learning_rate
from worldmodel.packing import PackedBatch, Packer, PackingConfig
from worldmodel.precision import DTypeName, autocast, choose_device, choose_dtype
from worldmodel.resume import Progress, claim, locked, newest_checkpoint, prune, read_state, write_state
from worldmodel.tokenizer import Tokenizer
from worldmodel.tracking import Tracker

logger = logging.getLogger(__name__)

ENCODE_FRAMES = 32  # at once: one size, whatever was cached, gives the same bits
CACHE_BYTES = 2**31

OnSample = Callable[[int, WorldModel, Tracker], None]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 1000
    """Optimizer steps."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    """Shape of a batch."""
    lr: float = 1e-3
    """Peak learning rate: linear warm-up, then a cosine down to final_lr_share of it."""
    warmup_steps: int = 50
    """Steps of warm-up."""
    final_lr_share: float = 0.1
    """Learning rate of the last step, as a share of the peak."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay, of matrices only."""
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
    """Keep latents of frames seen since the last checkpoint (up to 2 GiB) instead of encoding a frame again."""
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
        for name in ("lr", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
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
    """The row of metrics logged last."""


def train(
    model: WorldModel,
    codec: RAE,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path | str,
    on_sample: OnSample | None = None,
    stop: threading.Event | None = None,
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

    Raises:
        UserError: the run folder is in use or holds a run with other settings; model, codec and tokenizer do not fit; a loss is
            not finite (the last checkpoint stays as it is).
    """
    run_dir = Path(run_dir)
    check_fit(model.config, codec, tokenizer)
    if packer.config != config.packing:
        raise ValueError(f"the packer was built with {packer.config}, but the training config has {config.packing}")
    with locked(run_dir):
        record = {"train": dataclasses.asdict(config), "model": dataclasses.asdict(model.config), "data": describe_data(packer)}
        claim(run_dir, record)
        return _run(model, codec, packer, tokenizer, config, run_dir, on_sample, stop or threading.Event())


def _run(
    model: WorldModel,
    codec: RAE,
    packer: Packer,
    tokenizer: Tokenizer,
    config: TrainConfig,
    run_dir: Path,
    on_sample: OnSample | None,
    stop: threading.Event,
) -> TrainResult:
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model.to(device).train()
    encoder = FrameEncoder(codec.to(device).eval(), device, config.cache_latents)
    average = Ema(model, config.ema_decay)
    optimizer = build_optimizer(model, config.lr, config.weight_decay, config.betas)
    progress, newest = Progress(packer=packer.state_dict()), newest_checkpoint(run_dir)
    if newest is not None:
        progress = read_state(newest, model, average.model, optimizer)
        packer.load_state_dict(progress.packer)
        logger.info("going on from %s", newest)
    start, meter, metrics = progress.step, Meter(), {}
    with (
        Tracker(run_dir, start) as tracker,
        BatchStream(packer) as stream,
        tqdm(total=config.steps, initial=start, unit="step", desc="train", disable=None) as bar,
    ):
        while True:
            # what is due after `step` steps
            step = progress.step
            finished, stopped = step >= config.steps, stop.is_set()
            folder = run_dir / "checkpoints" / f"step_{step:06d}"
            if (finished or stopped or (step and step % config.checkpoint_every == 0)) and not folder.exists():
                card = {"progress": vars(progress), "metrics": metrics, "device": str(device), "dtype": str(dtype)}
                with whole_folder(folder) as beside:
                    write_pretrained(beside, average.model, tokenizer, codec, card | {"train": dataclasses.asdict(config)})
                    write_state(beside, model, average.model, optimizer, progress)
                prune(run_dir, config.keep_checkpoints)
                encoder.forget()  # a run that goes on from here begins with nothing cached, and must get the same bits
            if config.sample_every and step > start and (finished or step % config.sample_every == 0):
                if not batch.clean.all():
                    pictures = one_step_samples(average.model, codec, batch, latents)
                    tracker.images(step, "samples/truth_above_one_step", pictures)
                if on_sample is not None:
                    with torch.no_grad():
                        on_sample(step, average.model, tracker)
            if finished or stopped:
                break

            # one step
            began = time.perf_counter()
            batch = stream.next()
            waited = time.perf_counter() - began
            rate = learning_rate(step, config.steps, config.lr, config.warmup_steps, config.final_lr_share)
            for group in optimizer.param_groups:
                group["lr"] = rate
            latents = encoder.encode(batch.frames)
            batch = batch.to(device)
            with autocast(device, dtype):
                loss, parts = model.loss(batch, latents, step_generator(config.seed, step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), config.gradient_clip)
            check_finite(step + 1, loss, norm, parts, batch, run_dir)
            optimizer.step()
            model.trunk.update_balance()
            average.update(model, step)
            seconds = time.perf_counter() - began

            # count and log it
            progress.step += 1
            progress.packer = stream.state
            progress.seconds += seconds
            for name, positions in batch.sources.items():
                progress.positions[name] = progress.positions.get(name, 0) + positions
            tokens = int((batch.document_id >= 0).sum())
            losses = {f"loss/{name}": value.item() for name, value in {"total": loss, **parts}.items()}
            meter.add({**losses, "gradient_norm": norm.item(), "filled": batch.filled}, tokens, seconds, waited)
            bar.update()
            if progress.step % config.log_every == 0 or progress.step == config.steps:
                metrics = meter.row() | {"learning_rate": rate} | shares(progress.positions)
                tracker.scalars(progress.step, metrics)
                bar.set_postfix({k.removeprefix("loss/"): f"{v:.3f}" for k, v in metrics.items() if k.startswith("loss/")})
    return TrainResult(folder, step, finished, metrics)


class BatchStream:
    """The packer, one batch ahead in a thread; `state` is the packer's state after the batch handed out last."""

    def __init__(self, packer: Packer) -> None:
        self.packer, self.state = packer, packer.state_dict()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="packer")
        self.pending = self.worker.submit(self._draw)

    def _draw(self) -> tuple[PackedBatch, dict[str, Any]]:
        return self.packer.next_batch(), self.packer.state_dict()

    def next(self) -> PackedBatch:
        """The next batch, waiting for it if need be."""
        batch, self.state = self.pending.result()
        self.pending = self.worker.submit(self._draw)
        return batch

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.shutdown(wait=True, cancel_futures=True)
        self.packer.load_state_dict(self.state)


class FrameEncoder:
    """The frozen codec in front of the model, with a memory of the frames that it has encoded."""

    def __init__(self, codec: RAE, device: torch.device, cache: bool) -> None:
        self.codec, self.device, self.cache = codec, device, cache
        self.known: dict[bytes, Tensor] = {}

    def forget(self) -> None:
        """Drop everything that is cached."""
        self.known.clear()

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames (f, h, w, 3) uint8 -> latents (f, p, c) on the device."""
        if not self.cache or not len(frames):
            return self._encode(frames)
        keys = [hashlib.blake2b(frame.numpy(), digest_size=16).digest() for frame in frames]
        new = {key: i for i, key in enumerate(keys) if key not in self.known}
        self.known.update(zip(new, self._encode(frames[list(new.values())]), strict=True))
        latents = torch.stack([self.known[key] for key in keys])
        if len(self.known) * latents[0].nbytes > CACHE_BYTES:
            self.forget()
        return latents

    def _encode(self, frames: Tensor) -> Tensor:
        parts = [self.codec.encode(frames_to_float(part, self.device)) for part in frames.split(ENCODE_FRAMES) if len(part)]
        return torch.cat(parts) if parts else torch.zeros(0, self.codec.num_tokens, self.codec.channels, device=self.device)


class Meter:
    """Means over the steps since the last row."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.tokens, self.seconds, self.waited = 0, 0.0, 0.0

    def add(self, values: dict[str, float], tokens: int, seconds: float, waited: float) -> None:
        """Count one step: named values, positions trained on, its time and the part of it spent waiting for data."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
        self.tokens, self.seconds, self.waited = self.tokens + tokens, self.seconds + seconds, self.waited + waited

    def row(self) -> dict[str, float]:
        """The means, speed and share of time spent waiting; starts over."""
        row = {name: sum(values) / len(values) for name, values in self.values.items()}
        row |= {"tokens_per_second": self.tokens / self.seconds, "data_wait": self.waited / self.seconds}
        self.__init__()  # type: ignore[misc]
        return row


def shares(positions: dict[str, int]) -> dict[str, float]:
    """Share of each source in all positions so far."""
    total = sum(positions.values())
    return {f"share/{name}": count / total for name, count in sorted(positions.items())}


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of one step's flow times and noise."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def describe_data(packer: Packer) -> dict[str, Any]:
    """What the batches are drawn from, for the run's config."""
    names = [source.name for source in packer.mixture.sources]
    return {"seed": packer.mixture.seed, "sources": dict(zip(names, packer.mixture.probabilities.tolist(), strict=True))}


def check_finite(
    step: int, loss: Tensor, norm: Tensor, parts: dict[str, Tensor], batch: PackedBatch, run_dir: Path
) -> None:
    """Stop before weights are spoilt.

    Raises:
        UserError: the loss or the gradient is NaN or infinite.
    """
    if bool(torch.isfinite(loss) & torch.isfinite(norm)):
        return
    losses = ", ".join(f"{name} {value.item():.4g}" for name, value in parts.items())
    newest = newest_checkpoint(run_dir)
    raise UserError(
        f"step {step}: the loss ({losses}) or the norm of its gradient ({norm.item():.4g}) is not finite, on a batch of "
        f"{', '.join(sorted(batch.sources)) or 'unnamed sources'}; {f'{newest} is the last good state' if newest else 'no checkpoint was written yet'}: "
        "train with a lower lr, or look for broken values in these sources"
    )


@torch.no_grad()
def one_step_samples(model: WorldModel, codec: RAE, batch: PackedBatch, latents: Tensor, count: int = 8) -> Tensor:
    """Up to `count` predicted frames of a batch, then what the model makes of each in one flow step from pure noise.

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
    """An event that SIGTERM or Ctrl-C sets, for `train(stop=...)`; a second signal interrupts at once. Main thread only."""
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
