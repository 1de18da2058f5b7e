"""`worldmodel benchmark train`: what limits a training step, as ratios of implementations measured in turn, with their targets."""

import gc
import logging
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from worldmodel.attention import AttentionMask, attend, prepare_mask
from worldmodel.benchmarks.checks import checks
from worldmodel.benchmarks.config import BenchmarkConfig
from worldmodel.benchmarks.steps import BATCHES, BenchmarkRow, Ratio, Step, Training, packed, random, ratio
from worldmodel.compilation import missing_compiler
from worldmodel.cpu_speed import float32_products
from worldmodel.errors import UserError
from worldmodel.flops import LARGE, MEDIUM, Uses, matmul_rate, parameter_counts, training_flops
from worldmodel.precision import choose_device, choose_onednn, has_fast_bfloat16
from worldmodel.presets import PRESETS
from worldmodel.system_info import device_facts

logger = logging.getLogger(__name__)


def training_tables(config: BenchmarkConfig, machine: dict[str, Any]) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Measure the parts that are asked for; yield each row or table as soon as it is measured.

    Args:
        config: how long, on which device, and which parts.
        machine: gets the device and torch's facts.

    Raises:
        UserError: some parts failed; this comes last, behind the tables of all others.
    """
    device = choose_device(config.device)
    preset = PRESETS[config.preset or ("base" if device.type == "cuda" else "tiny")]()
    run = Training(preset, device, config.repeats, config.seconds, config.steps, config.episodes, config.workers)
    machine |= device_facts(device)
    measures: dict[str, Callable[[Training], Iterator[tuple[str, list[BenchmarkRow]]]]] = {
        "checks": checks,
        "speed": speed,
        "attention": attention,
        "compilation": compilation,
        "optimizers": optimizers,
        "precision": precision,
        "waiting": waiting,
    }
    failed = []
    with float32_products(choose_onednn(device)):  # as the training loop does
        for part in tqdm(config.parts, unit="part", desc="train", disable=None):
            try:
                yield from measures[part](run)
            except Exception as error:  # whatever it is: the other parts can be measured all the same
                logger.exception("the part %s failed", part)
                failed.append(part)
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                yield "failed", [{"part": part, "error": textwrap.shorten(said, 300)}]
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
    if failed:
        raise UserError(f"{', '.join(failed)} could not be measured, see the table of what failed; all other figures stand")


def speed(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Compare steps of the dense model and of the mixture of experts with a matrix product, and measure the mask's share of a step."""
    side = LARGE if run.device.type == "cuda" else MEDIUM
    a, b = (torch.randn(side, side, device=run.device).to(run.dtype) for _ in range(2))
    steps: dict[str, Step] = {"dense": run.step("dense"), "moe": run.step("moe")}
    batch = run.batches[0].to(run.device)
    sides: dict[str, Callable[[], None]] = {"matmul": lambda: _run(torch.mm, a, b), **steps}
    sides["mask"] = lambda: _run(prepare_mask, batch.document_id, batch.frame_id, "auto", run.dtype)
    found = run.turns(sides)
    product = 2.0 * side**3
    operations = {kind: sum(training_flops(s.config, x) for x in run.batches) / BATCHES for kind, s in steps.items()}
    tokens = sum(Uses.of(x, steps["moe"].config.frame_tokens).tokens for x in run.batches) / BATCHES
    yield "steps", [step_row(run, kind, found[kind], operations[kind], tokens, steps[kind]) for kind in steps]
    note = f"matrix product of {side} x {side}, {run.dtype}: {product / min(found['matmul']) / 1e9:.0f} GFLOP/s"
    shares = {kind: ratio(found["matmul"], found[kind], operations[kind] / product) for kind in steps}
    yield (
        "speed",
        [
            run.row("dense FLOP/s / matmul", shares["dense"], run.target(">= 0.50"), note),
            run.row("MoE FLOP/s / matmul", shares["moe"], run.target(">= 0.38")),
            run.row("MoE tokens/s / dense, with AdamW", ratio(found["dense"], found["moe"]), run.target(">= 0.76", ">= 0.55")),
            run.row("mask / MoE step", ratio(found["mask"], found["moe"]), "<= 0.01", "built once, before the first block"),
        ],
    )
    yield "matmul", list(matmul_rows(run))


def _run(function: Callable[..., object], *args: Any) -> None:
    """Call a function and drop its result."""
    function(*args)


