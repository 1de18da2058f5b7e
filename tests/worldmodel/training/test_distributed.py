"""Two processes train as one does, go on from each other's checkpoints, and end together when something is wrong."""

import math
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore
from torch.distributed.tensor import DTensor, Shard

from tests.waiting import PATIENCE
from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.errors import UserError
from worldmodel.model import LossCounts, WorldModel
from worldmodel.moe import MoEConfig
from worldmodel.training.distributed import (
    Processes,
    clip_gradients,
    duplicate,
    local,
    processes,
    replicate,
    shard,
    single,
    sum_gradients,
    weights,
    whole_model,
)
from worldmodel.training.job import Batches, Hooks
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.muon import orthogonalise, orthogonalise_spread
from worldmodel.training.optimizer import Ema, OptimizerName, build_optimizers
from worldmodel.training.resume import Progress, State, read_state, shared_folder, write_state
from worldmodel.training.spike_detection import read_skipped
from worldmodel.training.train import TrainConfig, TrainResult, stop_on_signals, train
from worldmodel.training.validation import Validation

STEPS, HALF = 4, 2
PACKING = replace(toys.PACKING, rows=4, data_shards=2)


@dataclass
class Run:
    """A training by hand, to be done by any number of processes."""

    kind: str = "modality"
    optimizer: OptimizerName = "adamw"
    num_experts: int = 6  # and one of each modality
    start: Path | None = None
    save: Path | None = None

    def model(self) -> WorldModel:
        config = toys.model_config(self.kind)  # type: ignore[arg-type]
        torch.manual_seed(0)
        return WorldModel(replace(config, trunk=replace(config.trunk, moe=MoEConfig(self.num_experts, 3, 16)))).train()

    def __call__(self, these: Processes) -> dict[str, Any]:
        """Losses and gradient norms per step, weights and their averages at the end."""
        model = self.model()
        shard(model, these)
        average = Ema(model, 0.9)
        optimizers = build_optimizers(model, self.optimizer, 1e-3, 0.02, 0.1, (0.9, 0.95))
        state = State(model, average.model, optimizers, Progress())
        if self.start is not None:
            read_state(self.start, state)
        packer, curve = toys.packer(config=PACKING), []
        for step in range(state.progress.step, STEPS):
            if step == HALF and self.save is not None:
                with shared_folder(self.save, these) as beside:
                    write_state(beside, state)
            batch = packer.batch(step)
            noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(step))
            latents = toys.random_latents(len(batch.clean), step)
            total, first = torch.zeros(()), 0
            model.zero_grad()
            for data_shard, part in enumerate(batch.split(PACKING.data_shards)):
                own = slice(first, first + len(part.clean))
                first = own.stop
                if data_shard % these.world_size == these.rank:
                    loss, _ = model.loss(
                        part, latents[own], type(noise_sample)(noise_sample.t[own], noise_sample.noise[own]), LossCounts.of(batch)
                    )
                    loss.backward()
                    total += loss.detach()
            curve += [these.sum(total).item(), clip_gradients(model, 1.0).item()]
            for optimizer in optimizers:
                optimizer.step()
            model.trunk.update_balance(these.sum(model.trunk.loads()))
            average.update(model, step)
            state.progress.advance(batch.sources, 0.0)
            with torch.no_grad():  # validation leaves the gathered root behind
                model.eval().loss(batch, latents, noise_sample)
            model.train()
        stacks = {name: p.placements for name, p in weights(model).items() if isinstance(p, DTensor) and p.ndim == 3}
        return {"curve": curve, "model": whole_model(model), "average": whole_model(average.model), "stacks": stacks}


@dataclass
class Training:
    """A training by the real loop."""

    run_dir: Path
    optimizer: OptimizerName = "muon"
    accumulation: int = 1
    validate_every: int = 0
    broken: int | None = None  # a document whose loss is not a number
    signalled: int | None = None  # the last process is asked to stop in this step

    def __call__(self, these: Processes) -> TrainResult:
        config = TrainConfig(
            steps=STEPS,
            packing=PACKING,
            accumulation=self.accumulation,
            sharding="on",
            optimizer=self.optimizer,
            warmup_steps=2,
            dtype="float32",
            device="cpu",
            log_every=1,
            sample_every=HALF,
            checkpoint_every=HALF,
            validate_every=self.validate_every,
        )
        packer = toys.packer(config=PACKING)
        sources = [toys.Videos(), toys.Sentences(), toys.Captions()]
        validation = Validation(sources, toys.tokenizer(), toys.GRID, 2, PACKING, 1)
        with torch.device("cpu" if these.is_main else "meta"):
            model = toys.model()
        original, steps = WorldModel.loss, count(1)

        def loss(model: WorldModel, batch: PackedBatch, *arguments: Any) -> Any:
            if model.training and next(steps) == self.signalled and these.rank == these.world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            total, parts = original(model, batch, *arguments)
            return total * (math.nan if self.broken in batch.documents else 1.0), parts

        with pytest.MonkeyPatch.context() as patch, stop_on_signals() as stop:
            patch.setattr(WorldModel, "loss", loss)
            parts = Pretrained(model, toys.tokenizer(), toys.codec(), {})
            return train(parts, Batches(packer, validation=validation), config, self.run_dir, Hooks(stop=stop), these)

    def curve(self, *more: str) -> list[float]:
        """Loss and gradient norm of every step, and what else is asked for."""
        rows, names = read_rows(self.run_dir / "metrics.jsonl"), ("loss/total", "loss/text", "loss/flow", "gradient_norm", *more)
        return [row[name] for row in rows for name in names if name in row]


