import dataclasses
import math

import pytest
import torch
from torch import nn

from worldmodel.codec.training_loop import FitConfig, Stage, fit
from worldmodel.errors import UserError

CONFIG = FitConfig(lr=0.05, warmup=2, checkpoint_every=3)


class Interrupted(Exception):
    """Stands for a killed process."""


def fresh() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def noisy_loss(model: nn.Linear, stop_at: int | None = None):
    """Fits y = x0 - 2 x1 on data drawn from the generator; stops in the middle if asked to."""
    calls = []

    def loss(generator, progress):
        calls.append(progress)
        if stop_at is not None and len(calls) > stop_at:
            raise Interrupted
        x = torch.randn(16, 3, generator=generator)
        error = (model(x)[:, 0] - x[:, 0] + 2 * x[:, 1]).square().mean()
        return error, {"squared": error.detach()}

    return loss, calls


def test_training_reaches_the_solution(tmp_path):
    model = fresh()
    fit("line", model, noisy_loss(model)[0], 300, 0, CONFIG, tmp_path / "line.safetensors")
    assert model.weight[0].tolist() == pytest.approx([1, -2, 0], abs=0.05)
    assert not model.training


def test_the_loss_is_told_the_share_of_the_steps_done(tmp_path):
    model = fresh()
    loss, told = noisy_loss(model)
    fit("line", model, loss, 4, 0, CONFIG, tmp_path / "line.safetensors")
    assert told == [0, 0.25, 0.5, 0.75]


def fit_with_discriminator(folder, stop_at=None, **options):
    """A line, and beside it a discriminator that learns from the middle on."""
    line, discriminator = fresh(), fresh()
    calls = []

    def loss(generator, progress):
        calls.append(1)
        if stop_at is not None and len(calls) > stop_at:
            raise Interrupted
        own, others = noisy_loss(line)[0], noisy_loss(discriminator)[0]
        total, parts = own(generator, progress)
        return (total + 1000 * others(generator, progress)[0], parts) if progress >= 0.5 else (total, parts)

    fit("line", line, loss, 20, 7, CONFIG, folder / "line.safetensors", discriminator=discriminator, **options)
    return line, discriminator


def test_an_opponent_learns_at_its_own_rate_without_a_hand_in_the_clipping(tmp_path):
    lines, moved = [], []
    for factor in (0.01, 1.0):
        line, discriminator = fit_with_discriminator(tmp_path / str(factor), discriminator_lr_factor=factor)
        lines.append(line)
        moved.append((discriminator.weight - fresh().weight).norm().item())
    assert 0 < moved[0] < 0.05 * moved[1]
    assert torch.equal(lines[0].weight, lines[1].weight)  # huge gradients of the discriminator do not shrink the others'


@pytest.mark.parametrize("stop_at", [7, 16])
def test_a_killed_run_with_an_opponent_goes_on_bit_for_bit(tmp_path, stop_at):
    whole = fit_with_discriminator(tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit_with_discriminator(tmp_path / "cut", stop_at)
    for module, same in zip(fit_with_discriminator(tmp_path / "cut"), whole, strict=True):
        assert torch.equal(module.weight, same.weight) and torch.equal(module.bias, same.bias)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole = fresh()
    fit("line", whole, noisy_loss(whole)[0], 20, 7, CONFIG, tmp_path / "whole.safetensors")
    first = fresh()
    with pytest.raises(Interrupted):
        fit("line", first, noisy_loss(first, stop_at=11)[0], 20, 7, CONFIG, tmp_path / "cut.safetensors")
    second = fresh()
    loss, calls = noisy_loss(second)
    fit("line", second, loss, 20, 7, CONFIG, tmp_path / "cut.safetensors")
    assert len(calls) == 20 - 9  # at most checkpoint_every steps were lost
    assert torch.equal(second.weight, whole.weight) and torch.equal(second.bias, whole.bias)
    third = fresh()
    loss, calls = noisy_loss(third)
    fit("line", third, loss, 20, 7, CONFIG, tmp_path / "cut.safetensors")
    assert not calls and torch.equal(third.weight, whole.weight)  # finished: read, not trained


def test_frozen_parameters_stay(tmp_path):
    model = fresh()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    fit("line", model, noisy_loss(model)[0], 5, 0, CONFIG, tmp_path / "line.safetensors")
    assert torch.equal(model.bias, before)


@pytest.mark.parametrize(("wrong", "words"), [(math.nan, "is not finite"), (math.inf, "is not finite"), (1e4, "diverges")])
def test_a_loss_that_is_lost_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path, wrong, words):
    def broken(model, calls):
        own = noisy_loss(model)[0]

        def loss(generator, progress):
            calls.append(progress)
            total, parts = own(generator, progress)
            return (total * wrong if progress >= 0.5 else total), parts

        return loss

    for _ in range(2):  # the same again after going on
        model, calls = fresh(), []
        with pytest.raises(UserError, match=f"codec line: at step 3. of 60 the loss {words}") as caught:
            fit("line", model, broken(model, calls), 60, 0, CONFIG, tmp_path / "line.safetensors")
        assert "line.safetensors keeps step 30;" in str(caught.value) and "lower --codec.fit.lr (now 0.05)" in str(caught.value)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert calls[0] == 0.5


