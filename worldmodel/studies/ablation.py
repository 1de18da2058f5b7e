"""Ablations of the recipe: which variants there are, what is measured of each, and what the seeds say of the paper's findings.

One baseline (representation autoencoder, the preset's feed-forward, x-prediction, the preset's shift) is shared by all comparisons;
every other variant differs from it in one thing. All else is equal: data, tokenizer, steps, batch, schedule, learning rates, and per
token as many active parameters. Every pair of variants is compared seed by seed (the same batches), so what the seeds have in
common drops out; intervals are Student's over the seeds. Tables of all of it: `worldmodel.studies.ablation_tables`.

Two variants change more than one thing. v-prediction also does without the scaling of noised latents and the floor on 1 - t of
x-prediction (`worldmodel.flow`; with the shift of `tiny` fewer than one flow time in 100,000 lies under the floor). With the shift
off, frames are also dreamed on another grid of times. Nothing is tuned for a variant, so one that wants another learning rate or
more steps is at a disadvantage.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from worldmodel.codec.kinds import CodecKind
from worldmodel.errors import UserError
from worldmodel.moe import FeedForwardKind
from worldmodel.presets import Preset
from worldmodel.studies.scaling import with_feed_forward
from worldmodel.studies.scaling_fit import student, verdict

What = Literal["codec", "feed-forward", "prediction", "shift"]
COMPARISONS: tuple[What, ...] = get_args(What)
LEAST_SEEDS = 3
"""Least seeds for a finding: with two, the spread is estimated from one number."""
LEAST_STEPS = 100
"""Of the runs that a finding is about: shorter ones are all warm-up, and compare initial weights."""


@dataclass(frozen=True)
class Variant:
    """One way to build the model."""

    codec: CodecKind
    feed_forward: FeedForwardKind
    prediction: Literal["x", "v"] = "x"
    shift: Literal["on", "off"] = "on"

    @property
    def name(self) -> str:
        """Name of the variant's run folders and rows."""
        return f"{self.codec}_{self.feed_forward}_{self.prediction}_shift-{self.shift}"

    def apply(self, preset: Preset) -> Preset:
        """Configure the preset with this variant's model; the codec is chosen elsewhere."""
        preset = with_feed_forward(preset, self.feed_forward)
        flow = replace(preset.model.flow, prediction=self.prediction)
        if self.shift == "off":
            flow = replace(flow, shift=1.0)
        return replace(preset, model=replace(preset.model, flow=flow))


def variants(what: What, feed_forward: FeedForwardKind) -> dict[str, Variant]:
    """List the variants of a comparison by the word that tells them apart; the baseline, which has this feed-forward, comes first."""
    baseline = Variant("rae", feed_forward)
    if what == "codec":
        return {kind: replace(baseline, codec=kind) for kind in get_args(CodecKind)}
    if what == "feed-forward":
        others = [kind for kind in get_args(FeedForwardKind) if kind != baseline.feed_forward]
        return {kind: replace(baseline, feed_forward=kind) for kind in [baseline.feed_forward, *others]}
    if what == "prediction":
        return {"x": baseline, "v": replace(baseline, prediction="v")}
    return {"on": baseline, "off": replace(baseline, shift="off")}


@dataclass(frozen=True)
class Measure:
    """Something measured of a run."""

    title: str
    """Of its column."""
    sign: int
    """1: more is better, -1: less is better, 0: neither."""
    digits: int = 3


MEASURES = {
    "text_bits_per_byte": Measure("text, bits per byte", -1),
    "flow_loss": Measure("flow loss", -1),
    "psnr_1": Measure("dream PSNR, 1 step", 1, 2),
    "psnr_last": Measure("dream PSNR, horizon", 1, 2),
    "state_error_1": Measure("state error, 1 step", -1),
    "state_error_last": Measure("state error, horizon", -1),
    "action_sensitivity": Measure("action sensitivity", 1),
    "codec_psnr": Measure("codec PSNR", 1, 2),
    "success": Measure("planning success", 1),
    "seconds_per_step": Measure("s/step", -1),
    "active_parameters": Measure("active parameters", 0, 0),
}
"""By name in the JSON."""
NOTES = (
    "text: cross-entropy of held-out text.",
    "flow loss: squared velocity error on held-out video at the baseline's noise levels; in units of the latents, so it cannot be "
    "compared across codecs.",
    "dream: open-loop prediction of held-out clips from their actions, one step and the whole horizon (--dream.horizon) ahead.",
    "PSNR: of the decoded dream; it rewards a blurred or missing object, so read it beside the state error.",
    "state error: root mean squared error, in standard deviations, of the true state that one state probe reads off the decoded dream "
    "(ridge regression from small pictures; it knows no codec).",
    "action sensitivity: pixel error with another clip's actions over that with the true ones, at the horizon; 1: they are ignored.",
    "shift: on is that of the preset, with the strength written beside its steps; RAE's rule gives another one for most sizes.",
    "intervals: 95 %, Student's t over seeds; one codec of a kind serves all seeds, so they do not hold the luck of a codec. Findings "
    "are tested one by one at 5 %, without a correction for their number, and hold for these sizes, steps and data; fewer than "
    f"{LEAST_SEEDS} seeds or {LEAST_STEPS} steps tell nothing.",
)
"""What a reader of the tables must know."""


@dataclass(frozen=True)
class Finding:
    """Something the paper found of two variants, and where we would see it."""

    what: What
    better: str
    worse: str
    measure: str
    claim: str
    paper: str
    """What the paper has, `better` against `worse`: arXiv 2603.03276, sections 2 and 4; RAE is arXiv 2510.11690."""


