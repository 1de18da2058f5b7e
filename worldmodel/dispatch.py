"""Tokens to experts and back: one sorted, dropless dispatch of static shapes, and the grouped matrix product that it runs on.

Axes: j tokens, k slots of a token, i = j k slots, g groups (the experts of a stack), d model width, h hidden width.

Nothing here waits for the device where the grouped product runs as one kernel (torch: bfloat16 on compute capability 9.0 and 10.0;
other GPUs of 8.0 or more get a loop over groups inside torch, for which the host reads their sizes): sorting, counting and gathering
have shapes that do not depend on who goes where. Rows behind the last group's end do not exist, since every slot has an expert.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from worldmodel.errors import UserError

GroupedBackend = Literal["auto", "grouped", "loop"]


@dataclass(frozen=True)
class Slots:
    """Where each slot of each token goes: an order of the slots by group, and the way back."""

    order: Tensor
    """(i,) int64: the slot that lies in each sorted row."""
    inverse: Tensor
    """(i,) int64: the sorted row of each slot."""
    ends: Tensor
    """(g,) int32: the sorted row after the last one of each group."""

    @classmethod
    def of(cls, groups: Tensor, num_groups: int) -> "Slots":
        """Order the slots by the group of every slot, integers (j, k) in 0..num_groups - 1."""
        ordered, order = groups.flatten().to(torch.int32).sort(stable=True)
        rows = torch.arange(len(order), device=order.device)
        inverse = torch.empty_like(order).scatter_(0, order, rows)
        every = torch.arange(num_groups, dtype=torch.int32, device=order.device)
        return cls(order, inverse, torch.searchsorted(ordered, every, right=True, out_int32=True))


def dispatch(
    x: Tensor, slots: Slots, gate_up: Tensor, down: Tensor, gates: Tensor | None = None, backend: GroupedBackend = "auto"
) -> Tensor:
    """Send each token to the SwiGLU experts of its slots, and add up what comes back, weighted by the gates.

    No token is dropped, however uneven the load. The gate is applied to the hidden values, which are fewer than the results.

    Args:
        x: (j, d) tokens.
        slots: where they go, k slots each.
        gate_up: (g, d, 2 h) first matrices of all experts.
        down: (g, h, d) second matrices.
        gates: (j, k) weights of what comes back; None for ones.
        backend: see `grouped_product`.

    Returns:
        (j, d), in autocast's dtype if it is on.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))  # before they are copied to their slots
    rows = _gather(x, slots.order, slots.inverse)  # (i, d)
    gate, up = grouped_product(rows, gate_up, slots.ends, backend).chunk(2, dim=-1)  # (i, h) each
    hidden = F.silu(gate) * up
    if gates is not None:
        hidden = hidden * rearrange(gates.flatten().index_select(0, slots.order).to(hidden.dtype), "i -> i 1")
    result = grouped_product(hidden, down, slots.ends, backend)  # (i, d)
    return _sum_slots(_gather(result, slots.inverse, slots.order), len(x))


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor, backend: GroupedBackend = "auto") -> Tensor:
    """Multiply each run of rows by its own matrix.

    Args:
        rows: (i, d), sorted by group.
        weights: (g, d, h).
        ends: (g,) int32 cumulative counts; the last is i.
        backend: grouped: one `torch.nn.functional.grouped_mm`; loop: a product per group, whose sizes the host waits for on CUDA;
            auto: the grouped one where it is supported.

    Returns:
        (i, h), in autocast's dtype if it is on.

    Raises:
        UserError: the grouped product is asked for where there is none.
    """
    if torch.is_autocast_enabled(rows.device.type):
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, weights = rows.to(dtype), weights.to(dtype)
    grouped = backend != "loop" and supports_grouped(rows, weights)
    if backend == "grouped" and not grouped:
        raise UserError(
            f"there is no grouped product for {rows.dtype} of sizes {tuple(weights.shape[1:])} on {rows.device.type}: use sizes that "
            "are multiples of 16 bytes and on CUDA bfloat16, or the loop (moe.backend auto or loop)"
        )
    if torch.compiler.is_compiling() and not (grouped and rows.is_cuda):
        return torch.ops.worldmodel.grouped_product(rows, weights, ends, grouped)
    return _product(rows, weights, ends, grouped)


