"""Muon: momentum whose matrix updates are orthogonalized (Jordan 2024; arXiv 2502.16982), for matrices and stacks of matrices.

`torch.optim.Muon` takes only 2-D parameters and always iterates in bfloat16, which a CPU without bfloat16 units runs about a
hundred times slower than float32; this one also takes stacks (e, rows, columns) and weights that are sharded, and orthogonalizes in
another way on a CPU.

All matrices of one shape are one batch, whatever weights they belong to. Of sharded weights, a stack whose entries are
whole is orthogonalized where it lies; matrices whose rows are spread over the processes are dealt out, each process gets the whole
of its share, and sends the rows back: two all-to-alls, and no product is computed twice.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from worldmodel.training.distributed import local

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
CONSTANT, LINEAR, RESIDUE, POLE = 2.83719725, -2.18988893, 0.04333567, 2.95613962e-4
"""Of the best x (constant + linear x^2 + residue / (x^2 + pole)) on [0.005, 1]: within 31 % of 1."""
BATCH_NUMBERS = 2**27
"""Numbers that one batched iteration takes at most (half a gigabyte of float32), so that a large model needs no second copy."""
CACHE_NUMBERS = 2**18
"""And on a CPU (a megabyte), so that all steps find their matrices in the cache."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrix: singular values end near 1, within about 30 %.

    On a CPU by `rational`, which takes a third of the operations; else by `newton_schulz`, which is products alone.

    Args:
        matrix: (..., rows, columns).
    """
    rows, columns = matrix.shape[-2:]
    x = matrix.reshape(-1, rows, columns)
    if x.device.type == "cpu" and x.dtype != torch.bfloat16:
        parts = x.split(max(1, CACHE_NUMBERS // (rows * columns)))
        x = rational(x) if len(parts) == 1 else torch.cat([rational(part) for part in parts])
    elif rows > columns:
        x = newton_schulz(x.transpose(1, 2)).transpose(1, 2)
    else:
        x = newton_schulz(x)
    return x.reshape(matrix.shape)


def rational(x: Tensor) -> Tensor:
    """Multiply by a function of G = X X^T (or X^T X, if that is smaller): constant + linear G + residue (G + pole)^-1.

    Singular values from 0.005 to 1 times the norm (sum of s^4)^1/4 end within 31 % of 1, smaller ones are multiplied by up to 149. The
    norm, for which G is there anyway, lies between the largest of them and the Frobenius norm, and nearer to the former. The pole is
    far above G's rounding error, so that Cholesky's factor exists.

    Args:
        x: (k, rows, columns) of float32 or float64.
    """
    tall = x.shape[1] > x.shape[2]
    gram = x.transpose(1, 2) @ x if tall else x @ x.transpose(1, 2)
    size = gram.norm(dim=(1, 2), keepdim=True) + 1e-14
    gram.div_(size)
    factor = gram.clone()
    factor.diagonal(dim1=1, dim2=2).add_(POLE)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(factor).L)
    gram.mul_(LINEAR).add_(inverse, alpha=RESIDUE).diagonal(dim1=1, dim2=2).add_(CONSTANT)
    gram.mul_(size.rsqrt())
    return x @ gram if tall else gram @ x


def newton_schulz(x: Tensor, steps: int = 5) -> Tensor:
    """Apply the Newton-Schulz iteration.

    A step multiplies X by P = a + b G + c G^2 with G = X X^T. Where X is at least twice as long as wide, and in float32, the steps run
    on the small side alone: G becomes P G P, the P are multiplied up, and X is multiplied once, at the end. In bfloat16 that loses
    too much of G.

    Args:
        x: (k, rows, columns), no taller than wide.
        steps: iterations of the quintic.
    """
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    on_gram = x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]
    return _iterate_gram(x, steps) if on_gram else _iterate(x, steps)


def _iterate(x: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_gram(x: Tensor, steps: int) -> Tensor:
    a, b, c = COEFFICIENTS
    gram = x @ x.transpose(1, 2)
    product = torch.eye(x.shape[1], device=x.device).expand_as(gram)
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product if step else factor
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product @ x


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum with Nesterov look-ahead and decoupled weight decay.

    An update has singular values near 1, times max(1, fan-out / fan-in) ** 0.5 (Jordan 2024), times the rate: for a given shape ratio
    the change of a layer's output does not depend on its width (arXiv 2310.17813), so the rate carries over between widths. The
    other rule, 0.2 * max(rows, columns) ** 0.5 (arXiv 2502.16982), matches the size of AdamW's updates instead, so that both can share
    a rate, which then does depend on the width. A matrix is (fan-out, fan-in), an entry of a stack (fan-in, fan-out).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iteration_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build the optimizer; `iteration_dtype`: on a GPU bfloat16 is enough, and faster; a CPU keeps to float32."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.iteration_dtype = iteration_dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim not in (2, 3):
                    raise ValueError(f"Muon takes matrices and stacks of matrices, got shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one update; `closure` is not supported."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            for parameter in moved:
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            weights, gradients = [local(p) for p in moved], [local(p.grad) for p in moved]
            momenta = [local(self.state[p]["momentum"]) for p in moved]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            dtype = torch.float32 if ahead[0].device.type == "cpu" else self.iteration_dtype
            updates = orthogonalise_all(moved, list(ahead), dtype)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            for parameter, weight, update in zip(moved, weights, updates, strict=True):
                weight.add_(update, alpha=-group["lr"] * update_scale(parameter))


def update_scale(parameter: Tensor) -> float:
    """Return the factor of an orthogonal update of this weight: max(1, fan-out / fan-in) ** 0.5."""
    first, second = parameter.shape[-2:]
    ratio = first / second if parameter.ndim == 2 else second / first
    return max(1.0, ratio) ** 0.5


def orthogonalise_all(owners: list[Tensor], tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Orthogonalize the matrices of many weights, those of a shape together.

    Args:
        owners: the weights; their shapes and, if they are `DTensor`s cut along one axis of one mesh, placements count.
        tensors: what to orthogonalize, per weight, this process's part of it.
        dtype: of the iteration.

    Returns:
        This process's parts, in the dtype of `tensors`.
    """
    alike: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    for i, owner in enumerate(owners):
        alike[(*owner.shape[-2:], _rows_are_spread(owner))].append(i)
    if dtype != torch.bfloat16 and all(owner.device.type == "cpu" and not isinstance(owner, DTensor) for owner in owners):
        return [orthogonalise(tensor.to(dtype)).to(tensor.dtype) for tensor in tensors]  # which are cut smaller than that anyway
    results = list(tensors)
    first = 0  # who gets the first of a shape's matrices: the odd ones out go round
    for (rows, columns, spread), chosen in alike.items():
        parts = [tensors[i].reshape(-1, *tensors[i].shape[-2:]) for i in chosen]
        matrices = torch.cat(parts).to(dtype)
        for batch in matrices.split(max(1, BATCH_NUMBERS // (rows * columns))):
            if spread:
                group = owners[chosen[0]].device_mesh.get_group()  # type: ignore[attr-defined]
                batch.copy_(orthogonalise_spread(batch, rows, group, first))
                first += len(batch)
            elif len(batch):
                batch.copy_(orthogonalise(batch))
        for i, part in zip(chosen, matrices.split([len(part) for part in parts]), strict=True):
            results[i] = part.reshape(tensors[i].shape).to(tensors[i].dtype)
    return results


def _rows_are_spread(owner: Tensor) -> bool:
    """Tell whether a process has some rows of every matrix, and not whole matrices.

    Raises:
        ValueError: the weight is cut in another way.
    """
    if not isinstance(owner, DTensor):
        return False
    places = owner.placements
    axis = places[0].dim if len(places) == 1 and isinstance(places[0], Shard) else None
    if axis not in range(owner.ndim - 1):
        raise ValueError(f"Muon takes weights cut along their first axis or by rows, got {places} of shape {tuple(owner.shape)}")
    return axis == owner.ndim - 2


def orthogonalise_spread(matrices: Tensor, rows: int, group: dist.ProcessGroup, first: int = 0) -> Tensor:
    """Orthogonalize matrices whose rows are spread over processes; all of them call it.

    Args:
        matrices: (k, rows here, columns), in order of rank as `torch.chunk` cuts them.
        rows: of a whole matrix.
        group: the processes.
        first: the process that has one more where k does not divide.

    Returns:
        (k, rows here, columns).
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    count, here, columns = matrices.shape
    shares = [count // size + ((i - first) % size < count % size) for i in range(size)]  # matrices that each process works on
    step = -(-rows // size)
    heights = [max(0, min(step, rows - i * step)) for i in range(size)]  # rows that each process holds
    outward, inward = [share * here * columns for share in shares], [shares[rank] * height * columns for height in heights]
    received = matrices.new_empty(sum(inward))
    dist.all_to_all_single(received, matrices.flatten(), inward, outward, group)
    parts = [part.view(shares[rank], height, columns) for part, height in zip(received.split(inward), heights, strict=True)]
    whole = torch.cat(parts, dim=1)
    if len(whole):
        whole = orthogonalise(whole)
    back = torch.cat([part.flatten() for part in whole.split(heights, dim=1)])
    returned = matrices.new_empty(matrices.numel())
    dist.all_to_all_single(returned, back, outward, inward, group)
    return returned.view_as(matrices)
