"""A run of the model from its first step to its last, as one process sees it: its gradient, what is due between two steps, spikes.

What is written is written by the main process; what the loop decides (to skip a batch, to go back, to stop) is decided from numbers
that were summed over processes, by all of them alike.
"""

import contextlib
import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained
from worldmodel.compilation import compile_blocks, should_compile
from worldmodel.cpu_speed import float32_products
from worldmodel.flops import matmul_rate, training_flops
from worldmodel.model import WorldModel
from worldmodel.precision import choose_dtype, choose_onednn
from worldmodel.studies.specialisation import load_picture
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import Processes, clip_gradients, replicate, shard, sum_gradients
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.loop import Gradient, Loop
from worldmodel.training.optimizer import Ema, build_optimizers
from worldmodel.training.prefetching import FrameEncoder, PrefetchingLoader
from worldmodel.training.resume import Progress, State, checkpoints, newest_checkpoint, read_state
from worldmodel.training.run_checkpoints import drop_newer, save, whole_average
from worldmodel.training.samples import one_step_samples
from worldmodel.training.spike_detection import SkippedBatches, SpikeDetector
from worldmodel.training.step import Totals, gradient, move, oom_hint, read_losses, sample_noise_by_shard
from worldmodel.training.tracking import EpochCounter, Meter, Tracker, shares

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    checkpoint: Path
    """The newest checkpoint: `read_checkpoint` reads it."""
    step: int
    """Optimizer steps done, in all runs of this folder together."""
    finished: bool
    """False if the run was asked to stop; the same arguments continue it."""
    metrics: dict[str, float]
    """The newest value of everything that was logged."""


@dataclass(frozen=True)
class StepGradient(Gradient):
    """The gradient of a step of the model, of all processes together."""

    batch: PackedBatch
    """This process's rows, on the CPU."""
    shown: tuple[PackedBatch, Tensor]
    """The first part of them, and its latents."""
    totals: Totals
    losses: dict[str, float]
    norm: float
    loads: Tensor
    """Of the experts."""
    began: float
    """When the step began, by the clock of `time.perf_counter`."""
    waited: float
    """Seconds for the batch."""


