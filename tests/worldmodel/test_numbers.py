"""Numbers of the recipe that no loss curve would show to be wrong: times, scales, waves, shares, documents."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worldmodel import toys
from worldmodel import flow
from worldmodel.attention import rotary_angles
from worldmodel.flow import FlowConfig
from worldmodel.tokens import tokenise


def test_the_samplers_steps_are_shifted_as_in_training() -> None:
    used: list[float] = []

    def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
        used.append(t)
        return torch.ones_like(z)

    reached = flow.sample(velocity, torch.zeros(1, 1, 1), 4, 3.0)
    noise = np.array([1, 0.75, 0.5, 0.25])
    assert used == pytest.approx((1 - 3 * noise / (1 + 2 * noise)).tolist())
    assert reached.item() == pytest.approx(1), "the steps go from 0 to 1"


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_noised_latents_are_shown_as_the_best_linear_guess(t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    z_t = flow.interpolate(z, noise, torch.tensor(t, dtype=torch.float64))
    shown = flow.network_input(z_t, torch.tensor(t, dtype=torch.float64), FlowConfig())
    best = float((z * z_t).mean() / z_t.square().mean())
    assert float((shown / z_t).mean()) == pytest.approx(best, abs=0.01)
    for config in (FlowConfig(prediction="v"), FlowConfig(shrink_input=False)):
        assert torch.equal(flow.network_input(z_t, torch.tensor(t), config), z_t)


def test_flow_times_are_logit_normal() -> None:
    t = flow.shift_time(flow.sample_time(40_000, 4.0, True, torch.Generator().manual_seed(0)).double(), 1 / 4.0)
    logits = torch.logit(t)
    assert float(logits.mean()) == pytest.approx(0, abs=0.02) and float(logits.std()) == pytest.approx(1, abs=0.02)
    even = flow.shift_time(flow.sample_time(40_000, 4.0, False, torch.Generator().manual_seed(0)).double(), 1 / 4.0)
    assert float(even.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_the_asked_share_of_frames_is_noise_alone() -> None:
    t = flow.sample_time(20_000, 2.0, True, torch.Generator().manual_seed(0), noise_share=0.3)
    assert float((t == 0).float().mean()) == pytest.approx(0.3, abs=0.015)
    assert (flow.sample_time(1000, 2.0, True, torch.Generator().manual_seed(0)) > 0).all()


def test_the_network_is_told_the_flow_time() -> None:
    model = toys.model(flow=FlowConfig(prediction="v"))
    z = toys.random_latents(1)
    early, late = (model.see(z, torch.tensor([t])).tokens for t in (0.1, 0.9))
    assert (early - late).abs().mean() > 0.05
    blind = toys.model(flow=FlowConfig(prediction="v"), time="none")
    assert torch.equal(*(blind.see(z, torch.tensor([t])).tokens for t in (0.1, 0.9)))


def test_waves_along_time_get_longer() -> None:
    theta = 10_000.0
    one = torch.ones(1, 1, 3, dtype=torch.long)
    cos, sin = rotary_angles(one, 32, theta)  # 16 pairs: 8 follow the time, 4 the row, 4 the column
    turned = torch.atan2(sin, cos)[0, 0, 0]
    time, row, column = turned[:8], turned[8:12], turned[12:]
    assert time[0].item() == pytest.approx(1) and (time.diff() < 0).all() and (time > 0).all()
    torch.testing.assert_close(time, theta ** (-torch.arange(8) / 8))
    expected = 2 * math.pi / 3 / 2.0 ** torch.arange(4)  # the shortest wave is three patches, the others double
    torch.testing.assert_close(row, expected)
    torch.testing.assert_close(column, expected)
    slow, fast = (rotary_angles(torch.tensor([[[n, 0, 0]]]), 32, theta)[0][0, 0, 0, 7] for n in (2, 1))
    assert abs(float(slow - fast)) < 1e-3, "the longest wave hardly turns in a step"


def test_shards_draw_different_documents_and_together_all() -> None:
    packer = toys.packer(config=replace(toys.PACKING, rows=4, data_shards=2))
    groups = [[{index for row in packer._shard(group, shard) for index, _ in row} for shard in (0, 1)] for group in (0, 1)]
    for first, second in groups:
        shared = first & second
        assert len(shared) <= 0.1 * len(first), "but for the few that the end of one shard takes of the next"
    seen = set().union(*(shard for data_shards in groups for shard in data_shards))
    everything = set(range(2 * packer.documents_per_group))
    assert len(seen & everything) >= 0.9 * len(everything)


def test_the_first_frame_of_a_video_is_context_nine_times_in_ten() -> None:
    config = replace(toys.PACKING, context_noise=0.0, text_action_share=0.0)
    clean = []
    for seed in range(400):
        tokens = tokenise(
            toys.action_video(np.random.default_rng(seed), 4), toys.tokenizer(), toys.GRID, config, np.random.default_rng([seed, 1])
        )
        assert tokens.clean in ([True, False, True, False], [False, True, False, True])
        clean.append(tokens.clean[0])
    assert np.mean(clean) == pytest.approx(0.9, abs=0.05)
