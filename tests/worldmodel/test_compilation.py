"""Compiled blocks compute what eager ones do, with one graph for all of them."""

import copy
import functools
import importlib.util
import sysconfig
import warnings
from collections.abc import Iterator

import einops
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel import toys
from worldmodel import compilation
from worldmodel.errors import UserError
from worldmodel.model import TimeConditioning, WorldModel
from worldmodel.moe import FeedForwardKind

CPU = torch.device("cpu")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing compiled before or after; torch's own warnings while it compiles are not ours."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


def loss_and_gradients(model: WorldModel) -> tuple[float, dict[str, Tensor]]:
    total = 0.0
    for step in range(2):  # two batches, with other numbers of visual tokens
        batch = toys.packer(step).batch(0)
        generator = torch.Generator().manual_seed(0)
        loss, _ = model.loss(batch, toys.random_latents(len(batch.frames)), model.sample_noise(batch.clean, generator))
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_is_eager(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced forward and backward, without the minute that C++ takes; `test_moe` has a layer that is compiled to the end."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    eager = toys.model("moe").train()
    compiled = copy.deepcopy(eager)
    compilation.compile_blocks(compiled.trunk)
    torch._dynamo.utils.counters.clear()
    expected, found = loss_and_gradients(eager), loss_and_gradients(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "all blocks run one graph, for all batches"
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    twin = copy.deepcopy(compiled)  # as the moving average is one: with weights of its own
    with torch.no_grad():
        for parameter in twin.trunk.parameters():
            parameter.zero_()
    batch = toys.packer().batch(0)
    latents, t = toys.random_latents(len(batch.frames)), torch.ones(len(batch.frames))
    with torch.no_grad():
        assert toys.hidden(twin, batch, latents, t).abs().max() == 0 < toys.hidden(compiled, batch, latents, t).abs().max()


@pytest.mark.parametrize(("kind", "time"), [("moe", "add"), ("modality", "adaln")])
def test_one_graph_serves_all_blocks_and_batches_with_flex(
    fresh: None, monkeypatch: pytest.MonkeyPatch, kind: FeedForwardKind, time: TimeConditioning
) -> None:
    """Forward; each batch brings a mask's function of its own. Nor does it matter what einops is used for in between."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(einops._backends, "_type2backend", {})
    compiled, eager = (toys.model(kind, time=time, attention=backend) for backend in ("flex", "sdpa"))
    compilation.compile_blocks(compiled.trunk)
    torch._dynamo.utils.counters.clear()
    for step in range(2):
        batch = toys.packer(step).batch(0)
        given = batch, toys.random_latents(len(batch.frames)), torch.ones(len(batch.frames))
        with torch.no_grad():
            torch.testing.assert_close(toys.hidden(compiled, *given), toys.hidden(eager, *given), atol=1e-4, rtol=1e-4)
        einops.rearrange(np.zeros(2), "i -> 1 i")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_auto_leaves_a_cpu_alone_and_on_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compilation.should_compile("auto", CPU)
    monkeypatch.setattr(compilation, "missing_compiler", lambda device: "")
    assert compilation.should_compile("on", CPU) and not compilation.should_compile("off", CPU)
    assert compilation.should_compile("auto", torch.device("cuda"))
    monkeypatch.undo()
    if importlib.util.find_spec("triton"):
        monkeypatch.setattr(sysconfig, "get_path", lambda name: "nowhere")
        assert compilation.missing_compiler(torch.device("cuda")).startswith("Python's headers")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compilation.should_compile("auto", torch.device("cuda"))
    with pytest.raises(UserError, match=r"no C\+\+ compiler \(no-such-compiler\); install it, or set compile to off"):
        compilation.should_compile("on", CPU)
