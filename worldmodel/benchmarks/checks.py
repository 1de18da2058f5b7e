"""Whether the fast implementations of a training step compute what the plain ones do, on the device that is measured."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from worldmodel.attention import Backend, attend, prepare_mask
from worldmodel.benchmarks.steps import BenchmarkRow, Training, packed, random
from worldmodel.dispatch import Slots, dispatch
from worldmodel.precision import has_fast_bfloat16


def checks(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Check attention and experts, values and gradients; yield one table."""
    rows = []
    limits = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
    types = [torch.float32] + [torch.bfloat16] * has_fast_bfloat16(run.device)
    fast: Backend = "flex" if run.device.type == "cuda" else "softmax"
    for dtype in types:
        rows.append(check(f"{fast} = SDPA, {dtype}", attention_error(run, fast, dtype), limits[dtype]))
        if run.device.type == "cpu" or dtype == torch.bfloat16:
            rows.append(check(f"grouped = looped experts, {dtype}", experts_error(run, dtype), limits[dtype]))
    if run.device.type == "cpu":
        rows.append(check("flex = SDPA", None, limits[torch.float32], "FlexAttention has no backward on a CPU"))
    yield "checks", rows


def check(name: str, error: float | None, limit: float, note: str = "") -> BenchmarkRow:
    """Compare a relative error with the largest one that is allowed."""
    equal = "" if error is None else "yes" if error <= limit else "no"
    return {"check": name, "relative error": error, "limit": limit, "equal": equal, "note": note}


def attention_error(run: Training, backend: Backend, dtype: torch.dtype) -> float:
    """Compute the largest relative error of attention and its gradients against SDPA in float32, on a packed batch with padding."""
    batch = packed(run, 384).to(run.device)
    batch = replace(batch, **{name: getattr(batch, name)[:4] for name in ("document_id", "frame_id")})
    b, n = batch.document_id.shape
    q, k, v = (random(run, b, heads, n, 64, dtype=dtype) for heads in (4, 2, 2))
    weight = torch.randn(b, 4, n, 64, device=run.device) * (batch.document_id >= 0)[:, None, :, None]
    results = []
    for name, to in ((backend, dtype), ("sdpa", torch.float32)):
        mask = prepare_mask(batch.document_id, batch.frame_id, name, to)
        out = attend(q.to(to), k.to(to), v.to(to), mask)
        results.append([out * (weight != 0), *torch.autograd.grad(out, (q, k, v), weight.to(to))])
    return relative_error(*results)


def experts_error(run: Training, dtype: torch.dtype) -> float:
    """Compute the largest relative error of grouped experts against a loop in float32; some experts get no token."""
    x, gate_up, down = random(run, 512, 64, dtype=dtype), random(run, 8, 64, 128, dtype=dtype), random(run, 8, 64, 64, dtype=dtype)
    slots = Slots.of(torch.randint(0, 6, (512, 2), device=run.device), 8)
    results = []
    for backend, to in (("grouped", dtype), ("loop", torch.float32)):
        out = dispatch(x.to(to), slots, gate_up.to(to), down.to(to), None, backend)  # type: ignore[arg-type]
        results.append([out, *torch.autograd.grad(out.float().square().mean(), (x, gate_up, down))])
    return relative_error(*results)


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Compute the largest ||found - expected|| / ||expected||; NaN counts as infinite."""
    pairs = [(a.detach().float(), b.detach().float()) for a, b in zip(found, expected, strict=True)]
    errors = [float((a - b).norm() / b.norm()) for a, b in pairs]
    return max(error if error == error else float("inf") for error in errors)