FINDINGS = (
    Finding(
        "codec", "rae", "vae", "state_error_last", "representation latents dream better than a VAE's", "0.59 against 0.43 DPGBench"
    ),
    Finding(
        "codec", "rae", "pixels", "state_error_last", "representation latents dream better than pixels", "0.59 against 0.38 DPGBench"
    ),
    Finding("codec", "rae", "vae", "psnr_last", "representation latents dream better than a VAE's", "0.59 against 0.43 DPGBench"),
    Finding("codec", "rae", "pixels", "psnr_last", "representation latents dream better than pixels", "0.59 against 0.38 DPGBench"),
    Finding(
        "feed-forward",
        "modality",
        "shared",
        "text_bits_per_byte",
        "a feed-forward per modality helps text",
        "15.1 against 15.9 perplexity",
    ),
    Finding(
        "feed-forward", "modality", "shared", "flow_loss", "a feed-forward per modality helps vision", "0.47 against 0.45 DPGBench"
    ),
    Finding(
        "feed-forward", "moe", "modality", "text_bits_per_byte", "a mixture of experts helps text", "12.5 against 15.1 perplexity"
    ),
    Finding("feed-forward", "moe", "modality", "flow_loss", "a mixture of experts helps vision", "0.63 against 0.57 DPGBench"),
    Finding("prediction", "x", "v", "flow_loss", "predicting clean latents beats velocities", "0.483 against 0.502 diffusion loss"),
    Finding("prediction", "x", "v", "state_error_last", "predicting clean latents beats velocities", "0.65 against 0.63 DPGBench"),
    Finding("shift", "on", "off", "state_error_last", "the shifted noise schedule helps", "taken over from RAE"),
    Finding("shift", "on", "off", "psnr_last", "the shifted noise schedule helps", "taken over from RAE"),
)

Runs = Mapping[tuple[str, int], Mapping[str, float]]
"""Measures by variant's name and seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval."""

    mean: float
    half: float | None
    """Half of the interval; None for a single seed."""
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Compute the mean and Student's interval."""
    n = len(values)
    half = float(student(n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(np.mean(values)), half, n)


def values_of(runs: Runs, variant: str, measure: str) -> dict[int, float]:
    """Return a measure by seed, of the runs that have it."""
    return {seed: values[measure] for (name, seed), values in runs.items() if name == variant and measure in values}


@dataclass(frozen=True)
class Outcome:
    """What the runs say of one finding."""

    finding: Finding
    means: tuple[float, float] | None
    """Of `better` and `worse`, over the seeds that both have; None if there are none."""
    gain: Estimate | None
    """Paired difference over these seeds, above 0 where `better` is better."""
    steps: int = LEAST_STEPS
    """Training steps of each run."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the gain; None for fewer than two seeds."""
        if self.gain is None or self.gain.half is None:
            return None
        return self.gain.mean - self.gain.half, self.gain.mean + self.gain.half

    @property
    def verdict(self) -> str:
        """The verdict: holds, the interval lies above 0; does not hold, below; inconclusive: neither, or too few seeds or steps."""
        if self.steps < LEAST_STEPS:
            return f"inconclusive: {self.steps} steps are fewer than {LEAST_STEPS}"
        if self.gain is not None and 1 < self.gain.seeds < LEAST_SEEDS:
            return f"inconclusive: {self.gain.seeds} seeds are fewer than {LEAST_SEEDS}"
        return verdict(*(self.interval or (None, None)))

    def to_json(self) -> dict[str, Any]:
        """Return a flat record for results.json."""
        low, high = self.interval or (None, None)
        numbers = {"means": self.means, "gain": self.gain and self.gain.mean, "low": low, "high": high}
        return asdict(self.finding) | numbers | {"seeds": self.gain.seeds if self.gain else 0, "verdict": self.verdict}


def compare(finding: Finding, first: Variant, second: Variant, runs: Runs, steps: int = LEAST_STEPS) -> Outcome:
    """Test whether the paper's finding holds in these runs: the paired difference over the seeds that both variants have."""
    sign = MEASURES[finding.measure].sign
    ours, theirs = (values_of(runs, variant.name, finding.measure) for variant in (first, second))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return Outcome(finding, None, None, steps)
    means = float(np.mean([ours[seed] for seed in seeds])), float(np.mean([theirs[seed] for seed in seeds]))
    return Outcome(finding, means, estimate([sign * (ours[seed] - theirs[seed]) for seed in seeds]), steps)


def findings(whats: Sequence[What], feed_forward: FeedForwardKind, runs: Runs, steps: int = LEAST_STEPS) -> list[Outcome]:
    """Test each known finding of these comparisons in runs of so many steps; `feed_forward` is the baseline's."""
    named = {what: variants(what, feed_forward) for what in whats}
    return [compare(f, named[f.what][f.better], named[f.what][f.worse], runs, steps) for f in FINDINGS if f.what in whats]


def asked_for(comparisons: Sequence[What], feed_forward: FeedForwardKind) -> list[Variant]:
    """List the variants of some comparisons, each once, the baseline first."""
    return list(dict.fromkeys(v for what in comparisons for v in variants(what, feed_forward).values()))


def runs_of(record: dict[str, Any], path: Path = Path("results.json")) -> dict[tuple[str, int], dict[str, float]]:
    """Read the measures in results.json, by variant's name and seed.

    Raises:
        UserError: they are no such measures.
    """
    try:
        runs = {(str(run["variant"]), int(run["seed"])): dict(run["measures"]) for run in record["runs"]}
        dict(record["controls"])
        if not all(isinstance(value, int | float) for measures in runs.values() for value in measures.values()):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: remove it, and the runs of its folder are measured again") from None
    return runs