def spread(these: Processes) -> list[Tensor]:
    """Orthogonalise matrices whose rows two processes have."""
    whole = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    group = torch.distributed.group.WORLD
    assert group is not None
    own = whole.chunk(2, dim=1)[these.rank]
    assert own.shape[1] == (3, 2)[these.rank]
    return [orthogonalise_spread(own, 5, group, first) for first in range(2)]


def differ(these: Processes) -> None:
    these.agree("the seed", {"lr": 0.1, "seed": 3})
    these.agree("the settings", {"lr": 0.1, "seed": these.rank})


def sharded(these: Processes) -> dict[str, Tensor]:
    """What two processes make of models that differ, copied."""
    model = toys.model(seed=these.rank)
    shard(model, these)
    kept = {name: local(p).numel() for name, p in weights(model).items()}
    assert sum(kept.values()) < 0.6 * sum(p.numel() for p in model.parameters())
    return whole_model(duplicate(model))


def fail(these: Processes) -> None:
    if these.rank == 1:
        raise RuntimeError("the disk is full\nand more")
    model = toys.model()
    these.barrier()
    shard(model, these)


def _in_group(rank: int, port: int, work: Callable[[Processes], Any]) -> Any:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # it is the parent's, as under torchrun
    with processes("cpu", timeout=PATIENCE, barrier_timeout=PATIENCE) as these:
        return work(these)


Pair = tuple[ProcessPoolExecutor, ProcessPoolExecutor]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two processes that start once; torch remembers layouts by rank, so each keeps its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as first, ProcessPoolExecutor(1, context) as second:
        yield first, second


def by_two(pair: Pair, work: Callable[[Processes], Any]) -> list[Any]:
    """What two processes return or raise."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    futures = [process.submit(_in_group, rank, store.port, work) for rank, process in enumerate(pair)]
    return [future.exception(timeout=2 * PATIENCE) or future.result() for future in futures]


def result(found: list[Any]) -> Any:
    """What the main process returned."""
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found[0]


def assert_same(mine: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    shared = min(len(mine["curve"]), len(theirs["curve"]))
    assert shared >= 2 * (STEPS - HALF)
    assert mine["curve"][-shared:] == pytest.approx(theirs["curve"][-shared:], rel=tolerance)
    for which in ("model", "average"):
        assert mine[which].keys() == theirs[which].keys()
        for name, tensor in mine[which].items():
            torch.testing.assert_close(tensor, theirs[which][name], rtol=tolerance, atol=tolerance)


def test_two_processes_train_as_one_and_go_on_from_each_other(pair: Pair, tmp_path: Path) -> None:
    alone = single(torch.device("cpu"))
    one, two = Training(tmp_path / "one"), Training(tmp_path / "two")
    one(alone)
    assert result(by_two(pair, two)).finished
    assert len(one.curve()) == 4 * STEPS
    assert two.curve() == pytest.approx(one.curve(), rel=1e-4)
    mine, theirs = (read_checkpoint(run.run_dir).model.state_dict() for run in (one, two))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)
    expected = one.curve()
    for run in (one, two):
        shutil.rmtree(run.run_dir / "checkpoints" / f"step_{STEPS:06d}")
    assert result(by_two(pair, replace(one, accumulation=2))).step == STEPS
    two(alone)
    assert one.curve() == pytest.approx(expected, rel=1e-4)
    assert two.curve() == pytest.approx(expected, rel=1e-4)
    assert len(list((one.run_dir / "checkpoints" / f"step_{STEPS:06d}" / "training").iterdir())) == 2


@pytest.mark.parametrize(("num_experts", "axis"), [(6, 0), (5, 1)])
def test_two_processes_are_one_and_go_on_from_each_other(pair: Pair, tmp_path: Path, num_experts: int, axis: int) -> None:
    """The tolerance is wide since a router's near-tie may go the other way; wrong gradients would be wrong by a factor."""
    run, alone = Run("moe", "muon", num_experts), single(torch.device("cpu"))
    two = result(by_two(pair, replace(run, save=tmp_path / "two")))
    one = replace(run, save=tmp_path / "one")(alone)
    assert set(two["stacks"].values()) == {(Shard(axis),)}
    assert two["curve"][:2] == pytest.approx(one["curve"][:2], rel=1e-5)
    assert_same(two, one, 5e-2)
    assert two["curve"] == pytest.approx(one["curve"], rel=2e-3)
    assert_same(replace(run, start=tmp_path / "two")(alone), two, 5e-2)
    assert_same(result(by_two(pair, replace(run, start=tmp_path / "one"))), one, 5e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"], "nothing temporary is left"
    assert len(list((tmp_path / "two" / "training").glob("*.safetensors"))) == 2


def test_matrices_whose_rows_are_spread(pair: Pair) -> None:
    whole = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for upper, lower in zip(*by_two(pair, spread), strict=True):
        torch.testing.assert_close(torch.cat([upper, lower], dim=1), orthogonalise(whole))


def test_processes_that_disagree_are_all_refused(pair: Pair) -> None:
    for error in by_two(pair, differ):
        assert isinstance(error, UserError)
        assert "disagree on the settings: process 0 has {'lr': 0.1, 'seed': 0}, process 1 has {'lr': 0.1, 'seed': 1}" in str(error)


def test_all_get_the_weights_of_the_main_process(pair: Pair) -> None:
    expected, found = toys.model(seed=0).state_dict(), result(by_two(pair, sharded))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def replicated(these: Processes) -> dict[str, Any]:
    """What two processes make of models of which the second has no numbers; sums of gradients."""
    with torch.device("cpu" if these.is_main else "meta"):
        model = toys.model()
    replicate(model, these)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1.0 + these.rank)
    sum_gradients(model, these)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    sums = these.gather({name: float(weight.detach().sum()) for name, weight in model.named_parameters()})
    return {"whole": whole_model(duplicate(model)), "gradients": gradients, "same": sums[0] == sums[1]}


