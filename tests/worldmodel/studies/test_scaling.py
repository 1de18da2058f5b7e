"""The fits on made-up losses of known exponents, and the grid on models that nobody trains."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from tests.worldmodel import toys
from worldmodel.errors import UserError
from worldmodel.flops import parameter_counts, training_flops
from worldmodel.moe import FeedForwardKind, MoEConfig
from worldmodel.presets import Preset, base, small, tiny
from worldmodel.studies.scaling import Measured, Point, check_grid, for_steps, plan, scaled, study, with_feed_forward
from worldmodel.studies.scaling_figure import draw
from worldmodel.studies.scaling_fit import Curve, Exponent, difference, fit_parabolas, fit_surface, verdict

ALPHA, BETA = 0.34, 0.28  # a = 0.452, b = 0.548
A, B = BETA / (ALPHA + BETA), ALPHA / (ALPHA + BETA)


def made_up(
    noise: float = 0.0,
    seed: int = 0,
    off_centre: float = 1.0,
    alpha: float = ALPHA,
    beta: float = BETA,
    budgets: tuple[float, ...] = (1e17, 1e18, 1e19),
    sizes: int = 6,
    width: float = 4.0,
) -> Curve:
    """Losses of a known surface; each budget's grid spans 1 / width to width times the best size, times `off_centre`."""
    rng = np.random.default_rng(seed)
    rows = []
    for flops in budgets:
        best = (alpha * 400 / (beta * 410)) ** (1 / (alpha + beta)) * (flops / 6) ** (beta / (alpha + beta))
        for n in off_centre * best * np.geomspace(1 / width, width, sizes):
            d = flops / 6 / n
            rows.append((flops, n, d, (1.7 + 400 / n**alpha + 410 / d**beta) * (1 + noise * rng.standard_normal())))
    return Curve(*np.array(rows).T)


@pytest.mark.parametrize("off_centre", [1.0, 3.0, 0.2])
def test_the_surface_gives_known_exponents_back_even_off_centre(off_centre: float) -> None:
    fit = fit_surface(made_up(off_centre=off_centre), 20, 0)
    assert fit.a is not None and fit.b is not None and not fit.problem
    assert (fit.alpha, fit.beta) == pytest.approx((ALPHA, BETA), abs=2e-3)
    assert (fit.floor, fit.a.value, fit.b.value) == pytest.approx((1.7, A, B), abs=5e-3)
    assert fit.predict(np.array(1e9), np.array(1e10)) == pytest.approx(1.7 + 400 * 1e9**-ALPHA + 410 * 1e10**-BETA, rel=1e-4)


def test_intervals_hold_the_truth_with_noise() -> None:
    inside = {"surface": 0, "parabolas": 0}
    for seed in range(6):
        curve = made_up(noise=0.003, seed=seed)
        for name, fit in (("surface", fit_surface(curve, 60, seed)), ("parabolas", fit_parabolas(curve, 200, seed))):
            assert fit.b is not None and fit.b.low is not None and fit.b.high is not None
            assert 0 < fit.b.high - fit.b.low < 0.2
            inside[name] += fit.b.low <= B <= fit.b.high
    assert min(inside.values()) >= 5


def test_parabolas_find_the_optima_of_a_centred_grid_and_are_biased_off_it() -> None:
    fit = fit_parabolas(made_up(), 50, 0)
    assert fit.a is not None and fit.b is not None and not fit.problem
    assert (fit.a.value, fit.b.value) == pytest.approx((A, B), abs=0.01)
    for optimum in fit.optima:
        assert 6 * optimum.parameters * optimum.tokens == pytest.approx(optimum.flops, rel=1e-3)
    true = made_up(sizes=3, width=1.0001).parameters[1::3]
    near, far = (
        np.array([o.parameters for o in f.optima]) / true for f in (fit, fit_parabolas(made_up(off_centre=3.0, width=8.0), 20, 0))
    )
    assert abs(np.log(near)).max() < abs(np.log(far)).min()


@pytest.mark.parametrize(("off_centre", "side"), [(40.0, "below"), (0.02, "above")])
def test_optima_outside_the_grid_are_said_and_not_fitted(off_centre: float, side: str) -> None:
    fit = fit_parabolas(made_up(off_centre=off_centre), 20, 0)
    assert fit.a is None and fit.b is None
    assert fit.problem.count(f"optimum outside the grid, {side} all sizes") == 3


