"""Training by several processes: their ranks, what they exchange, and a model that is sharded over them.

`torchrun --nproc-per-node N` starts N processes of one program; each finds its rank in the environment. FSDP2 keeps one part of
every weight, gradient and moment on each process (arXiv 2304.11277): a block's weights are gathered just before they are used, its
gradients are summed and cut up again just after. Weights are cut along their first axis, unevenly where that does not divide, so that
a process holds whole experts of a stack (e, d, h); a stack that does not divide is cut by rows.

On CPUs, where a model is small and gathering costs more than it saves, each process keeps the whole model instead, and gradients are
added up in one piece at the end of a step (`replicate`, `sum_gradients`). `launch.py` starts such processes without torchrun.

Weights are gathered, and gradients summed, in float32: under autocast N processes then compute what one does, routers and
residuals in float32 included, at twice the traffic of bfloat16. Gradients are summed, not averaged: each process divides its losses by
the counts of the whole step.
"""

import contextlib
import copy
import datetime
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.utils import get_total_norm

from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.precision import choose_device
from worldmodel.training.torchrun import surroundings

TIMEOUT = 600.0
"""Seconds that a process waits for the others in the middle of a step: then one of them hangs."""
BARRIER_TIMEOUT_S = 6 * 3600.0
"""Seconds that it waits between two steps, where the main process may sample, write files or train a tokenizer by itself."""
Model = TypeVar("Model", bound=nn.Module)


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
    patient: dist.ProcessGroup | None = None
    """All of them again, for what one may have to wait for; None: there is but one."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor, of the CPU or of `device`, over all processes, in place."""
        if self.world_size > 1 and tensor.numel():
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until all are here, for hours if need be."""
        if self.world_size > 1:
            dist.all_reduce(torch.zeros(1), group=self.patient)

    def broadcast_object(self, value: Any) -> Any:
        """Return on all processes what the main process gives; `value` is ignored on the others."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.patient)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Collect what each process has, by rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, group=self.patient)
        return values

    def agree(self, what: str, value: Any) -> None:
        """Make sure that all processes have an equal value, one that prints alike where it is equal.

        Args:
            what: the value is, for the message.
            value: with a `repr` that says all there is to it.

        Raises:
            UserError: on all processes, naming what differs and on which.
        """
        values: list[str] = self.gather(repr(value))
        for rank, theirs in enumerate(values):
            if theirs != values[0]:
                raise UserError(
                    f"the processes disagree on {what}: process 0 has {_excerpt(values[0], theirs)}, process {rank} has "
                    f"{_excerpt(theirs, values[0])}; start all of them with the same program, arguments and files"
                )


def _excerpt(text: str, other: str, around: int = 60) -> str:
    """Cut out the part of a long text where it begins to differ from another."""
    same = len(os.path.commonprefix([text, other]))
    start, end = max(0, same - around), same + around
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def single(device: torch.device) -> Processes:
    """Describe one process alone."""
    return Processes(0, 1, 0, device)