def supports_grouped(rows: Tensor, weights: Tensor) -> bool:
    """Tell whether `grouped_mm` takes these: rows of 16 bytes' multiple, and bfloat16 on CUDA."""
    step = 16 // rows.element_size()
    aligned = rows.shape[1] % step == 0 and weights.shape[2] % step == 0
    return aligned and (not rows.is_cuda or rows.dtype == torch.bfloat16)


def _product(rows: Tensor, weights: Tensor, ends: Tensor, grouped: bool) -> Tensor:
    if grouped:
        return F.grouped_mm(rows, weights, offs=ends)
    return torch.cat([rows[a:b] @ weights[g] for g, (a, b) in enumerate(_runs(ends))])


def _runs(ends: Tensor) -> list[tuple[int, int]]:
    bounds = [0, *ends.tolist()]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


@torch.library.custom_op("worldmodel::gather", mutates_args=())
def _gather(x: Tensor, slots: Tensor, back: Tensor) -> Tensor:
    """Gather the row of x (j, d) for each of the slots (i,), k in turn belonging to one row; `back` is the inverse of `slots`.

    A plain gather's gradient adds rows one by one, in no fixed order on CUDA and in their own precision; this one gathers as well.
    """
    per_row = len(slots) // max(1, len(x))
    return x.index_select(0, slots // per_row if per_row > 1 else slots)


@_gather.register_fake
def _(x: Tensor, slots: Tensor, back: Tensor) -> Tensor:
    return x.new_empty(slots.shape[0], x.shape[1])


def _keep_way_back(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])
    ctx.rows = len(inputs[0])


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (back,) = ctx.saved_tensors
    return _sum_slots(grad.index_select(0, back), ctx.rows), None, None


_gather.register_autograd(_gather_backward, setup_context=_keep_way_back)


def _sum_slots(rows: Tensor, tokens: int) -> Tensor:
    """Add up the k rows of each token: (j k, d) -> (j, d)."""
    return rows if len(rows) == tokens else reduce(rows, "(j k) d -> j d", "sum", j=tokens)


# The compiler traces `grouped_mm` of bfloat16 only, and no loop over sizes that it does not know. To a compiled graph on a CPU, or
# with float32, the product is therefore one operation that it does not look into, with a gradient of its own.


@torch.library.custom_op("worldmodel::grouped_product", mutates_args=())
def _opaque_product(rows: Tensor, weights: Tensor, ends: Tensor, grouped: bool) -> Tensor:
    return _product(rows, weights, ends, grouped)


@torch.library.custom_op("worldmodel::grouped_weight_gradient", mutates_args=())
def _opaque_weight_gradient(rows: Tensor, grad: Tensor, ends: Tensor, grouped: bool) -> Tensor:
    """Multiply rows (i, d) by grad (i, h), summed over the rows of each group: (g, d, h)."""
    if grouped:
        return F.grouped_mm(rows.t(), grad, offs=ends)
    return torch.stack([rows[a:b].t() @ grad[a:b] for a, b in _runs(ends)])


@_opaque_product.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor, grouped: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[2])


@_opaque_weight_gradient.register_fake
def _(rows: Tensor, grad: Tensor, ends: Tensor, grouped: bool) -> Tensor:
    return rows.new_empty(ends.shape[0], rows.shape[1], grad.shape[1])


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.grouped = inputs[3]


def _opaque_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    rows, weights, ends = ctx.saved_tensors
    grad = grad.contiguous()
    back = torch.ops.worldmodel.grouped_product(grad, weights.transpose(1, 2), ends, ctx.grouped)
    return back, torch.ops.worldmodel.grouped_weight_gradient(rows, grad, ends, ctx.grouped), None, None


_opaque_product.register_autograd(_opaque_backward, setup_context=_keep_inputs)
