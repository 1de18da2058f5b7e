"""Nothing in a training step or a dream waits for the device or mixes tensors of two, as far as this can be told without a GPU.

torch's meta device stands for the GPU: it knows shapes and no numbers, so what asks it for a number, or for a shape that depends on
one, fails as it would wait on a GPU. Tensors of two devices that meet are seen by `Watch`, since meta tensors do not mind. Left out
are autocast, which the meta device does not have, fused AdamW, and the kernels themselves.
"""

import contextlib
import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo import trace_rules
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.worldmodel import toys
from worldmodel import attention
from worldmodel.batch import PackedBatch
from worldmodel.compilation import compile_blocks
from worldmodel.flow import FlowConfig
from worldmodel.generation import draw_pictures
from worldmodel.losses import LossCounts, NoiseSample
from worldmodel.model import WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.rollout import Rollout, RolloutConfig
from worldmodel.training.distributed import local, single
from worldmodel.training.latent_cache import encode_frames
from worldmodel.training.muon import Muon
from worldmodel.training.optimizer import Ema
from worldmodel.training.samples import one_step_samples
from worldmodel.training.step import gradient, move, sample_noise_by_shard

GPU = torch.device("meta")
ONE_WAY = ("aten::_to_copy", "aten::copy_")  # a tensor to another device, which must be the GPU