@contextlib.contextmanager
def processes(device_name: str, timeout: float = TIMEOUT, barrier_timeout: float = BARRIER_TIMEOUT_S) -> Iterator[Processes]:
    """Connect the processes that torchrun started for as long as the block lasts; without torchrun, this process alone.

    An error in the block of one process ends the block of all: the others, which wait for it, raise what it has said.

    Args:
        device_name: as for `choose_device`; with several processes each takes the GPU of its local rank.
        timeout: seconds after which waiting for the others is an error,
        barrier_timeout: and where one of them may do something alone. One that is gone is noticed at once.

    Raises:
        UserError: the environment lacks what torchrun sets, the processes did not find each other, there are not enough GPUs, or
            another process failed or is gone.
    """
    around = surroundings(os.environ)
    rank, world_size, local_rank = around.rank, around.world_size, around.local_rank
    if world_size == 1:
        yield single(choose_device(device_name))
        return
    device = own_device(device_name, local_rank)
    limit = datetime.timedelta(seconds=timeout)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=limit))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
        patient = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=barrier_timeout))
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"process {rank} did not find the other {world_size - 1} within {timeout:g} s ({first}); start them again"
        ) from None
    notes, world = dist.PrefixStore("ended", store), dist.group.WORLD
    assert world is not None
    aborted = threading.Event()
    try:
        with abort_on_peer_exit(notes, world) if device.type == "cuda" else contextlib.nullcontext(aborted) as aborted:
            yield Processes(rank, world_size, local_rank, device, patient)
    except BaseException as error:
        own = f"{rank} {_describe(error)}"
        try:
            first = notes.compare_set("why", "", own).decode()
        except RuntimeError:  # whoever keeps the notes is gone
            first = own
        if device.type == "cuda":
            world.abort()  # else NCCL would first finish what the others may never join in
        dist.destroy_process_group()  # whoever waits for this process is let go
        with contextlib.suppress(RuntimeError):
            _leave(notes, rank, world_size)
        if not _lost_contact(error) and not aborted.is_set():
            raise
        culprit, why = first.split(" ", 1)
        if int(culprit) != rank:
            raise UserError(f"process {culprit} ended the run: {why}") from error
        raise UserError(
            f"process {rank} lost the others: one of them was ended, or did nothing for too long; its own output says why; "
            "the same command goes on from the last checkpoint"
        ) from error
    dist.destroy_process_group()


@contextlib.contextmanager
def abort_on_peer_exit(notes: dist.Store, group: dist.ProcessGroup, period: float = 1.0) -> Iterator[threading.Event]:
    """Give up what is waited for in `group` as soon as another process has noted that the run ended, while the block lasts.

    For GPUs: a collective waits for a process that is gone until NCCL's timeout. After an abort its results are garbage, and the next
    collective raises.

    Args:
        notes: of the processes, with "why" when one has ended.
        group: all of them.
        period: seconds between two looks.

    Yields:
        Whether it gave up: what goes wrong after that is a consequence.
    """
    done, aborted = threading.Event(), threading.Event()
    own = notes.clone()  # type: ignore[attr-defined]  # torch's stubs lack it; a connection of its own: the other may be waiting

    def watch() -> None:
        while not done.wait(period):
            try:
                ended = own.check(["why"])
            except RuntimeError:  # whoever keeps the notes is gone
                ended = True
            if ended:
                aborted.set()
                group.abort()
                return

    watcher = threading.Thread(target=watch, name="abort on peer exit", daemon=True)
    watcher.start()
    try:
        yield aborted
    finally:
        done.set()
        watcher.join(10)  # it may be asking one that is gone


def own_device(name: str, local_rank: int) -> torch.device:
    """Choose the device of one of several processes on a machine, made current if it is a GPU.

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
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _leave(notes: dist.Store, rank: int, world_size: int, timeout: float = 10.0) -> None:
    """Note that this process knows why the run ended; the first may keep the notes, so it waits until the others know, too."""
    gone, end = notes.add("count", 1), time.monotonic() + timeout
    while rank == 0 and gone < world_size and time.monotonic() < end:
        time.sleep(0.05)
        gone = notes.add("count", 0)


def shard(model: WorldModel, processes: Processes) -> None:
    """Put a model on its device, of which this process keeps its part of every weight, a `DTensor` from now on; one process keeps all.

    To be called before optimizers are built. Weights and buffers become those that the main process has on its CPU; the others'
    may be on the meta device, so that a model takes memory once and passes through the devices a tensor at a time. Every block is a
    unit that is gathered by itself, the rest is another. Buffers stay whole. A sharded model has `loss` and nothing else: to draw
    samples, fill a model on the main process with `whole_model`.
    """
    if processes.world_size == 1:
        model.to(processes.device)
        return
    whole = dict(_named_tensors(model))
    model.to("meta")
    _cut(model, init_device_mesh(processes.device.type, (processes.world_size,)))
    model.to_empty(device=processes.device)
    for name, place in _named_tensors(model):
        full = whole.pop(name)
        full = full.to(processes.device) if processes.is_main else torch.empty_like(full, device=processes.device)
        dist.broadcast(full, src=0)
        if isinstance(place, DTensor):
            full = distribute_tensor(full, place.device_mesh, place.placements, src_data_rank=None)
        local(place).copy_(local(full))


def replicate(model: WorldModel, processes: Processes) -> None:
    """Put a model on its device, whole on every process, with the weights and buffers of the main process's; see `shard`."""
    if processes.is_main or not any(tensor.is_meta for _, tensor in _named_tensors(model)):
        model.to(processes.device)
    else:
        model.to_empty(device=processes.device)
    if processes.world_size > 1:
        for _, tensor in _named_tensors(model):
            dist.broadcast(tensor, src=0)