class Run(Loop[WorldModel, StepGradient]):
    """The state of a training run in one process."""

    name = "train"
    average: Ema[WorldModel]

    def __init__(
        self,
        parts: Pretrained,
        batches: Batches,
        config: TrainConfig,
        run_dir: Path,
        hooks: Hooks,
        processes: Processes,
        record: dict[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.config, self.hooks = parts.model, parts.tokenizer, config, hooks
        self.packer, self.validation = batches.packer, batches.validation
        self.steps, self.warmup_steps, self.final_lr_share = config.steps, config.warmup_steps, config.final_lr_share
        self.run_dir, self.processes, self.record = run_dir, processes, record
        self.device = processes.device
        self.quiet = None if processes.is_main else True
        chosen = (choose_dtype(config.dtype, self.device), choose_onednn(self.device)) if processes.is_main else None
        self.dtype, self.onednn = processes.broadcast_object(chosen)  # on a busy machine each may measure something else
        self.part_rows = config.packing.rows // processes.world_size // config.accumulation
        self.names = [source.name for source in self.packer.mixture.sources]
        self.codec = parts.codec.to(self.device).eval()
        self.encoder = FrameEncoder(self.codec, self.device, config.cache_latents == "memory", batches.latents)
        with self.enough_memory():
            if should_compile(config.compile, self.device):
                compile_blocks(self.model.trunk)
            cut = config.sharding == "on" or (config.sharding == "auto" and self.device.type == "cuda")
            (shard if cut else replicate)(self.model.train(), processes)
            self.average = Ema(self.model, config.ema_decay)
            rates = (config.lr, config.muon_lr, config.weight_decay, config.betas)
            self.optimizers = build_optimizers(self.model, config.optimizer, *rates, self.dtype)
        self.state = State(self.model, self.average.model, self.optimizers, Progress())
        newest = processes.broadcast_object(newest_checkpoint(run_dir) if processes.is_main else None)
        self.saved: Path | None = newest  # the newest checkpoint, or the one that training went back to
        if newest is not None:
            if processes.is_main:
                logger.info("going on from %s", newest)
            read_state(newest, self.state)
        self.spikes = SpikeDetector(config, self.state.progress)
        self.meter = Meter()
        self.epochs = EpochCounter(self.packer.mixture, self.packer.documents_before(self.progress.position))
        self.skipped = SkippedBatches(run_dir, self.packer.mixture, self.progress.position) if processes.is_main else None
        self.tracker: Tracker | None = None  # of the main process
        self.shown: tuple[PackedBatch, Tensor] | None = None  # a part of the last batch, and its latents
        self.loads = torch.zeros((), device=self.device)  # of the experts, since the last samples

    @property
    def progress(self) -> Progress:
        """The progress of the run."""
        return self.state.progress

    def enough_memory(self) -> contextlib.AbstractContextManager[None]:
        """Open a block that may run out of memory."""
        return oom_hint(self.config, self.model.config, self.part_rows, self.dtype, self.device)

    @property
    def done(self) -> int:
        """Optimizer steps done."""
        return self.progress.step

    def train(self) -> TrainResult:
        """Train from the present step to the last one."""
        start = self.progress
        with contextlib.ExitStack() as opened:
            opened.enter_context(float32_products(self.onednn))
            if self.processes.is_main:
                self.tracker = opened.enter_context(Tracker(self.run_dir, start.step))
            loader = PrefetchingLoader(self.packer, start.position, self.needed(), self.config.data_workers)
            self.loader = opened.enter_context(loader)
            finished = self.run(self.processes.sum(torch.tensor([float(self.hooks.stop.is_set())])).item() > 0)
            assert self.saved is not None, "a run that ends has just been saved"
            last = self.processes.broadcast_object(self.tracker.last if self.tracker else None)
            return TrainResult(self.saved, self.progress.step, finished, last)

    def needed(self) -> int:
        """Return the number of the batch after the last one that is needed, if no more are skipped."""
        return self.progress.position + self.config.steps - self.progress.step

    @torch.no_grad()
    def between_steps(self, finished: bool, last: bool) -> None:
        """Measure, save and sample whatever is due after the present number of steps."""
        step, config = self.progress.step, self.config
        trained = self.shown is not None  # by this process: a run that goes on does not repeat what was shown
        measure = trained and config.validate_every > 0 and (finished or step % config.validate_every == 0)
        sample = trained and config.sample_every > 0 and (finished or step % config.sample_every == 0)
        if measure and self.validation is not None:
            values = self.validation.measure(self.average.model, self.codec, self.dtype, self.processes)
            if self.tracker is not None:
                self.tracker.scalars(step, values)
        folder = self.run_dir / "checkpoints" / f"step_{step:06d}"
        if (last or (step > 0 and step % config.checkpoint_every == 0)) and self.saved != folder:
            card = {"train": self.record["train"], "metrics": self.tracker.last if self.tracker else {}}
            card |= {name: getattr(self.progress, name) for name in ("step", "positions", "seconds", "skipped")}
            save(folder, self.state, self.tokenizer, self.codec, card | self.record["card"], self.processes, config.keep_checkpoints)
            self.saved = folder
            self.encoder.forget()  # a run that goes on from here has nothing cached, and gets the same bits
        if not sample:
            return
        model = whole_average(self.average.model, self.processes)
        if model is not None and self.tracker is not None and self.shown is not None:
            batch, latents = self.shown
            if not batch.clean.all():
                pictures = one_step_samples(model, self.codec, move(batch, self.device), latents)
                self.tracker.images(step, "samples/truth_above_one_step", pictures)
            if self.loads.ndim and self.loads.numel():
                self.tracker.images(step, "samples/expert_load", load_picture(self.loads.cpu()))
            if self.hooks.on_sample is not None:
                self.hooks.on_sample(step, model, self.tracker)
        self.loads = torch.zeros((), device=self.device)
        self.processes.barrier()  # the main process samples alone, however long that takes

    def step(self) -> bool:
        """Train on the next batch, or pass over it; returns whether the run was asked to stop."""
        with self.enough_memory():
            stopped = super().step()
        self.loader.stop = self.needed()
        return stopped

    def gradient(self) -> StepGradient:
        """Compute the gradient of the next batch, of all processes together, scaled down where it is too long."""
        began, config = time.perf_counter(), self.config
        batch = self.loader.next()
        waited = time.perf_counter() - began
        totals = Totals.of(batch, self.names, self.processes)
        latents = self.encoder.encode(batch.pictures)
        number, shards = self.progress.position, self.packer.data_shards
        noise_sample = sample_noise_by_shard(self.model, batch, config.seed, number, shards, self.device)
        parts = batch.split(config.accumulation) if config.accumulation > 1 else [batch]
        names, sums = gradient(self.model, parts, latents, noise_sample, totals.counts, self.dtype)
        sum_gradients(self.model, self.processes)
        length = clip_gradients(self.model, config.gradient_clip)
        length = length if self.processes.is_main else torch.zeros_like(length)  # all have the same: once is enough in a sum
        numbers = torch.cat([sums, length.view(1)])
        losses, stopped = read_losses([*names, "norm"], numbers, self.hooks.stop.is_set(), self.processes)
        norm, loads = losses.pop("norm"), self.processes.sum(self.model.trunk.loads())
        given = latents[len(batch.clean) :][: len(parts[0].given)]
        shown = (parts[0], torch.cat([latents[: len(parts[0].clean)], given]))
        return StepGradient(stopped, batch, shown, totals, losses, norm, loads, began, waited)

    def check(self, found: StepGradient) -> str | None:
        """Say why the present batch must not be trained on; None if there is no reason."""
        return self.spikes.check(found.losses["total"], found.norm)

    def rebalance(self, found: StepGradient) -> None:
        """Rebalance experts and losses."""
        self.model.trunk.update_balance(found.loads)
        self.model.update_loss_balance(found.losses.get("text"), found.losses.get("flow"))

    def accept(self, found: StepGradient, share: float) -> None:
        """Count the step, and log it if it is time to."""
        self.shown = found.shown
        seconds, counts = time.perf_counter() - found.began, found.totals.counts
        self.progress.advance(found.totals.sources, seconds)
        self.spikes.accept(found.losses["total"], found.norm)
        values = {f"loss/{name}": value for name, value in found.losses.items()}
        filled = counts.tokens / (self.config.packing.rows * self.config.packing.length)
        values |= {"gradient_norm": found.norm, "data/filled": filled}
        self.meter.add(values, counts.tokens, seconds, found.waited, found.loads)
        self.loads = self.loads + found.loads
        if self.progress.step % self.config.log_every == 0 or self.progress.step == self.config.steps:
            self.log(found.batch, share)

    def newest_losses(self) -> dict[str, float]:
        """Return the losses that were logged last, without the beginning of their names."""
        last = self.tracker.last if self.tracker else {}
        return {name.removeprefix("loss/"): value for name, value in last.items() if name.startswith("loss/")}

    def log(self, batch: PackedBatch, share: float) -> None:
        """Write a row of metrics, on the main process."""
        if self.tracker is None:
            self.meter.reset()
            return
        rate = measured_rate(self.device, self.dtype)
        row = self.meter.row(training_flops(self.model.config, batch), rate) | {"learning_rate": share * self.config.lr}
        row |= shares(self.progress.positions) | self.epochs.row(self.packer.documents_before(self.progress.position))
        if self.progress.skipped:
            row["data/skipped"] = float(len(self.progress.skipped))
        if self.device.type == "cuda":
            row["memory/peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.tracker.scalars(self.progress.step, row)

    def reject(self, found: StepGradient, reason: str) -> None:
        """Pass over the present batch, and go back to a checkpoint if the weights are suspected."""
        self.model.trunk.update_balance(torch.zeros_like(found.loads))  # forgets them
        self.model.zero_grad(set_to_none=True)
        number, progress = self.progress.position, self.progress
        documents = tuple(index for own in self.processes.gather(found.batch.documents) for index in own)
        if self.skipped is not None:
            self.skipped.add(number, progress.step, reason, documents)
        if not self.spikes.skip():
            return
        folders = self.processes.broadcast_object(checkpoints(self.run_dir) if self.processes.is_main else None)
        target = self.spikes.go_back(folders, self.run_dir, reason)
        if self.processes.is_main:
            logger.warning("the last batches could not be trained on: going back to %s, and on with the batches after them", target)
        read_state(target, self.state)
        self.spikes.resume(self.progress)
        self.saved = target
        self.meter.reset()
        if self.tracker is not None:
            drop_newer(self.run_dir, target)
            self.tracker.rewind(self.progress.step)
        self.processes.barrier()


@functools.cache
def measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a matrix product here, once."""
    return matmul_rate(device, dtype)