def test_one_bad_budget_is_left_out() -> None:
    good, bad = made_up(), made_up(off_centre=40.0, budgets=(1e20,))
    fit = fit_parabolas(Curve(*(np.concatenate([getattr(good, k), getattr(bad, k)]) for k in vars(good))), 20, 0)
    assert [bool(o.problem) for o in fit.optima] == [False, False, False, True] and "1e+20 FLOPs" in fit.problem
    assert fit.a is not None and fit.a.value == pytest.approx(A, abs=0.01)


def test_too_few_runs_give_no_exponents_or_no_intervals() -> None:
    three = fit_parabolas(made_up(sizes=3), 20, 0)
    assert three.a is not None and three.a.low is None and "three sizes" in three.problem
    two = fit_parabolas(made_up(sizes=2), 20, 0)
    assert two.a is None and "too few sizes" in two.problem
    few = fit_surface(made_up(sizes=5, budgets=(1e18,)), 20, 0)
    assert few.a is None and "5 runs are too few" in few.problem
    curve = made_up()
    bent = fit_parabolas(replace(curve, loss=-curve.loss), 20, 0)
    assert bent.a is None and "do not bend upwards" in bent.problem
    flat = fit_surface(replace(curve, loss=1 + 400 * curve.tokens**-BETA), 20, 0)
    assert "size" in flat.problem or "end of the searched range" in flat.problem


def test_a_difference_goes_replicate_by_replicate() -> None:
    wobble = np.random.default_rng(0).normal(size=100)
    first, second = Exponent(0.6, 0, 1, 0.6 + wobble), Exponent(0.5, 0, 1, 0.5 + wobble)
    gap = difference(first, second)
    assert gap is not None and (gap.low, gap.high) == pytest.approx((0.1, 0.1)) and difference(first, None) is None
    lost = difference(Exponent(0.6, 0, 1, np.full(100, np.nan)), second)
    assert lost is not None and lost.low is None
    assert [verdict(0.1, 0.2), verdict(-0.2, -0.1), verdict(-0.1, 0.2), verdict(None, None)] == [
        "holds",
        "does not hold",
        "inconclusive",
        "inconclusive",
    ]


def measured(gap: float, kind: str = "dense", noise: float = 0.0005) -> list[Measured]:
    """Runs whose vision has a data exponent b that is higher than language's by about `gap`."""
    language = made_up(noise, 1, alpha=0.30, beta=0.30)
    b = 0.5 + gap
    alpha, beta = 0.6 * b, 0.6 * (1 - b)
    rng = np.random.default_rng(2)
    vision = 1.7 + 400 * language.parameters**-alpha + 410 * language.tokens**-beta
    runs = []
    for i, flops in enumerate(language.flops):
        n, d = language.parameters[i], language.tokens[i]
        point = Point(kind, float(i), float(flops), 64, 2, int(n), int(n), 100, int(d))  # type: ignore[arg-type]
        losses = {"language": float(language.loss[i]), "vision": float(vision[i] * (1 + noise * rng.standard_normal()))}
        runs.append(Measured(point, losses, 1.0, 2.0))
    return runs


def test_the_papers_findings_hold_or_not_or_cannot_be_told() -> None:
    def said(result: list[Measured]) -> list[str]:
        return [line for line in study(result, 40, 0).sentences() if line.startswith("approach 3")]

    assert [": holds here, +0." in line for line in said(measured(0.1))] == [True]
    assert ": does not hold here, -0." in said(measured(-0.1))[0]
    assert ": inconclusive here, the interval is too wide" in said(measured(0.0, noise=0.02))[0]
    both = said(measured(0.15) + measured(0.05, "moe"))
    assert len(both) == 3 and "narrows the gap" in both[2] and ": holds here, +0." in both[2]
    sizeless = [replace(each, losses={m: 1 + 400 * each.point.tokens**-BETA for m in each.losses}) for each in measured(0.1)]
    flat = study(sizeless, 20, 0)
    assert flat.fits["dense", "vision"].surface.b is not None and flat.fits["dense", "vision"].surface.problem
    assert "inconclusive here, there are no exponents to compare" in flat.sentences()[0], "those at the end of their range are none"