def sum_gradients(model: nn.Module, processes: Processes) -> None:
    """Add up the gradients of a replicated model over all processes; a sharded model's are summed already."""
    if processes.world_size == 1 or isinstance(model, FSDPModule):
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = processes.sum(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)])


def _cut(model: WorldModel, mesh: DeviceMesh) -> None:
    """Make every block, and the rest, a unit of FSDP2."""
    for module in [*model.trunk.blocks, model]:
        unit = cast(FSDPModule, fully_shard(module, mesh=mesh, shard_placement_fn=partial(_axis, size=mesh.size())))
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows sums only
        if hasattr(unit, "set_reduce_scatter_unused_params"):  # from torch 2.13; `loss` gives every weight a gradient anyway
            unit.set_reduce_scatter_unused_params(True)
    register_fsdp_forward_method(model, "loss")


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and buffers, also those that no checkpoint holds, without their graph."""
    return ((name, tensor.detach()) for name, tensor in chain(model.named_parameters(), model.named_buffers()))


def duplicate(model: Model) -> Model:
    """Copy a model; a sharded one in the same parts, without its ever being whole."""
    if not isinstance(model, FSDPModule):
        return copy.deepcopy(model)
    assert isinstance(model, WorldModel), "only `shard` makes sharded models"
    first = next(model.parameters())
    assert isinstance(first, DTensor)
    with torch.device("meta"):
        twin = WorldModel(model.config)
    _cut(twin, first.device_mesh)
    twin.to_empty(device=first.device)
    for (_, own), (_, other) in zip(_named_tensors(twin), _named_tensors(model), strict=True):
        local(own).copy_(local(other))
    return cast(Model, twin)


def _axis(weight: nn.Parameter, size: int) -> Shard | None:
    """Choose the axis to shard: rows for stacks with too few entries to share out evenly; `None` is the first axis."""
    by_rows = weight.ndim == 3 and weight.shape[0] % size > 0 and weight.shape[1] % size == 0
    return Shard(1) if by_rows else None


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters by name; a sharded model's parts, even right after a forward pass, when its root is gathered."""
    if isinstance(model, FSDPModule):
        model.reshard()
    return dict(model.named_parameters())


def whole_model(model: nn.Module) -> dict[str, Tensor]:
    """Gather weights and persistent buffers, whole, on the main process's CPU; empty on the others. All have to call it."""
    whole: dict[str, Tensor] = {}
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    for name, tensor in model.state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if is_main:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradient down to the norm `limit`, if it is longer.

    Returns:
        Its norm before, over all weights and processes: a number on the device, so that nobody waits for it here; 0 without one.
    """
    found = [p.grad for p in weights(model).values() if p.grad is not None]
    if not found:
        return torch.zeros(())
    gradients = [local(gradient) for gradient in found]
    norm = get_total_norm(gradients)
    if isinstance(found[0], DTensor):
        norm = norm.square()
        dist.all_reduce(norm, group=found[0].device_mesh.get_group())
        norm = norm.sqrt()
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