def step_row(run: Training, kind: str, seconds: list[float], operations: float, tokens: float, step: Step) -> BenchmarkRow:
    """Describe a step in one row: shapes and speed."""
    counts, packing = parameter_counts(step.config), run.preset.train.packing
    median = sorted(seconds)[len(seconds) // 2]
    row: BenchmarkRow = {
        "model": kind,
        "weights": counts.total,
        "active": counts.active,
        "rows x length": f"{packing.rows} x {packing.length}",
    }
    row |= {"dtype": str(run.dtype).removeprefix("torch."), "compiled": run.compiled, "ms/step": 1000 * median}
    row |= {"filled tokens/s": tokens / median, "GFLOP/step": operations / 1e9, "GFLOP/s": operations / median / 1e9}
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
        step()
        row["peak MiB"] = torch.cuda.max_memory_allocated(run.device) / 2**20
    return row


def matmul_rows(run: Training) -> Iterator[BenchmarkRow]:
    """Measure the best rates of a large matrix product."""
    for dtype in (torch.bfloat16, torch.float32):
        if run.device.type == "cuda" or dtype == torch.float32 or has_fast_bfloat16(run.device):
            rate = matmul_rate(run.device, dtype, run.seconds)
            yield {"matrix product": str(dtype).removeprefix("torch."), "GFLOP/s": rate / 1e9, "note": ""}
        else:
            yield {"matrix product": "bfloat16", "GFLOP/s": None, "note": NO_BFLOAT16}


NO_BFLOAT16 = "this CPU multiplies bfloat16 without instructions for it"


def attention(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Compare ways to compute attention under the hybrid mask."""
    packing = run.preset.train.packing
    if run.device.type == "cpu":
        found = run.turns({name: attention_side(run, name, packing.length) for name in ("softmax", "sdpa")})
        yield "attention", [run.row(f"softmax speed / SDPA, {packing.length} positions", ratio(found["sdpa"], found["softmax"]))]
        yield "attention", [run.row("FlexAttention speed / dense-mask SDPA", None, "", "FlexAttention has no backward on a CPU")]
        return
    found = run.turns({"flex": run.step("dense"), "sdpa": run.step("dense", "sdpa")})
    target = ">= 1.5" if packing.length >= 4096 else ""
    yield "attention", [run.row("step speed with FlexAttention / with dense-mask SDPA", ratio(found["sdpa"], found["flex"]), target)]
    for length in (packing.length, 2 * packing.length):
        found = run.turns({name: attention_side(run, name, length) for name in ("flex", "sdpa", "causal")})
        same = ratio(found["flex"], found["causal"], 1 / allowed_share(run, length))  # time for as many pairs
        rows = [run.row(f"FlexAttention speed / dense-mask SDPA, {length} positions", ratio(found["sdpa"], found["flex"]))]
        yield "attention", [*rows, run.row(f"FlexAttention time / causal flash at equal pairs, {length} positions", same, "<= 1.4")]


def allowed_share(run: Training, length: int) -> float:
    """Return the pairs that the hybrid mask allows, as a share of those of a causal mask of whole rows."""
    batch = packed(run, length)
    return Uses.of(batch, run.model("dense").frame_tokens).pairs / (len(batch.token_id) * length * (length + 1) / 2)


def attention_side(run: Training, backend: Literal["softmax", "sdpa", "flex", "causal"], length: int) -> Callable[[], None]:
    """Make a call that runs forward and backward through one layer's attention."""
    batch, trunk = packed(run, length).to(run.device), run.model("dense").trunk
    mask = AttentionMask("sdpa", None) if backend == "causal" else prepare_mask(batch.document_id, batch.frame_id, backend, run.dtype)
    shape = (len(batch.token_id), trunk.heads, length, trunk.width // trunk.heads)
    q, k, v = (random(run, shape[0], heads, *shape[2:]) for heads in (trunk.heads, trunk.kv_heads, trunk.kv_heads))
    weight = torch.randn(shape, device=run.device, dtype=run.dtype)

    def side() -> None:
        if backend == "causal":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            out = attend(q, k, v, mask)
        torch.autograd.grad(out, (q, k, v), weight)

    return side


def compilation(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Compare compiled blocks with eager ones."""
    missing = missing_compiler(run.device)
    if missing:
        yield "compilation", [run.row("compiled step speed / eager", None, "", missing)]
        return
    for kind in ("dense", "moe") if run.device.type == "cuda" else ("dense",):
        found = run.turns({name: run.step(kind, compiled=name == "compiled") for name in ("compiled", "eager")})
        yield "compilation", [run.row(f"compiled step speed / eager, {kind}", ratio(found["eager"], found["compiled"]))]


def optimizers(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Compare Muon with AdamW on the mixture of experts, and the mixture with the dense model where both use Muon."""
    muon = run.step("moe", optimizer="muon")
    found = run.turns({"adamw": run.step("moe"), "muon": muon, "dense": run.step("dense", optimizer="muon")})
    with FlopCounterMode(display=False) as own:
        muon.update()
    share = own.get_total_flops() / training_flops(muon.config, run.batches[0])
    note = f"Muon adds {share:.0%} to the step's operations: it works on all experts, whatever the size of the batch"
    yield (
        "optimizers",
        [
            run.row("Muon step time / AdamW, MoE", ratio(found["muon"], found["adamw"]), "<= 1.13", note),
            run.row("MoE tokens/s / dense, with Muon", ratio(found["dense"], found["muon"]), run.target(">= 0.76", ">= 0.55")),
        ],
    )


def precision(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Compare bfloat16 with float32."""
    name, target = "bfloat16 step speed / float32, dense", run.target("", ">= 2")
    if not has_fast_bfloat16(run.device):
        yield "precision", [run.row(name, None, target, NO_BFLOAT16)]
        return
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    found = run.turns({name: run.step("dense", dtype=dtype) for name, dtype in types.items()})
    yield "precision", [run.row(name, ratio(found["float32"], found["bfloat16"]), target)]


def waiting(run: Training) -> Iterator[tuple[str, list[BenchmarkRow]]]:
    """Measure what a step of real pretraining waits for data."""
    from worldmodel.benchmarks.waiting import waiting_rows

    workers = run.workers if run.device.type == "cuda" else 0
    preset = replace(run.preset, train=replace(run.preset.train, device=str(run.device)))
    with tempfile.TemporaryDirectory() as folder:
        (row,) = waiting_rows(Path(folder), run.episodes, run.steps, [workers], preset)
    share = Ratio((row["waiting, later"],))
    yield "waiting", [row]
    yield "data", [run.row("waiting for data / step", share, "<= 0.01", f"mean of {run.steps} steps, the first ten left out")]
