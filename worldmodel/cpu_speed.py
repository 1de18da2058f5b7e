"""How fast and how exactly this CPU multiplies, in each way that torch knows: measured once, then kept.

What instructions a CPU has does not say which number format is faster on it: that depends on the library that torch was built with,
on the number of threads, and on what the instructions do inside. So a small block is run forward and backward, in the sizes of the
`tiny` preset, in each way in turn; it takes about a second. What was found lies in the cache folder, per CPU, version of torch and
number of threads, so that a run that goes on computes as it did before.

    default      float32 as torch does it (mostly MKL, which on AMD does not use the widest instructions)
    onednn       float32 with the products sent to oneDNN. torch has no switch for that but the one that also allows bfloat16 inside;
                 on a CPU without AMX oneDNN then computes in float32 all the same, which is checked here against float64
    bfloat16     autocast
"""

import contextlib
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.datasets.atomic import write_atomic
from worldmodel.datasets.records import parse_json
from worldmodel.home import cache_dir

Way = Literal["default", "onednn", "bfloat16"]
ROUNDS, BUDGET = 6, 0.5
"""Most turns of each way, and the seconds after which none begins; two there are in any case."""
ROWS, LENGTH, WIDTH, HEADS, HIDDEN = 4, 152, 192, 6, 512
EXACT = 2e-6
"""Largest relative error of float32 products against float64: sums of some hundred numbers have 5e-7, factors in bfloat16 3e-3."""
WORTH = 0.93
"""A way other than the default is taken where it needs at most this share of its time: two that are alike must not take turns."""


@dataclass(frozen=True)
class CPUSpeed:
    """What was measured; a way that this CPU cannot take has infinite seconds and error."""

    seconds: dict[Way, float]
    """Of a block, forward and backward, at best."""
    error: dict[Way, float]
    """Relative error of its results, compared with float64."""

    @property
    def bfloat16(self) -> bool:
        """Whether bfloat16 is the fastest."""
        return self.seconds["bfloat16"] < WORTH * min(self.seconds["default"], self.seconds["onednn"])

    @property
    def onednn(self) -> bool:
        """Whether float32 products through oneDNN are faster, and still float32."""
        return self.error["onednn"] <= EXACT and self.seconds["onednn"] < WORTH * self.seconds["default"]


def cpu_speed() -> CPUSpeed:
    """Return the speed of this CPU at its present number of threads: from memory, else from the cache folder, else measured."""
    return _speed(torch.get_num_threads())


@functools.cache
def _speed(threads: int) -> CPUSpeed:
    path = cache_dir() / "cpu_speed" / f"{_machine(threads)}.json"
    found = _read(path)
    if found is None:
        found = measure()
        with contextlib.suppress(OSError):  # it is measured again, then
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(asdict(found)).encode())
    return found


def _machine(threads: int) -> str:
    """Describe what a measurement is valid for."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0] if info.exists() else ""
    kept = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    cpu = [line for line in first.splitlines() if line.partition("\t")[0] in kept]
    about = (cpu, torch.__version__, torch.backends.cpu.get_cpu_capability(), threads, ROWS, LENGTH, WIDTH, HEADS, HIDDEN)
    return hashlib.blake2b(repr(about).encode(), digest_size=12).hexdigest()


def _read(path: Path) -> CPUSpeed | None:
    """Read an earlier measurement; None where it is missing or damaged."""
    try:
        found = CPUSpeed(**parse_json(path.read_text()))
        numbers = [table[way] for table in (found.seconds, found.error) for way in get_args(Way)]
        return found if all(isinstance(x, float) and x >= 0 for x in numbers) and found.seconds["default"] > 0 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def measure(timer: Callable[[], float] = time.perf_counter) -> CPUSpeed:
    """Run the block in every way, taking turns."""
    inputs = _inputs()
    exact = [tensor.float() for tensor in _run([x.double() for x in inputs], "default")]
    seconds: dict[Way, float] = dict.fromkeys(get_args(Way), math.inf)
    error: dict[Way, float] = dict.fromkeys(get_args(Way), math.inf)
    ways = [way for way in get_args(Way) if _can(way)]
    for way in ways:
        error[way] = max(_distance(a, b) for a, b in zip(_run(inputs, way), exact, strict=True))
    began = timer()
    for turn in range(ROUNDS):
        if turn > 1 and timer() - began > BUDGET:
            break
        for way in ways:
            start = timer()
            _run(inputs, way)
            seconds[way] = min(seconds[way], timer() - start)
    return CPUSpeed(seconds, error)


def _can(way: Way) -> bool:
    """Tell whether a way exists here; bfloat16 without instructions for it is up to 100 times slower, and not tried."""
    if way == "bfloat16":
        return multiplies_bfloat16()
    if way == "onednn":
        return torch.backends.mkldnn.is_available() and hasattr(torch.backends.mkldnn, "matmul")
    return True


def multiplies_bfloat16() -> bool:
    """Tell whether the CPU has instructions for products of bfloat16."""
    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.13
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b).norm() / b.norm())


def _inputs() -> list[Tensor]:
    """Make tokens, the matrices of a block, and the gradient of its output."""
    generator = torch.Generator().manual_seed(0)
    tokens = (ROWS, LENGTH, WIDTH)
    shapes = [tokens, (2 * WIDTH, WIDTH), (WIDTH, WIDTH), (2 * HIDDEN, WIDTH), (WIDTH, HIDDEN), tokens]
    return [torch.randn(shape, generator=generator) * (1.0 if len(shape) == 3 else shape[1] ** -0.5) for shape in shapes]


def _run(inputs: list[Tensor], way: Way) -> list[Tensor]:
    """Compute output and gradients of a block with one layer of attention and one feed-forward."""
    *leaves, gradient = inputs
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    casting = torch.autocast("cpu", torch.bfloat16) if way == "bfloat16" else contextlib.nullcontext()
    with torch.enable_grad(), float32_products(way == "onednn"):
        with casting:
            out = _block(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, gradient.to(out.dtype))]


def _block(x: Tensor, qkv: Tensor, out: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    head = WIDTH // HEADS
    q, k, v = F.linear(x, qkv).view(ROWS, LENGTH, 2 * HEADS, head).transpose(1, 2).split([HEADS, HEADS // 2, HEADS // 2], dim=1)
    q = q.reshape(ROWS, HEADS // 2, 2 * LENGTH, head)  # two heads share their keys
    seen = (q @ k.transpose(-1, -2) * head**-0.5).softmax(-1) @ v
    x = x + F.linear(seen.reshape(ROWS, LENGTH, WIDTH), out)
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, down)


@contextlib.contextmanager
def float32_products(onednn: bool) -> Iterator[None]:
    """Send float32 products of the CPU to oneDNN while the block lasts, in all threads; or leave everything as it is."""
    if not onednn:
        yield
        return
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made while torch is imported
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before
