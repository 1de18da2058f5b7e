"""Ablations of the recipe: which variants there are, what is measured of each, and what the seeds say of the paper's findings.

One baseline (representation autoencoder, the preset's feed-forward, x-prediction, the preset's shift) is shared by all comparisons;
every other variant differs from it in one thing. All else is equal: data, tokenizer, steps, batch, schedule, learning rates, and per
token as many active parameters. Every pair of variants is compared seed by seed (the same batches), so what the seeds have in
common drops out; intervals are Student's over the seeds.

Two of the one things are bundles: v-prediction does without the scaling of noised latents and the floor on 1 - t that x-prediction
has (`worldmodel.flow`), and with the shift off frames are drawn at other noise levels and dreamt on another grid of times. Nothing
is tuned for a variant, so one that wants another learning rate or more steps is at a disadvantage.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from worldmodel.codec.config import Kind as CodecKind
from worldmodel.moe import FeedForwardKind
from worldmodel.presets import Preset
from worldmodel.studies.scaling import with_feed_forward
from worldmodel.studies.scaling_fit import verdict

What = Literal["codec", "feed-forward", "prediction", "shift"]


@dataclass(frozen=True)
class Variant:
    """One way to build the model."""

    codec: CodecKind
    feed_forward: FeedForwardKind
    prediction: Literal["x", "v"] = "x"
    shift: Literal["on", "off"] = "on"

    @property
    def name(self) -> str:
        """Of its run folders and rows."""
        return f"{self.codec}_{self.feed_forward}_{self.prediction}_shift-{self.shift}"

    def apply(self, preset: Preset) -> Preset:
        """The preset with this variant's model; the codec is another matter."""
        preset = with_feed_forward(preset, self.feed_forward)
        flow = replace(preset.model.flow, prediction=self.prediction)
        if self.shift == "off":
            flow = replace(flow, shift=1.0)
        return replace(preset, model=replace(preset.model, flow=flow))


def variants(what: What, preset: Preset) -> dict[str, Variant]:
    """The variants of a comparison by the word that tells them apart, the baseline first."""
    baseline = Variant("rae", preset.model.trunk.feed_forward)
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
    """With its unit."""
    sign: int
    """1: more is better, -1: less is better, 0: neither."""
    digits: int = 3


MEASURES = {
    "text_bits_per_byte": Measure("text bits/byte", -1),
    "flow_loss": Measure("flow loss", -1),
    "psnr_1": Measure("dream PSNR 1", 1, 2),
    "psnr_last": Measure("dream PSNR last", 1, 2),
    "state_error_1": Measure("state error 1", -1),
    "state_error_last": Measure("state error last", -1),
    "action_sensitivity": Measure("action sensitivity", 1, 2),
    "codec_psnr": Measure("codec PSNR", 1, 2),
    "success": Measure("planning success", 1),
    "seconds_per_step": Measure("s/step", -1),
    "active_parameters": Measure("active N", 0, 0),
}
"""By name in the JSON."""
NOTES = (
    "text bits/byte: of held-out text. PSNR: of decoded open-loop dreams in pixels, one step and the whole horizon ahead. "
    "State error: root mean squared error, in standard deviations, of the state that one and the same judge (ridge regression from "
    "small pictures, which knows no codec) reads off decoded dreams. Action sensitivity: pixel error with another clip's actions over "
    "that with the true ones, at the horizon; 1 is deaf. Flow loss: on held-out video, at the baseline's noise levels; it is in units "
    "of the latents, so it says nothing across codecs. +- is half of the 95 % interval over seeds. Each sentence holds for the steps, "
    "size and seeds that stand in it, not for the paper's; where two variants are equal one sentence in twenty is wrong by chance."
)
"""What a reader of the table must know."""


@dataclass(frozen=True)
class Finding:
    """Something the paper found of two variants, and where we would see it."""

    what: What
    better: str
    worse: str
    measure: str
    claim: str
    paper: str
    """What the paper has (arXiv 2603.03276, or where else it is from)."""


