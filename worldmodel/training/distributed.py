"""Training by several processes: who they are, what they tell each other, and a model that is sharded over them.

`torchrun --nproc-per-node N` starts N processes of one program; each finds its rank in the environment. FSDP2 keeps one part of
every weight, gradient and moment on each process (arXiv 2304.11277): a block's weights are gathered just before they are used, its
gradients are summed and cut up again just after. Weights are cut along their first axis, unevenly where that does not divide, so that
a process holds whole experts of a stack (e, d, h); a stack that does not divide is cut by rows.

Weights are gathered, and gradients summed, in float32: under autocast N processes then compute what one does, routers and
residuals in float32 included, at twice the traffic of bfloat16. Gradients are summed, not averaged: each process divides its losses by
the counts of the whole step.
"""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.nn.utils import get_total_norm

from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.precision import choose_device

TIMEOUT = 600.0
"""Seconds that a process waits for the others: longer than a checkpoint takes to write, short enough to notice that one is gone."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees it. Every method but `is_main` is called by all of them, in the same order."""

    rank: int
    """Of this process, from 0."""
    world_size: int
    """How many there are."""
    local_rank: int
    """Of this process on its machine."""
    device: torch.device
    """What this process computes on."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor, of the CPU or of `device`, over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.world_size > 1:
            self.sum(torch.zeros(1))

    def broadcast_object(self, value: Any) -> Any:
        """What the main process gives, on all; the others' `value` is not looked at."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def agree(self, what: str, value: Any) -> None:
        """Make sure that all processes have an equal value, one that prints alike where it is equal.

        Args:
            what: the value is, for the message.
            value: with a `repr` that says all there is to it.

        Raises:
            UserError: on all processes, naming what differs and on which.
        """
        if self.world_size == 1:
            return
        values: list[str] = [""] * self.world_size
        dist.all_gather_object(values, repr(value))
        for rank, theirs in enumerate(values):
            if theirs != values[0]:
                raise UserError(
                    f"the processes disagree on {what}: process 0 has {_excerpt(values[0], theirs)}, process {rank} has "
                    f"{_excerpt(theirs, values[0])}; start all of them with the same program, arguments and files"
                )


def _excerpt(text: str, other: str, around: int = 60) -> str:
    """The part of a long text where it begins to differ from another."""
    same = len(os.path.commonprefix([text, other]))
    start, end = max(0, same - around), same + around
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def single(device: torch.device) -> Processes:
    """One process alone."""
    return Processes(0, 1, 0, device)


@contextlib.contextmanager
def processes(device_name: str, timeout: float = TIMEOUT) -> Iterator[Processes]:
    """The processes that torchrun started, connected for as long as the block lasts; without torchrun, this process alone.

    An error in the block of one process ends the block of all: the others, which wait for it, raise what it has said.

    Args:
        device_name: as for `choose_device`; with several processes each takes the GPU of its local rank.
        timeout: seconds after which waiting for the others is an error.

    Raises:
        UserError: the processes did not find each other, there are not enough GPUs, or another process failed or is gone.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield single(choose_device(device_name))
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    device = own_device(device_name, local_rank)
    limit = datetime.timedelta(seconds=timeout)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=limit))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    except (dist.DistError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"process {rank} did not find the other {world_size - 1} within {timeout:g} s ({first}); start them again"
        ) from None
    notes = dist.PrefixStore("ended", store)
    try:
        yield Processes(rank, world_size, local_rank, device)
    except BaseException as error:
        first = notes.compare_set("why", "", f"{rank} {_describe(error)}").decode()
        dist.destroy_process_group()  # whoever waits for this process is let go
        _leave(notes, rank, world_size)
        if not _lost_contact(error):
            raise
        culprit, why = first.split(" ", 1)
        if int(culprit) != rank:
            raise UserError(f"process {culprit} ended the run: {why}") from error
        raise UserError(
            f"process {rank} lost the others: one of them was ended, or did nothing for {timeout:g} s; its own output says why; "
            "the same command goes on from the last checkpoint"
        ) from error
    dist.destroy_process_group()


def own_device(name: str, local_rank: int) -> torch.device:
    """The device of one of several processes on a machine, made current if it is a GPU.

    Raises:
        UserError: one device for all was asked for, or there are more processes than GPUs.
    """
    device = choose_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"device {name!r} is one GPU, but several processes were started, each with its own: use auto or cuda")
    if local_rank >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"there is no GPU for process {local_rank} of this machine, torch sees {count}: use --nproc-per-node {count}")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _describe(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _lost_contact(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _leave(notes: dist.Store, rank: int, world_size: int, patience: float = 10.0) -> None:
    """Note that this process knows why the run ended; the first may keep the notes, so it waits until the others know, too."""
    gone, end = notes.add("count", 1), time.monotonic() + patience
    while rank == 0 and gone < world_size and time.monotonic() < end:
        time.sleep(0.05)
        gone = notes.add("count", 0)


def shard(model: WorldModel, processes: Processes) -> None:
    """Keep this process's part of every weight, each of them a `DTensor` from now on; nothing to do for one process.

    To be called before optimizers are built, on a model (and its moving average) that is whole and the same everywhere. Every block is
    a unit that is gathered by itself, the rest is another. Buffers stay whole. A sharded model has `loss` and nothing else: to draw
    samples, fill a model on the main process with `whole_model`.

    Raises:
        UserError: the processes do not have the same weights.
    """
    if processes.world_size == 1:
        return
    processes.agree("the model's weights", [p.detach().double().norm().item() for p in model.parameters()])
    mesh = init_device_mesh(processes.device.type, (processes.world_size,))
    for module in [*model.trunk.blocks, model]:
        unit = cast(FSDPModule, fully_shard(module, mesh=mesh, shard_placement_fn=partial(_axis, size=processes.world_size)))
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows sums only
        unit.set_reduce_scatter_unused_params(True)  # a process whose rows have no picture still takes part
    register_fsdp_forward_method(model, "loss")


def _axis(weight: nn.Parameter, size: int) -> Shard | None:
    """Stacks with too few entries to share out evenly are cut by rows; `None` is the first axis."""
    by_rows = weight.ndim == 3 and weight.shape[0] % size > 0 and weight.shape[1] % size == 0
    return Shard(1) if by_rows else None


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's parameters by name; of a sharded model the parts, also just after a forward pass, when its root is still gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()
    return dict(model.named_parameters())


def whole_model(model: nn.Module) -> dict[str, Tensor]:
    """All weights and persistent buffers, whole and on the CPU, on the main process; empty on the others. All have to call it."""
    whole: dict[str, Tensor] = {}
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    for name, tensor in model.state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_main:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale the gradient down to the norm `limit`, if it is longer.

    Returns:
        Its norm before, over all weights and processes.
    """
    found = [p.grad for p in weights(model).values() if p.grad is not None]
    gradients = [local(gradient) for gradient in found]
    norm = get_total_norm(gradients)
    if found and isinstance(found[0], DTensor):
        norm = norm.square()
        dist.all_reduce(norm, group=found[0].device_mesh.get_group())
        norm = norm.sqrt()
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm.item()
