"""The flow: its direction, the shift, both predictions, and a sampler that recovers a known distribution."""

import pytest
import torch
from torch import Tensor

from worldmodel import flow
from worldmodel.flow import FlowConfig


def test_time_runs_from_noise_to_clean() -> None:
    z, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    assert torch.equal(flow.interpolate(z, noise, torch.zeros(2, 1, 1)), noise)
    assert torch.equal(flow.interpolate(z, noise, torch.ones(2, 1, 1)), z)
    t, h = torch.tensor(0.3, dtype=torch.float64), 1e-6
    z, noise = z.double(), noise.double()
    slope = (flow.interpolate(z, noise, t + h) - flow.interpolate(z, noise, t - h)) / (2 * h)
    target = flow.velocity_target(z, noise, flow.interpolate(z, noise, t), t, FlowConfig(prediction="v"))
    torch.testing.assert_close(slope, target, atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 8.5])
def test_shift_and_its_inverse(alpha: float) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    shifted = flow.shift_time(t, alpha)
    torch.testing.assert_close(flow.shift_time(shifted, 1 / alpha), t)
    assert shifted[0] == 0 and shifted[-1] == 1
    assert (shifted.diff() > 0).all()
    torch.testing.assert_close(1 / shifted[1:-1] - 1, alpha * (1 / t[1:-1] - 1))  # noise over signal, times alpha


def test_shift_grows_with_the_latents() -> None:
    assert FlowConfig().shift_for(256, 1152) == pytest.approx(8.485, abs=1e-3)  # SigLIP 2 So400m, as in the paper
    assert FlowConfig().shift_for(32, 128) == 1
    assert FlowConfig(shift=3.0).shift_for(256, 1152) == 3


@pytest.mark.parametrize("logit_normal", [True, False])
def test_sampled_times_have_the_shifted_median(logit_normal: bool) -> None:
    t = flow.sample_time(20_000, 4.0, logit_normal, torch.Generator().manual_seed(0))
    assert 0 < t.min() and t.max() < 1
    assert float(t.median()) == pytest.approx(0.2, abs=0.01)  # the median level 0.5 moves to 4 * 0.5 / (1 + 3 * 0.5) = 0.8


def test_clean_and_velocity_predictions_mean_the_same() -> None:
    z, noise, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), torch.rand(5, 1, 1) * 0.9
    z_t = flow.interpolate(z, noise, t)
    as_x, as_v = FlowConfig(prediction="x"), FlowConfig(prediction="v")
    torch.testing.assert_close(flow.velocity_from(z, z_t, t, as_x), z - noise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow.velocity_from(z - noise, z_t, t, as_v), z - noise)
    targets = [flow.velocity_target(z, noise, z_t, t, config) for config in (as_x, as_v)]
    torch.testing.assert_close(*targets, atol=1e-4, rtol=1e-4)


def test_perfect_clean_prediction_has_no_loss_near_the_clean_end() -> None:
    config = FlowConfig(prediction="x")
    z, noise, t = torch.randn(5, 4, 3), torch.randn(5, 4, 3), torch.full((5, 1, 1), 0.999)
    z_t = flow.interpolate(z, noise, t)
    assert torch.equal(flow.velocity_from(z, z_t, t, config), flow.velocity_target(z, noise, z_t, t, config))


def test_one_step_of_clean_prediction_returns_it() -> None:
    clean, config = torch.randn(3, 4, 2), FlowConfig(prediction="x")
    out = flow.sample(lambda z, t: flow.velocity_from(clean, z, torch.tensor(t), config), torch.randn(3, 4, 2), 1, 5.0)
    torch.testing.assert_close(out, clean)


MEANS = torch.tensor([[2.0, -1.0], [-1.0, 1.5]], dtype=torch.float64)
DEVIATION = 0.3


def mixture_velocity(z: Tensor, t: float) -> Tensor:
    """E[data - noise | z_t] for data from an even mixture of two Gaussians; z (j, 2)."""
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
    offset = z[:, None] - t * MEANS  # (j, component, 2)
    weight = (-offset.square().sum(-1) / (2 * variance)).softmax(-1)
    data = MEANS + t * DEVIATION**2 / variance * offset
    noise = (1 - t) / variance * offset
    return (weight[..., None] * (data - noise)).sum(1)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_sampler_recovers_a_known_mixture(alpha: float) -> None:
    noise = torch.randn(8000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = flow.sample(mixture_velocity, noise, 200, alpha)
    nearest = torch.cdist(samples, MEANS).argmin(1)
    assert float(nearest.double().mean()) == pytest.approx(0.5, abs=0.03)
    for component, mean in enumerate(MEANS):
        members = samples[nearest == component]
        torch.testing.assert_close(members.mean(0), mean, atol=0.03, rtol=0)
        torch.testing.assert_close(members.std(0), torch.full((2,), DEVIATION).double(), atol=0.03, rtol=0)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="shift must be positive, got 0"):
        FlowConfig(shift=0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        flow.sample(lambda z, t: z, torch.zeros(1, 1, 1), 0, 1.0)
