"""Flow matching on visual latents: the path, the noise schedule's shift, both prediction targets, the Euler sampler.

Direction, fixed once for the whole project: **t = 1 is clean, t = 0 is noise** (arXiv 2603.03276, section 3).

    z_t = (1 - t) * noise + t * z        velocity = z - noise = dz_t / dt

A network either predicts the velocity (`v`) or the clean latents (`x`, arXiv 2511.13720); with `x` the velocity follows
from the path, (x - z_t) / (1 - t).

What arXiv 2603.03276 leaves open, and what is done here: the loss is the squared error of the velocity with both predictions, as in
arXiv 2511.13720, that is of x weighted by 1 / (1 - t)^2; 1 - t is never taken below 0.05 there, in the prediction and in the target
alike, so that frames that are almost clean do not outweigh all others. Flow times are logit-normal (the code of RAE and the follow-up,
2608.05000; the paper's formula reads uniform: `logit_normal`), then shifted toward noise (`shift`; 1 turns it off).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worldmodel.errors import UserError

Prediction = Literal["x", "v"]


@dataclass(frozen=True)
class FlowConfig:
    """How noise levels are drawn and what the network predicts."""

    prediction: Prediction = "x"
    """x: the clean latents; v: the velocity. The loss is on the velocity in both cases."""
    shift: float | None = None
    """Strength of the shift toward noise, 1 = none. None: from the latents' size, sqrt(tokens * channels / base_dimension)."""
    base_dimension: int = 4096
    """Latent size at which no shift is needed (RAE, arXiv 2510.11690, section 4)."""
    logit_normal: bool = True
    """Draw the unshifted level logit-normal(0, 1), as RAE does; otherwise uniform."""
    noise_share: float = 0.0
    """Share of frames that are noise alone (t = 0), where a rollout in one step begins; the others are drawn as above."""
    shrink_input: bool = True
    """With x-prediction, scale noised latents by t / (t^2 + (1 - t)^2), the best linear guess of unit-variance clean latents, before
    they enter the network: noise that says nothing fades out instead of drowning the context that the frame follows from."""
    minimum_noise: float = 0.05
    """Floor of 1 - t where a velocity is computed from predicted clean latents."""

    def __post_init__(self) -> None:
        if self.shift is not None and self.shift <= 0:
            raise UserError(f"shift must be positive, got {self.shift}")
        if not 0 <= self.noise_share <= 1:
            raise UserError(f"noise_share is {self.noise_share}, must lie between 0 and 1")
        if not 0 < self.minimum_noise < 1:
            raise UserError(f"minimum_noise must lie in (0, 1), got {self.minimum_noise}")

    def shift_for(self, tokens: int, channels: int) -> float:
        """Return the shift's strength for latents of `tokens` x `channels`."""
        return self.shift if self.shift is not None else math.sqrt(tokens * channels / self.base_dimension)


def shift_time(t: Tensor, alpha: float) -> Tensor:
    """Move flow times toward noise: with s = 1 - t the noise level, s' = alpha s / (1 + (alpha - 1) s) (RAE, section 4)."""
    s = 1 - t
    return 1 - alpha * s / (1 + (alpha - 1) * s)


def sample_time(count: int, alpha: float, logit_normal: bool, generator: torch.Generator, noise_share: float = 0.0) -> Tensor:
    """Draw `count` shifted flow times in (0, 1) on the CPU, so that a seed gives the same times on every device.

    A share of them, drawn too, is 0.
    """
    if logit_normal:
        t = torch.sigmoid(torch.randn(count, generator=generator))
    else:
        t = torch.rand(count, generator=generator)
    t = shift_time(t, alpha)
    if noise_share:
        t = torch.where(torch.rand(count, generator=generator) < noise_share, torch.zeros_like(t), t)
    return t


def interpolate(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Compute noised latents z_t; z and noise (..., n, c), t broadcastable to them."""
    return torch.lerp(noise, z, t)


def network_input(z_t: Tensor, t: Tensor, config: FlowConfig) -> Tensor:
    """Compute the network's input from z_t; `t` broadcastable to it. At t = 1 these are the clean latents in any case."""
    if config.prediction == "v" or not config.shrink_input:
        return z_t
    return z_t * (t / (t.square() + (1 - t).square()))


def velocity_from(prediction: Tensor, z_t: Tensor, t: Tensor, config: FlowConfig) -> Tensor:
    """Compute the velocity that a network's output stands for; `t` broadcastable to `z_t`."""
    if config.prediction == "v":
        return prediction
    return (prediction - z_t) / (1 - t).clamp_min(config.minimum_noise)


def velocity_target(z: Tensor, noise: Tensor, z_t: Tensor, t: Tensor, config: FlowConfig) -> Tensor:
    """Compute what `velocity_from` should return: z - noise, under the same floor on 1 - t as the prediction."""
    if config.prediction == "v":
        return z - noise
    return (z - z_t) / (1 - t).clamp_min(config.minimum_noise)


def time_grid(num_steps: int, alpha: float) -> Tensor:
    """Return the sampler's times from 0 (noise) to 1 (clean), (num_steps + 1,), shifted as in training."""
    return shift_time(torch.linspace(0, 1, num_steps + 1), alpha)


def sample(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, num_steps: int, alpha: float) -> Tensor:
    """Integrate dz/dt = velocity(z, t) from noise to clean latents with Euler steps on the shifted grid.

    Args:
        velocity: maps (z_t, t) to a velocity of z_t's shape.
        noise: standard normal, any shape.
        num_steps: network evaluations; with x-prediction a single step returns the predicted clean latents themselves.
        alpha: the shift that was used in training.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    grid = time_grid(num_steps, alpha).tolist()
    z = noise
    for t, t_next in zip(grid[:-1], grid[1:], strict=True):
        z = z + (t_next - t) * velocity(z, t)
    return z