class Watch(TorchDispatchMode):
    """Fails where tensors of two devices meet; numbers of the CPU may meet all others, as on CUDA."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        found = {x.device for x in tensors if x.ndim or x.device == GPU}
        if len(found) > 1 and not (func._schema.name in ONE_WAY and args[0].device == GPU):
            raise AssertionError(f"{func} of tensors on {sorted(map(str, found))}")
        out = func(*args, **(kwargs or {}))
        if GPU in found and any(isinstance(x, Tensor) and x.device != GPU for x in tree_leaves(out)):
            raise AssertionError(f"{func} waits for the device")
        return out


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the meta device has another way than CUDA, take that of CUDA; what it cannot do, a stand-in of the same shapes does."""

    def flex(q: Tensor, k: Tensor, v: Tensor, block_mask: Any, scale: float, enable_gqa: bool) -> Tensor:
        assert q.dtype == k.dtype == v.dtype and q.shape[-1] >= 16 and enable_gqa == (q.shape[1] != k.shape[1])
        assert block_mask.shape == (len(q), 1, q.shape[2], k.shape[2])
        index = torch.arange(q.shape[2], device=q.device)
        seen = block_mask.mask_mod(torch.zeros_like(index), index, index, index)
        assert all(getattr(block_mask, name).device == q.device for name in ("kv_indices", "full_kv_indices", "q_indices"))
        scores = q * k.repeat_interleave(q.shape[1] // k.shape[1], 1) * seen[:, None]
        return scores * v.repeat_interleave(q.shape[1] // k.shape[1], 1)

    trace_rules.get_torch_obj_rule_map()  # kept for good: made now, so that the compiler does not learn of the stand-ins
    monkeypatch.setattr(attention, "_flex_attention", lambda on_gpu: flex)
    monkeypatch.setattr(attention, "choose_backend", lambda device, n: "flex")
    product = F.grouped_mm  # on CUDA and meta, of bfloat16 alone
    bf16 = torch.bfloat16
    monkeypatch.setattr(F, "grouped_mm", lambda a, b, offs: product(a.to(bf16), b.to(bf16), offs=offs).to(a.dtype))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type="cuda": False)  # asked of meta, it raises
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    made = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": made())  # there is none for meta


on_meta = pytest.mark.usefixtures("gpu")


def on_gpu(module: Any) -> Any:
    return module.to(GPU)


@on_meta
def test_the_watch_sees_what_it_is_for() -> None:
    here, there = torch.zeros(3), torch.zeros(3, device=GPU)
    index = torch.zeros(2, dtype=torch.long)
    with Watch():
        assert (there + torch.tensor(1.0)).device == there.copy_(here).device == here.to(GPU).device == GPU
        for mixed in (lambda: here + there, lambda: there.index_select(0, index), lambda: there[index], lambda: here * there.sum()):
            with pytest.raises(AssertionError, match="of tensors on"):
                mixed()
        for wait in (there.sum().item, there.tolist, lambda: bool(there.any()), there.nonzero, there.cpu, lambda: there[there > 0]):
            with pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
                wait()


CASES: dict[str, tuple[FeedForwardKind, dict[str, Any]]] = {
    "shared": ("shared", {"time": "adaln", "positions": "sequence"}),
    "modality": ("modality", {"flow": FlowConfig(prediction="v"), "wide_head": 32}),
    "moe": ("moe", {"loss_balance": "centered", "wide_head": 64, "base_width": 16}),
}


def step(model: WorldModel, batch: PackedBatch) -> tuple[list[str], Tensor]:
    """As `Run.step`, up to the one place where it reads its losses."""
    latents = encode_frames(on_gpu(toys.codec()), batch.frames, GPU)
    noise_sample = sample_noise_by_shard(model, batch, 0, 0, range(toys.PACKING.data_shards), GPU)
    return gradient(model, [batch], latents, noise_sample, LossCounts.of(batch), torch.float32)


@on_meta
@pytest.mark.parametrize("case", CASES)
def test_a_step_neither_waits_nor_mixes_devices(case: str) -> None:
    kind, fields = CASES[case]
    model = on_gpu(toys.model(kind, **fields)).train()
    batch = toys.packer().batch(0)
    with Watch():
        names, sums = step(model, batch)
        loads = single(GPU).sum(model.trunk.loads())
        model.trunk.update_balance(loads)
        model.update_loss_balance(1.0, 2.0)
    assert names[0] == "total" and sums.device == GPU and sums.shape == (len(names),)
    assert all(p.grad is not None and p.grad.device == GPU for p in model.parameters())
    assert loads.shape == (2 if kind == "moe" else 0, 2, 6 if kind == "moe" else 0)


@on_meta
def test_weights_are_moved_and_averaged_on_the_device() -> None:
    model = on_gpu(toys.model("moe")).train()
    matrices = [p for p in model.trunk.parameters() if p.ndim > 1]
    with Watch():
        average, muon = Ema(model, 0.9), Muon([{"params": matrices}])
        step(model, toys.packer().batch(0))
        muon.step()
        average.update(model, 0)
    assert {local(p).device for p in average.model.parameters()} == {GPU}
    assert all(muon.state[p]["momentum"].device == GPU for p in matrices)


@on_meta
def test_a_batch_leaves_its_frames_where_they_are() -> None:
    """They are most of its bytes, and the model sees their latents."""
    batch = toys.everything(toys.stem_model())
    moved = move(batch, GPU)
    assert moved.frames is batch.frames and moved.given is batch.given and len(batch.given)
    others = {name: value for name, value in vars(moved).items() if isinstance(value, Tensor) and name not in ("frames", "given")}
    assert {value.device for value in others.values()} == {GPU}
    assert moved.tokens == batch.tokens and moved.sources == batch.sources and moved.documents == batch.documents


@on_meta
@pytest.mark.parametrize(("form", "guidance", "time"), [("vector", 2.0, "add"), ("vector", 1.0, "adaln"), ("text", 1.0, "none")])
def test_a_dream_takes_latents_and_actions_of_any_device(form: Any, guidance: float, time: Any) -> None:
    config = RolloutConfig(action_form=form, max_sequences=4, guidance=guidance)
    rollout = Rollout(on_gpu(toys.model("moe", time=time)), toys.tokenizer(), config, lambda vector: f"action: {vector.sum():+.3f}")
    candidates = torch.zeros(3, 2, 2, 2, device=GPU if time == "adaln" else "cpu")
    with Watch(), torch.no_grad():
        state = rollout.encode(torch.zeros(3, 2, 4, toys.CHANNELS, device=candidates.device), torch.zeros(3, 1, 2))
        future = rollout.rollout(state, candidates, torch.Generator())
    assert future.shape == (3, 2, 2, 4, toys.CHANNELS) and future.device == GPU


@on_meta
def test_pictures_stay_on_the_device() -> None:
    model, codec, batch = on_gpu(toys.model()), on_gpu(toys.codec()), toys.packer().batch(0)
    with Watch(), torch.no_grad():
        pictures = draw_pictures(model, toys.tokenizer(), ["a red disc", "a room"], torch.Generator(), 1)
        assert codec.decode(pictures).shape == (2, 3, toys.IMAGE, toys.IMAGE)
        samples = one_step_samples(model, codec, move(batch, GPU), encode_frames(codec, batch.frames, GPU))
        across = toys.IMAGE * min(8, int((~batch.clean).sum()))
        assert samples.device == GPU and samples.shape == (1, 3, 2 * toys.IMAGE, across)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_step_on_a_gpu_is_that_of_the_cpu_and_does_not_wait(case: str) -> None:
    """FlexAttention of rows that end inside a block, grouped experts in bfloat16, and torch's own watch over waiting."""
    kind, fields = CASES[case]
    on_cpu = toys.model(kind, attention="flex", **fields).train()
    on_cuda = copy.deepcopy(on_cpu).cuda()
    on_cpu.config = replace(on_cpu.config, attention="sdpa")
    compile_blocks(on_cuda.trunk)
    packing = replace(toys.PACKING, length=160)
    batch = toys.packer(config=packing).batch(0)
    latents, counts = toys.random_latents(len(batch.frames)), LossCounts.of(batch)
    noise_sample = sample_noise_by_shard(on_cpu, batch, 0, 0, range(packing.data_shards), torch.device("cpu"))
    _, expected = gradient(on_cpu, [batch], latents, noise_sample, counts, torch.float32)
    given = latents.cuda(), NoiseSample(noise_sample.t.cuda(), noise_sample.noise.cuda()), counts, torch.bfloat16
    gradient(on_cuda, [batch], *given)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, found = gradient(on_cuda, [batch], *given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, rtol=0.1, atol=0.02)
    mine, theirs = (torch.cat([p.grad.flatten().cpu() for p in m.parameters() if p.grad is not None]) for m in (on_cuda, on_cpu))
    assert F.cosine_similarity(mine, theirs, dim=0) > 0.9
