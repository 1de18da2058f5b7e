"""Which weights decay and at what rate they move, the schedule, and the moving average."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.worldmodel import toys
from worldmodel.model import WorldModel
from worldmodel.training.optimizer import Ema, OptimizerName, build_optimizers, optimizer_tensors, schedule, set_rate


def optimizers_of(model: WorldModel, name: OptimizerName) -> list[torch.optim.Optimizer]:
    return build_optimizers(model, name, lr=0.01, muon_lr=0.05, weight_decay=0.5, betas=(0.9, 0.95))


def groups_by_name(model: WorldModel, name: OptimizerName) -> dict[str, dict[str, object]]:
    """The group that each weight belongs to; every weight is in exactly one."""
    groups = [group for optimizer in optimizers_of(model, name) for group in optimizer.param_groups]
    owners = [(id(p), group) for group in groups for p in group["params"]]
    assert len(dict(owners)) == len(owners)
    return {place: dict(owners)[id(p)] for place, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_decay(name: OptimizerName) -> None:
    for place, group in groups_by_name(toys.model("moe"), name).items():
        flat = "norm" in place or place.endswith("bias") or place in ("token_embedding.weight", "action_question")
        assert (group["weight_decay"] == 0) == flat, place


def test_muon_takes_the_trunks_matrices() -> None:
    groups = groups_by_name(toys.model("moe"), "muon")
    muon = {place for place, group in groups.items() if group["peak"] == 0.05}
    block = {"attention.qkv.weight", "attention.out.weight", "feed_forward.gate_up", "feed_forward.down"}
    assert muon == {f"trunk.blocks.{i}.{weight}" for i in range(2) for weight in block}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_weight_without_gradient_stays(name: OptimizerName) -> None:
    model = toys.model()
    optimizers = optimizers_of(model, name)
    before = {place: p.detach().clone() for place, p in model.named_parameters()}
    model.trunk.blocks[0].attention.out.weight.sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    moved = {place for place, p in model.named_parameters() if not torch.equal(p, before[place])}
    assert moved == {"trunk.blocks.0.attention.out.weight"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_is_whole_before_the_first_step(name: OptimizerName) -> None:
    model = toys.model("moe")
    optimizers = optimizers_of(model, name)
    before = {key: value.clone() for key, value in optimizer_tensors(model, optimizers).items()}
    assert all((value == 0).all() for value in before.values())
    sum((p + 1).square().sum() for p in model.parameters()).backward()
    for optimizer in optimizers:
        optimizer.step()
    after = optimizer_tensors(model, optimizers)
    assert after.keys() == before.keys()
    assert all((value != 0).any() for value in after.values())


def test_schedule_warms_up_and_falls_along_a_cosine() -> None:
    shares = [schedule(step, 101, 10, 0.1) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1
    assert shares[55] == pytest.approx(0.55, abs=0.02)  # half-way
    assert shares[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(shares[10:-1], shares[11:], strict=True))


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (5, 5), (5, 4)])
def test_schedule_of_short_runs_stays_within_its_bounds(steps: int, warmup: int) -> None:
    assert all(0 < schedule(step, steps, warmup, 0.1) <= 1 for step in range(steps))


def test_every_group_follows_its_own_peak() -> None:
    optimizers = optimizers_of(toys.model(), "muon")
    set_rate(optimizers, 0.5)
    assert [g["lr"] for o in optimizers for g in o.param_groups] == [0.005, 0.005, 0.025]


def wide(base_width: int | None, name: OptimizerName = "adamw", **changes: object) -> dict[str, dict[str, object]]:
    """The groups of a model of width 32 whose rates were tuned at `base_width`."""
    config = replace(toys.model_config("moe"), base_width=base_width, **changes)
    return groups_by_name(WorldModel(config), name)


def test_rates_that_carry_over_between_widths() -> None:
    for name, group in wide(8, wide_head=64).items():
        hidden = name.startswith("trunk.") and "norm" not in name
        hidden |= name in ("time_in.network.2.weight", "visual_head.hidden_in.weight", "action_out.weight")
        assert group["peak"] == (0.01 / 4 if hidden else 0.01), name
        assert group["weight_decay"] in (0.0, 0.5 * 4 if hidden else 0.5), "decay is a matter of rate times weight decay"
    assert {name for name, group in wide(8, "muon").items() if group["peak"] == 0.05} == {
        name for name, group in wide(None, "muon").items() if group["peak"] == 0.05
    }


@pytest.mark.parametrize("base_width", [8, None])
def test_a_matrix_of_the_stem_is_slower_the_more_it_takes_in(base_width: int | None) -> None:
    changes = {"stem": toys.STEM, "latent_grid": toys.MAP}
    weights = dict(WorldModel(replace(toys.model_config("moe"), **changes)).named_parameters())
    base, told = base_width or 32, 0
    for name, group in wide(base_width, **changes).items():
        if name.startswith("stem.") and weights[name].ndim > 1 and name != "stem.missing":
            times = 1.0 if name == "stem.gather.weight" else max(1.0, weights[name][0].numel() / base)
            assert (group["peak"], group["weight_decay"]) == (pytest.approx(0.01 / times), pytest.approx(0.5 * times)), name
            told += times > 1
    assert told > 5, "most of them take in more than the trunk is wide"


def test_at_the_base_width_nothing_is_different() -> None:
    mine, plain = wide(32), wide(None)
    for name, group in plain.items():
        assert [mine[name][key] for key in ("peak", "weight_decay")] == [group[key] for key in ("peak", "weight_decay")]


def test_average_follows_the_weights() -> None:
    model = toys.model("moe")
    average = Ema(model, 0.5)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step, decay in enumerate([0.1, 2 / 11, 3 / 12, 4 / 13]):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        model.trunk.blocks[0].feed_forward.balance_bias += 1
        average.update(model, step)
        for name, p in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    for name, p in average.model.named_parameters():
        torch.testing.assert_close(p, expected[name])
        assert not p.requires_grad
    assert (average.model.trunk.blocks[0].feed_forward.balance_bias == 4).all()
    assert not average.model.training


def test_average_reaches_its_decay() -> None:
    model = nn.Linear(1, 1)
    average = Ema(model, 0.9)
    nn.init.zeros_(average.model.weight)
    nn.init.ones_(model.weight)
    average.update(model, step=10_000)
    assert average.model.weight.item() == pytest.approx(0.1)