def test_a_gradient_that_is_not_finite_is_not_stepped_on(tmp_path):
    model = fresh()

    def loss(generator, progress):
        return model.weight.sum().mul(0).abs().sqrt(), {}  # 0, but its slope is not

    with pytest.raises(UserError, match=r"step 1 of 3 the gradient is not finite \(.* gradient nan\); start again"):
        fit("line", model, loss, 3, 0, CONFIG, tmp_path / "line.safetensors")
    assert torch.equal(model.weight, fresh().weight) and not (tmp_path / "line.safetensors").exists()


def test_averaged_weights_end_a_stage_and_come_back_bit_for_bit(tmp_path):
    config = dataclasses.replace(CONFIG, ema=0.9)
    last, whole, cut, resumed = (fresh() for _ in range(4))
    fit("line", last, noisy_loss(last)[0], 20, 7, CONFIG, tmp_path / "last.safetensors")
    seen = []

    def watched(generator, progress):
        seen.append(whole.weight.detach().clone())
        return noisy_loss(whole)[0](generator, progress)

    fit("line", whole, watched, 20, 7, config, tmp_path / "whole.safetensors")
    expected = seen[0].clone()
    for step, weight in enumerate([*seen[1:], last.weight.detach()]):
        expected.lerp_(weight, 1 - min(0.9, (1 + step) / (10 + step)))
    assert torch.allclose(whole.weight, expected, atol=1e-6) and not torch.allclose(whole.weight, last.weight, atol=1e-3)
    with pytest.raises(Interrupted):
        fit("line", cut, noisy_loss(cut, stop_at=11)[0], 20, 7, config, tmp_path / "cut.safetensors")
    for _ in range(2):  # to the end, then a finished stage once more
        fit("line", resumed, noisy_loss(resumed)[0], 20, 7, config, tmp_path / "cut.safetensors")
        assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"clip": -1.0}, {"ema": 1.0}, {"warmup": -1}, {"log_every": 0}])
def test_impossible_settings_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=f"{name} {value}"):
        FitConfig(**wrong)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "line.safetensors"
    model = fresh()
    fit("line", model, noisy_loss(model)[0], 3, 0, CONFIG, path)
    other = nn.Linear(4, 1)
    with pytest.raises(UserError, match="no checkpoint of this run"):
        fit("line", other, noisy_loss(other)[0], 3, 0, CONFIG, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="line.safetensors"):
        fit("line", fresh(), noisy_loss(model)[0], 3, 0, CONFIG, path)


def rates(steps, config, folder):
    """The learning rates of all steps, of the module and of its discriminator."""
    model, found = fresh(), []
    stage = Stage("line", model, noisy_loss(model)[0], steps, 0, config, folder / "line.safetensors", None, fresh(), 0.1)
    accept = stage.accept

    def watched(gradient, share):
        accept(gradient, share)
        found.append([group["lr"] for group in stage.optimizers[0].param_groups])

    stage.accept = watched
    stage.run()
    for own, own_rest, others, others_rest in found:
        assert own == own_rest and others == others_rest == pytest.approx(0.1 * own)
    return [each[0] for each in found]


def test_learning_rate_warms_up_and_ends_at_a_tenth(tmp_path):
    found = rates(111, FitConfig(lr=1.0, warmup=10), tmp_path / "long")
    assert found[0] == pytest.approx(0.1) and found[9] == 1.0 and max(found) == 1.0
    assert found[60] == pytest.approx(0.55) and found[-1] == pytest.approx(0.1)
    assert rates(8, FitConfig(lr=1.0, warmup=10), tmp_path / "short")[:3] == pytest.approx([0.5, 1.0, 1.0])  # a quarter at most
    assert math.isfinite(rates(1, FitConfig(lr=1.0), tmp_path / "one")[0])
