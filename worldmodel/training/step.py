"""One optimizer step of one or of many processes: what is drawn for it, its gradient, and what to do when memory is short.

A step's batch is cut twice: into the rows of each process, and these into `accumulation` parts that are computed one after the other.
Every part's loss is a sum divided by the counts of the whole step (`LossCounts`), and gradients are summed over parts and processes.
So the step is the same however it is cut, but for the order in which floating-point numbers are added.
"""

import contextlib
import resource
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.batch import PackedBatch
from worldmodel.errors import UserError
from worldmodel.losses import LossCounts, NoiseSample, readable
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.precision import autocast, copied
from worldmodel.training.config import TrainConfig
from worldmodel.training.distributed import Processes, weights

OOM_MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "cublas_status_alloc_failed")
"""What errors say, in small letters, that mean too little memory."""


@dataclass(frozen=True)
class Totals:
    """What is known of a step's batch before it is computed, of all processes together."""

    counts: LossCounts
    """What its losses are divided by."""
    sources: dict[str, int]
    """Positions per source."""

    @classmethod
    def of(cls, batch: PackedBatch, names: list[str], processes: Processes) -> "Totals":
        """Sum over processes, on the CPU: no GPU is waited for.

        Args:
            batch: this process's rows.
            names: of all sources, in the same order everywhere.
            processes: that share the step.
        """
        own = LossCounts.of(batch)
        numbers = torch.tensor([*astuple(own), *(batch.sources.get(name, 0) for name in names)])
        text, frames, tokens, actions, *positions = processes.sum(numbers).tolist()
        found = {name: count for name, count in zip(names, positions, strict=True) if count}
        return cls(LossCounts(text, frames, tokens, actions), found)


def step_generator(seed: int, batch: int, shard: int) -> torch.Generator:
    """Make the CPU generator of the flow times and noise of one shard of a batch."""
    mixed = int(np.random.SeedSequence([seed, batch, shard]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed >> 1)


def sample_noise_by_shard(
    model: WorldModel, batch: PackedBatch, seed: int, number: int, shards: range, device: torch.device
) -> NoiseSample:
    """Draw the flow times and noise of a batch shard by shard, so that they do not depend on which process has a shard.

    Args:
        model: that will be trained on them.
        batch: this process's rows, on the CPU.
        seed: of the run.
        number: of the batch.
        shards: that the batch is made of.
        device: where the result is to be.
    """
    last = batch.frame_id.view(len(shards), -1).amax(1).cummax(0).values  # frames are numbered in reading order; -1: none
    sizes = (last + 1).diff(prepend=last.new_zeros(1)).tolist()
    clean = copied(batch.clean, device).split(sizes)
    noise_samples = [model.sample_noise(own, step_generator(seed, number, shard)) for shard, own in zip(shards, clean, strict=True)]
    return NoiseSample.join(noise_samples)


def move(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """Move a CPU batch to a device, all but its pictures: the model sees their latents. A GPU copies while it computes."""
    pictures = ("frames", "given")
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor) and name not in pictures}
    return PackedBatch.restore(vars(batch) | {name: copied(value, device) for name, value in tensors.items()})


def gradient(
    model: WorldModel,
    parts: list[PackedBatch],
    latents: Tensor,
    noise_sample: NoiseSample,
    counts: LossCounts,
    dtype: torch.dtype,
) -> tuple[list[str], Tensor]:
    """Add the gradient of a step's parts to the weights'.

    Args:
        model: the gradients of its weights are cleared before. Afterward each has one, of zeros where the step says nothing of
            it: on several processes FSDP gives such zeros, and an optimizer would pass over a weight that has none.
        parts: this process's rows of the step, on the CPU, in order.
        latents: (f + g, l, c) of the pictures of all parts, frames first, on the device to compute on.
        noise_sample: for the frames.
        counts: of the whole step.
        dtype: of the forward pass.

    Returns:
        Names, and as many numbers (on the device) whose sums over processes are the losses of the step, the total first.
    """
    model.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    sizes = [len(part.clean) for part in parts]
    frames, given = latents.split([sum(sizes), len(latents) - sum(sizes)])
    of_parts = zip(frames.split(sizes), given.split([len(part.given) for part in parts]), strict=True)
    cut = zip(parts, of_parts, noise_sample.t.split(sizes), noise_sample.noise.split(sizes), strict=True)
    for part, pictures, t, noise in cut:
        of_part = torch.cat(pictures)
        with autocast(latents.device, dtype):
            loss, losses = model.loss(move(part, latents.device), of_part, NoiseSample(t, noise), counts)
        loss.backward()
        for name, value in {"total": loss.detach(), **losses}.items():
            sums[name] = sums[name] + value if name in sums else value
    for weight in weights(model).values():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return list(sums), torch.stack([value.float() for value in sums.values()])


def read_losses(names: list[str], sums: Tensor, stop: bool, processes: Processes) -> tuple[dict[str, float], bool]:
    """Read the losses of the whole step, and whether any process was asked to stop: the one place where a step waits for its GPU."""
    wish = sums.new_full((1,), float(stop))  # filled on the device: nothing is copied there
    *values, stops = processes.sum(torch.cat([sums, wish])).tolist()
    return readable(dict(zip(names, values, strict=True))), stops > 0


@contextlib.contextmanager
def oom_hint(config: TrainConfig, model: ModelConfig, rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into a sentence that names what helps.

    Args:
        config: of the training.
        model: its size.
        rows: of one part of a step on one process.
        dtype: of the forward pass.
        device: whose memory it was.

    Raises:
        UserError: memory ran out in the block.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and not _is_oom(error):
            raise
        raise UserError(memory_advice(config, model, rows, dtype, device)) from None


def _is_oom(error: RuntimeError) -> bool:
    said = str(error).lower()
    return any(sign in said for sign in OOM_MESSAGES)


def memory_advice(config: TrainConfig, model: ModelConfig, rows: int, dtype: torch.dtype, device: torch.device) -> str:
    """Say what makes a step smaller, with this step's numbers."""
    length, trunk = config.packing.length, model.trunk
    knobs = []
    if rows > 1:
        factor = next(k for k in range(2, rows + 1) if rows % k == 0)
        knobs.append(f"accumulation {config.accumulation * factor} makes that {rows // factor} x {length} for the same step")
    knobs.append(f"packing.length below {length}" if rows == 1 else "packing.rows or packing.length make it smaller")
    if dtype == torch.float32:
        knobs.append("dtype bfloat16 halves the activations")
    size = f"width {trunk.width} and depth {trunk.depth}"
    if trunk.feed_forward == "moe":
        size += f", {trunk.moe.num_experts} experts of {trunk.moe.expert_hidden}"
    knobs.append(f"the model has {size}, which can be less")
    knobs.append("more processes (torchrun) share weights and rows")
    return (
        f"memory ran out ({memory_in_use(device)}): one part of a step is {rows} rows x {length} positions in "
        f"{str(dtype).removeprefix('torch.')}; {'; '.join(knobs)}; the last checkpoint stays, and goes on with another accumulation"
    )


def memory_in_use(device: torch.device) -> str:
    """Say how much memory is taken."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        return f"{taken / 2**30:.1f} GiB in tensors, {(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB of the GPU in use"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"this process has used up to {peak / 2**30:.1f} GiB"
