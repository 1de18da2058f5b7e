"""Variants, sentences on made-up numbers, and the judge."""

from dataclasses import replace

import numpy as np
import pytest

from worldmodel.flops import parameter_counts
from worldmodel.presets import base, small, tiny
from worldmodel.studies.ablation import FINDINGS, MEASURES, Variant, estimate, findings, sentence, student, table, values_of, variants
from worldmodel.studies.judge import Judge

BASELINE = Variant("rae", "modality")
X_BEATS_V = next(f for f in FINDINGS if f.what == "prediction" and f.measure == "flow_loss")


def test_seven_variants_share_one_baseline() -> None:
    everything = [v for what in ("codec", "feed-forward", "prediction", "shift") for v in variants(what, tiny()).values()]  # type: ignore[arg-type]
    assert len(set(everything)) == 7 and everything.count(BASELINE) == 4
    assert len({v.name for v in everything}) == 7
    for variant in set(everything) - {BASELINE}:
        assert sum(a != b for a, b in zip(vars(variant).values(), vars(BASELINE).values(), strict=True)) == 1
    assert list(variants("feed-forward", base())) == ["moe", "shared", "modality"]


def test_a_variant_changes_one_thing_of_the_preset() -> None:
    preset = tiny()
    assert BASELINE.apply(preset) == preset
    v = replace(BASELINE, prediction="v").apply(preset)
    assert v.model.flow == replace(preset.model.flow, prediction="v") and v.train == preset.train
    assert replace(BASELINE, shift="off").apply(preset).model.flow.shift == 1.0
    assert replace(BASELINE, codec="pixels").apply(preset) == preset
    for given in (tiny(), small(), base()):
        active = {f: parameter_counts(Variant("rae", f).apply(given).model).active for f in ("shared", "modality", "moe")}
        assert active["moe"] == pytest.approx(active["shared"], rel=0.01) and active["shared"] == active["modality"]


def test_every_finding_names_variants_and_measures_that_exist() -> None:
    for finding in FINDINGS:
        assert {finding.better, finding.worse} <= variants(finding.what, tiny()).keys()
        assert MEASURES[finding.measure].sign != 0


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((0.50, 0.60, 0.70), (0.60, 0.71, 0.79), ": holds HERE: x 0.600, v 0.700, x is better by 0.100 [0.075, 0.125]"),
        ((0.60, 0.71, 0.79), (0.50, 0.60, 0.70), ": does not hold HERE: x 0.700, v 0.600, x is worse by 0.100 [0.075, 0.125]"),
        ((0.50, 0.60, 0.70), (0.40, 0.80, 0.90), ": cannot be told HERE: x 0.600, v 0.700, x is better by 0.100 [-0.330, 0.530]"),
        (
            (0.50,),
            (0.60,),
            ": cannot be told here (240 steps, 2.49 M active parameters, 1 seed), one seed has no interval: x 0.500, v",
        ),
        ((), (0.60,), ": cannot be told, it was not measured of both"),
    ],
)
def test_a_finding_is_judged_by_the_paired_difference(ours: tuple[float, ...], theirs: tuple[float, ...], said: str) -> None:
    x, v = BASELINE, replace(BASELINE, prediction="v")
    runs = {
        (variant.name, seed): {"flow_loss": loss, "active_parameters": 2_489_216.0}
        for variant, losses in ((x, ours), (v, theirs))
        for seed, loss in enumerate(losses)
    }
    line = sentence(X_BEATS_V, x, v, runs, tiny().train.steps)
    said = said.replace("HERE", "here (240 steps, 2.49 M active parameters, 3 seeds)").replace("240", str(tiny().train.steps))
    assert said in line and "the paper: diffusion loss 0.483 to 0.502" in line
    assert line in findings(("prediction",), tiny(), runs) and len(findings(("prediction",), tiny(), runs)) == 2


def test_only_seeds_of_both_variants_are_paired() -> None:
    x, v = BASELINE, replace(BASELINE, prediction="v")
    runs = {(x.name, seed): {"flow_loss": 0.5 + seed} for seed in range(3)} | {
        (v.name, seed): {"flow_loss": 0.6 + seed} for seed in (1, 2, 7)
    }
    assert "(7 steps, 2 seeds)" in sentence(X_BEATS_V, x, v, runs, 7)
    assert values_of(runs, v.name, "flow_loss") == {1: 1.6, 2: 2.6, 7: 7.6}


def test_more_is_better_where_it_is() -> None:
    on, off = BASELINE, replace(BASELINE, shift="off")
    finding = next(f for f in FINDINGS if f.what == "shift" and f.measure == "psnr_last")
    runs = {(name, s): {"psnr_last": value + s / 100} for name, value in ((on.name, 20.0), (off.name, 18.0)) for s in range(3)}
    assert ": holds here (7 steps, 3 seeds): on 20.01, off 18.01, on is better by 2.00" in sentence(finding, on, off, runs, 7)


def test_the_table_has_means_with_intervals() -> None:
    runs = {("a", s): {"psnr_1": 20.0 + s, "active_parameters": 1234567.0} for s in range(3)} | {("b", 0): {"psnr_1": 9.0}}
    assert table(["a", "b", "c"], runs) == [
        ("variant", "dream PSNR 1", "active N", "seeds"),
        ("a", "21.00 +- 2.48", "1,234,567", "3"),
        ("b", "9.00", "-", "1"),
        ("c", "-", "-", "0"),
    ]


def test_students_quantile() -> None:
    assert [student(n) for n in (1, 2, 10)] == [12.706, 4.303, 2.228]
    assert (student(11), student(30), student(1000)) == pytest.approx((2.201, 2.042, 1.962), abs=3e-3)
    one = estimate([3.0])
    assert (one.mean, one.half) == (3.0, None)


def scene(x: np.ndarray, y: np.ndarray, colour: np.ndarray, size: int = 64) -> np.ndarray:
    """Discs of any colour on grey, at places in pixels."""
    rows, columns = np.mgrid[:size, :size]
    disc = np.hypot(rows[None] - y[:, None, None], columns[None] - x[:, None, None]) < 6
    return np.where(disc[..., None], colour[:, None, None], 128).astype(np.uint8)


def test_the_judge_reads_places_whatever_the_colour() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(8, 56, (2, 600))
    frames = scene(x, y, rng.choice([0, 255], (600, 3)))
    features = np.stack([x, y, np.ones(600)], 1)  # the last never varies, and is not judged
    judge = Judge(frames[:500], features[:500], np.arange(500) // 10)
    assert judge.error(frames[500:], features[500:]) < 0.1
    elsewhere = features[500:] + [judge.scale[0], 0, 0]
    assert judge.error(frames[500:], elsewhere) == pytest.approx(np.sqrt(1 / 2), abs=0.08)