def test_the_study_is_written_down_and_drawn() -> None:
    result = study(measured(0.1) + measured(0.05, "moe"), 20, 0)
    record = result.to_json()
    assert set(record["fits"]) == {"dense/language", "dense/vision", "moe/language", "moe/vision"}
    assert record["runs"].split()[0] == str(2 * len(measured(0.1)))
    assert record["fits"]["dense/vision"]["paper"] == {"a": 0.37, "b": 0.63}
    assert len(record["fits"]["moe/vision"]["approach_2"]["optima"]) == 3
    assert draw(result).startswith(b"\x89PNG")


@pytest.mark.parametrize("preset", [tiny(), small(), base()], ids=["tiny", "small", "base"])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_the_dial_keeps_proportions(preset: Preset, kind: str) -> None:
    one, two = (scaled(preset, size, kind).model for size in (1.0, 2.0))  # type: ignore[arg-type]
    assert one.trunk.width == preset.model.trunk.width and one.trunk.depth == preset.model.trunk.depth
    assert two.trunk.width == 2 * one.trunk.width and two.trunk.depth == 2 * one.trunk.depth
    assert two.trunk.width // two.trunk.heads == one.trunk.width // one.trunk.heads
    assert two.trunk.heads // two.trunk.kv_heads == one.trunk.heads // one.trunk.kv_heads
    assert two.trunk.hidden == 2 * one.trunk.hidden and two.trunk.moe.expert_hidden == 2 * one.trunk.moe.expert_hidden
    assert (two.trunk.moe.num_experts, two.trunk.moe.top_k) == (one.trunk.moe.num_experts, one.trunk.moe.top_k)
    assert two.base_width == one.base_width == (preset.model.base_width or preset.model.trunk.width)
    assert two.trunk.feed_forward == ("moe" if kind == "moe" else one.trunk.feed_forward) != ("moe" if kind == "dense" else "")


def toy_preset() -> Preset:
    return replace(tiny(), model=toys.model_config())


def test_another_feed_forward_has_as_many_active_parameters() -> None:
    preset = toy_preset()
    trunk = replace(preset.model.trunk, moe=MoEConfig(8, 3, 999))
    preset = replace(preset, model=replace(preset.model, trunk=trunk))
    active = {kind: parameter_counts(with_feed_forward(preset, kind).model).active for kind in get_args(FeedForwardKind)}
    router = trunk.depth * 8 * trunk.width
    assert active["shared"] == active["modality"] == active["moe"] - router
    assert with_feed_forward(base(), "modality").model.trunk.hidden == 8 * 256
    assert with_feed_forward(base(), "moe") == base()


def test_a_budget_is_spent_in_steps_and_tokens() -> None:
    config, batch = toys.model_config(), toys.packer().batch(0)
    small_, large = plan(config, "dense", 1.0, (1e9, 1e10), [batch])
    assert large.steps * training_flops(config, batch) == pytest.approx(1e10, rel=0.05)
    assert large.tokens == large.steps * batch.tokens and small_.steps < large.steps
    counts = parameter_counts(config)
    assert large.active == counts.active - config.vocab_size * config.trunk.width and large.total == counts.total


def test_a_schedule_keeps_its_shares() -> None:
    preset = replace(tiny(), train=replace(tiny().train, steps=560, warmup_steps=20, ema_decay=0.98))
    train = for_steps(preset, 56).train
    assert (train.steps, train.warmup_steps, train.sample_every, train.validate_every) == (56, 2, 0, 0)
    assert train.ema_decay == pytest.approx(0.8) and for_steps(preset, 560).train.ema_decay == pytest.approx(0.98)
    assert for_steps(preset, 3).train.ema_decay == 0


def test_the_same_model_twice_is_refused() -> None:
    points = [Point("dense", size, 1e12, 64, 2, 10, 10, 5, 50) for size in (0.5, 0.6)]
    with pytest.raises(UserError, match=r"sizes 0.5 and 0.6 are the same model of width 64 and depth 2"):
        check_grid(points)
    check_grid([points[0], replace(points[0], budget=2e12), replace(points[1], kind="moe")])