def test_all_have_the_whole_model_where_it_is_replicated(pair: Pair) -> None:
    expected, found = toys.model().state_dict(), result(by_two(pair, replicated))
    assert found["whole"].keys() == expected.keys() and found["same"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found["whole"].items())
    assert all((gradient == 3.0).all() for gradient in found["gradients"].values())


def test_two_processes_skip_and_measure_as_one(pair: Pair, tmp_path: Path) -> None:
    """Only the second process has the broken document; three sources are measured in five passes, dealt to two."""
    packer = toys.packer(config=PACKING)
    others = {index for step in (0, 2, 3, 4) for index in packer.batch(step).documents}
    broken = min(set(packer.share(1, 2).batch(1).documents) - others - set(packer.share(0, 2).batch(1).documents))
    one = Training(tmp_path / "one", "adamw", validate_every=HALF, broken=broken)
    two = replace(one, run_dir=tmp_path / "two")
    one(single(torch.device("cpu")))
    assert result(by_two(pair, two)).metrics["data/skipped"] == 1
    (mine,), (theirs,) = (read_skipped(run.run_dir / "skipped.jsonl") for run in (one, two))
    assert mine == theirs and (mine["batch"], mine["reason"]) == (1, "its loss is nan")
    names = ("validation/text", "validation/flow", "validation/flow_high_noise", "validation/sentences/bits_per_byte")
    assert two.curve(*names) == pytest.approx(one.curve(*names), rel=1e-4)
    assert len(one.curve(*names)) == 4 * STEPS + 2 * len(names)


def test_a_signal_to_one_stops_all_after_the_same_step(pair: Pair, tmp_path: Path) -> None:
    run = Training(tmp_path / "run", signalled=HALF + 1)
    for each in by_two(pair, run):
        assert (each.step, each.finished, each.checkpoint.name) == (HALF + 1, False, f"step_{HALF + 1:06d}")
    assert result(by_two(pair, replace(run, signalled=None))).finished
    whole = Training(tmp_path / "whole")
    assert result(by_two(pair, whole)).finished
    assert run.curve() == whole.curve() and len(run.curve()) == 4 * STEPS


def test_an_error_of_one_ends_all(pair: Pair) -> None:
    waiting, failing = by_two(pair, fail)
    assert isinstance(failing, RuntimeError)
    assert isinstance(waiting, UserError)
    assert str(waiting) == "process 1 ended the run: RuntimeError: the disk is full"


def test_gpus_are_one_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    for name, words in (
        ("auto", "no GPU for process 3 of this machine, torch sees 2: use --nproc-per-node 2"),
        ("cuda:1", "is one GPU"),
    ):
        with pytest.raises(UserError, match=words), processes(name):
            pass


def test_alone_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes("cpu") as alone:
        assert alone == single(torch.device("cpu"))
        alone.agree("anything", 1)
        alone.barrier()
        assert alone.broadcast_object(3) == 3
        assert alone.sum(torch.ones(2)).tolist() == [1, 1]
    model = toys.model()
    shard(model, alone)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in whole_model(model).items())