FINDINGS = (
    Finding("codec", "rae", "vae", "state_error_last", "representation latents dream better than a VAE's", "DPGBench 0.59 to 0.43"),
    Finding("codec", "rae", "pixels", "state_error_last", "representation latents dream better than pixels", "DPGBench 0.59 to 0.38"),
    Finding("codec", "rae", "vae", "psnr_last", "representation latents dream better than a VAE's", "DPGBench 0.59 to 0.43"),
    Finding("codec", "rae", "pixels", "psnr_last", "representation latents dream better than pixels", "DPGBench 0.59 to 0.38"),
    Finding("feed-forward", "modality", "shared", "text_bits_per_byte", "a feed-forward per modality helps text", "PPL 15.1 to 15.9"),
    Finding("feed-forward", "modality", "shared", "flow_loss", "a feed-forward per modality helps vision", "DPGBench 0.47 to 0.45"),
    Finding("feed-forward", "moe", "modality", "text_bits_per_byte", "a mixture of experts helps text", "PPL 12.5 to 15.1"),
    Finding("feed-forward", "moe", "modality", "flow_loss", "a mixture of experts helps vision", "DPGBench 0.63 to 0.57"),
    Finding("prediction", "x", "v", "flow_loss", "predicting clean latents beats velocities", "diffusion loss 0.483 to 0.502"),
    Finding("prediction", "x", "v", "state_error_last", "predicting clean latents beats velocities", "DPGBench 0.65 to 0.63"),
    Finding("shift", "on", "off", "state_error_last", "the shifted noise schedule helps", "taken over from RAE, arXiv 2510.11690"),
    Finding("shift", "on", "off", "psnr_last", "the shifted noise schedule helps", "taken over from RAE, arXiv 2510.11690"),
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
    """Mean and Student's interval."""
    n = len(values)
    half = float(student(n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(float(np.mean(values)), half, n)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    known = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    if freedom <= len(known):
        return known[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Fisher's expansion


def values_of(runs: Runs, variant: str, measure: str) -> dict[int, float]:
    """A measure by seed, of the runs that have it."""
    return {seed: values[measure] for (name, seed), values in runs.items() if name == variant and measure in values}


def sentence(finding: Finding, first: Variant, second: Variant, runs: Runs, steps: int) -> str:
    """Whether the paper's finding holds in these runs of so many steps: the paired difference over the seeds that both have."""
    measure = MEASURES[finding.measure]
    ours, theirs = (values_of(runs, variant.name, finding.measure) for variant in (first, second))
    seeds = sorted(ours.keys() & theirs.keys())
    start = f"{finding.what}: {finding.claim} ({measure.title}; the paper: {finding.paper})"
    if not seeds:
        return f"{start}: cannot be told, it was not measured of both"
    gain = estimate([measure.sign * (ours[seed] - theirs[seed]) for seed in seeds])
    digits = measure.digits
    first_mean, second_mean = (np.mean([values[seed] for seed in seeds]) for values in (ours, theirs))
    means = f"{finding.better} {first_mean:.{digits}f}, {finding.worse} {second_mean:.{digits}f}"
    sizes = [n / 1e6 for variant in (first, second) for n in values_of(runs, variant.name, "active_parameters").values()]
    size = f", {max(sizes):.3g} M active parameters" if sizes else ""
    here = f"here ({steps} steps{size}, {gain.seeds} seed{'s' if gain.seeds > 1 else ''})"
    if gain.half is None:
        return f"{start}: cannot be told {here}, one seed has no interval: {means}"
    side, sign = ("better", 1) if gain.mean >= 0 else ("worse", -1)
    low, high = sorted(sign * (gain.mean + end) for end in (-gain.half, gain.half))
    by = f"{finding.better} is {side} by {sign * gain.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{start}: {verdict(gain.mean - gain.half, gain.mean + gain.half)} {here}: {means}, {by}"


def findings(whats: Sequence[What], preset: Preset, runs: Runs) -> list[str]:
    """A sentence for each known finding of these comparisons, in runs of this preset."""
    said = []
    for finding in FINDINGS:
        if finding.what in whats:
            named = variants(finding.what, preset)
            said.append(sentence(finding, named[finding.better], named[finding.worse], runs, preset.train.steps))
    return said


def table(names: Sequence[str], runs: Runs) -> list[tuple[str, ...]]:
    """A header and a row for each variant, of the measures that any run has."""
    shown = [name for name in MEASURES if any(name in values for values in runs.values())]
    rows = [("variant", *(MEASURES[name].title for name in shown), "seeds")]
    for name in names:
        cells, seeds = [], 0
        for measure in shown:
            values = list(values_of(runs, name, measure).values())
            seeds = max(seeds, len(values))
            cells.append(cell(estimate(values), MEASURES[measure].digits) if values else "-")
        rows.append((name, *cells, str(seeds)))
    return rows


def cell(value: Estimate, digits: int) -> str:
    """A mean with half of its interval."""
    if value.half is None or digits == 0:
        return f"{value.mean:,.{digits}f}"
    return f"{value.mean:.{digits}f} +- {value.half:.{digits}f}"
