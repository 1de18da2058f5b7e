"""Variants, sentences on made-up numbers, and the state probe."""

from dataclasses import replace

import numpy as np
import pytest

from worldmodel.flops import parameter_counts
from worldmodel.presets import base, small, tiny
from worldmodel.studies.ablation import FINDINGS, MEASURES, Variant, compare, estimate, findings, values_of, variants
from worldmodel.studies.ablation_tables import findings_table, label, markdown, table
from worldmodel.studies.scaling_fit import student
from worldmodel.studies.state_probe import StateProbe

BASELINE = Variant("rae", "modality")
X_BEATS_V = next(f for f in FINDINGS if f.what == "prediction" and f.measure == "flow_loss")


def test_seven_variants_share_one_baseline() -> None:
    everything = [v for what in ("codec", "feed-forward", "prediction", "shift") for v in variants(what, "modality").values()]  # type: ignore[arg-type]
    assert len(set(everything)) == 7 and everything.count(BASELINE) == 4
    assert len({v.name for v in everything}) == 7
    for variant in set(everything) - {BASELINE}:
        assert sum(a != b for a, b in zip(vars(variant).values(), vars(BASELINE).values(), strict=True)) == 1
    assert list(variants("feed-forward", "moe")) == ["moe", "shared", "modality"]


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
        assert {finding.better, finding.worse} <= variants(finding.what, "modality").keys()
        assert MEASURES[finding.measure].sign != 0


@pytest.mark.parametrize(
    ("ours", "theirs", "here", "gain", "verdict"),
    [
        ((0.50, 0.60, 0.70), (0.60, 0.71, 0.79), "0.600 against 0.700", "+0.100 [+0.075, +0.125]", "holds"),
        ((0.60, 0.71, 0.79), (0.50, 0.60, 0.70), "0.700 against 0.600", "-0.100 [-0.125, -0.075]", "does not hold"),
        ((0.50, 0.60, 0.70), (0.40, 0.80, 0.90), "0.600 against 0.700", "+0.100 [-0.330, +0.530]", "inconclusive"),
        ((0.50,), (0.60,), "0.500 against 0.600", "+0.100 (one seed, no interval)", "inconclusive"),
        ((), (0.60,), "not measured of both", "-", "inconclusive"),
    ],
)
def test_a_finding_is_judged_by_the_paired_difference(
    ours: tuple[float, ...], theirs: tuple[float, ...], here: str, gain: str, verdict: str
) -> None:
    x, v = BASELINE, replace(BASELINE, prediction="v")
    runs = {
        (variant.name, seed): {"flow_loss": loss} for variant, losses in ((x, ours), (v, theirs)) for seed, loss in enumerate(losses)
    }
    outcome = compare(X_BEATS_V, x, v, runs)
    paper = "0.483 against 0.502 diffusion loss"
    assert findings_table([outcome])[1] == ("prediction: x against v", "flow loss", paper, here, gain, verdict)
    assert outcome in findings(("prediction",), "modality", runs) and len(findings(("prediction",), "modality", runs)) == 2
    record = outcome.to_json()
    assert (record["verdict"], record["seeds"], record["measure"]) == (verdict, min(len(ours), len(theirs)), "flow_loss")
    assert (record["low"] is None) == (len(ours) < 2) and (record["gain"] is None) == (not ours)


def test_only_seeds_of_both_variants_are_paired() -> None:
    x, v = BASELINE, replace(BASELINE, prediction="v")
    runs = {(x.name, seed): {"flow_loss": 0.5 + seed} for seed in range(3)} | {
        (v.name, seed): {"flow_loss": 0.6 + seed} for seed in (1, 2, 7)
    }
    outcome = compare(X_BEATS_V, x, v, runs)
    assert outcome.gain is not None and outcome.gain.seeds == 2 and outcome.means == pytest.approx((2.0, 2.1))
    assert values_of(runs, v.name, "flow_loss") == {1: 1.6, 2: 2.6, 7: 7.6}


def test_more_is_better_where_it_is() -> None:
    on, off = BASELINE, replace(BASELINE, shift="off")
    finding = next(f for f in FINDINGS if f.what == "shift" and f.measure == "psnr_last")
    runs = {
        (name, s): {"psnr_last": value + s * step}
        for name, value, step in ((on.name, 20.0, 0.1), (off.name, 18.0, 0))
        for s in range(3)
    }
    outcome = compare(finding, on, off, runs)
    assert outcome.verdict == "holds" and outcome.gain is not None and outcome.gain.mean == pytest.approx(2.1)


def test_the_table_has_means_with_intervals() -> None:
    a, b = BASELINE, replace(BASELINE, codec="vae")
    runs = {(a.name, s): {"psnr_1": 20.0 + s, "flow_loss": 0.5, "codec_psnr": 31.2} for s in range(3)}
    rows = table([a, b, replace(a, codec="pixels")], runs | {(b.name, 0): {"psnr_1": 9.0}}, {"psnr_1 of copying": 8.0, "other": 1.0})
    assert rows == [
        ("variant", "flow loss", "dream PSNR, 1 step", "seeds"),
        ("baseline: rae, modality, x, shift on", "0.500 +- 0.000", "21.00 +- 2.48", "3"),
        ("codec vae", "-", "9.00", "1"),
        ("codec pixels", "-", "-", "0"),
        ("copying the last frame", "-", "8.00", "-"),
    ]
    assert label(replace(BASELINE, feed_forward="moe", shift="off"), BASELINE) == "feed-forward moe, shift off"
    assert markdown([("a", "b"), ("1 +- 2", "-")]) == "| a | b |\n| --- | --- |\n| 1 ± 2 |  |\n"


def test_students_quantile() -> None:
    expected = (12.7062047, 4.3026527, 2.2281389, 2.2009852, 2.0422725, 1.9623391)
    assert [student(n) for n in (1, 2, 10, 11, 30, 1000)] == pytest.approx(expected, rel=1e-7)
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
    state_probe = StateProbe(frames[:500], features[:500], np.arange(500) // 10)
    assert state_probe.error(frames[500:], features[500:]) < 0.1
    elsewhere = features[500:] + [state_probe.scale[0], 0, 0]
    assert state_probe.error(frames[500:], elsewhere) == pytest.approx(np.sqrt(1 / 2), abs=0.08)


def test_few_seeds_or_steps_tell_nothing() -> None:
    x, v = BASELINE, replace(BASELINE, prediction="v")

    def said(seeds: int, steps: int) -> str:
        runs = {
            (variant.name, seed): {"flow_loss": loss + 0.001 * seed * (variant == x)}
            for variant, loss in ((x, 0.5), (v, 0.9))
            for seed in range(seeds)
        }
        outcome = compare(X_BEATS_V, x, v, runs, steps)
        assert findings_table([outcome])[1][-1] == outcome.to_json()["verdict"] == outcome.verdict
        assert findings(("prediction",), "modality", runs, steps)[0].verdict == outcome.verdict
        return outcome.verdict

    assert said(3, 240) == said(5, 100) == "holds"
    assert said(2, 240) == "inconclusive: 2 seeds are fewer than 3"
    assert said(3, 4) == said(2, 4) == "inconclusive: 4 steps are fewer than 100"
    assert said(1, 240) == "inconclusive"
