"""IsoFLOP studies: models of several sizes trained to the same budgets of operations, and what their held-out losses say.

As arXiv 2603.03276 (section 7) does it: for each budget C the size N (active parameters) and the tokens D (of all modalities) are
traded against each other, for text and for vision apart, dense and mixture of experts. Its finding, tested here in sign: vision
needs more data than language (D_opt ~ C^b with b = 0.63 against 0.53), and a mixture of experts narrows the gap (0.64, 0.59).

What differs at small scale: C is counted operation by operation (`worldmodel.flops`: attention and heads as well, since leaving
them out bends the exponents of small models, arXiv 2406.19146), where the paper takes 6 N D; warm-up and averaging of the weights
last the same share of every run; the learning rate goes with the width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from worldmodel.batch import PackedBatch
from worldmodel.errors import UserError
from worldmodel.flops import parameter_counts, training_flops
from worldmodel.model import ModelConfig
from worldmodel.moe import FeedForwardKind
from worldmodel.presets import Preset
from worldmodel.studies.scaling_fit import Curve, Exponent, ParabolaFit, SurfaceFit, difference, fit_parabolas, fit_surface, verdict

Sparsity = Literal["dense", "moe"]
MODALITIES = ("language", "vision")
PAPER: dict[tuple[str, str], tuple[float, float]] = {
    ("dense", "language"): (0.47, 0.53),
    ("dense", "vision"): (0.37, 0.63),
    ("moe", "language"): (0.41, 0.59),
    ("moe", "vision"): (0.36, 0.64),
}
"""(a, b) of arXiv 2603.03276, section 7."""


@dataclass(frozen=True)
class Point:
    """One run of the grid."""

    kind: Sparsity
    """Feed-forward of the model."""
    size: float
    """Multiple of the preset's width and depth."""
    budget: float
    """Floating-point operations asked for."""
    width: int
    depth: int
    total: int
    """Parameters."""
    active: int
    """N: parameters that one token is multiplied with. The table of text tokens, which is looked up, does not count; the text head
    does."""
    steps: int
    """Optimizer steps that spend the budget."""
    tokens: int
    """D: positions trained on, of all modalities, padding left out."""

    @property
    def name(self) -> str:
        """Name of the point's run folder."""
        return f"{self.kind}_size{self.size:g}_{self.budget:g}"


@dataclass(frozen=True)
class Measured:
    """A point that has been run."""

    point: Point
    losses: dict[str, float]
    """By modality: held-out text in nats per token, held-out video as flow loss."""
    step_seconds: float
    """Spent in steps."""
    seconds: float | None
    """From start to measured losses; None where the run was interrupted in between."""


def with_feed_forward(preset: Preset, kind: FeedForwardKind) -> Preset:
    """Configure the preset with another feed-forward of as many active parameters per token.

    A mixture that the preset does not describe itself gets experts of hidden width hidden / slots, a dense layer in place of the
    preset's mixture hidden width slots * expert_hidden.
    """
    trunk = preset.model.trunk
    if kind == trunk.feed_forward:
        return preset
    moe = trunk.moe
    if kind == "moe":
        hidden = max(8, 8 * round(trunk.hidden / moe.slots / 8))
        trunk = replace(trunk, feed_forward=kind, moe=replace(moe, expert_hidden=hidden, granularity=None))
    elif trunk.feed_forward == "moe":
        trunk = replace(trunk, feed_forward=kind, hidden=moe.slots * moe.hidden_for(trunk.width))
    else:
        trunk = replace(trunk, feed_forward=kind)
    return replace(preset, model=replace(preset.model, trunk=trunk))


def scaled(preset: Preset, size: float, kind: Sparsity) -> Preset:
    """Make the preset `size` times as wide and as deep.

    The width of a head, query heads per key/value head, and hidden widths per width stay; so do the number of experts, those that a
    token visits, and with them sparsity and granularity. Depth is at least 1 and width at least one group of heads, so small sizes
    may be the same model. Learning rates follow the width by muP, with the preset's width as the base, unless the preset has a base
    of its own.
    """
    dense: FeedForwardKind = "modality" if preset.model.trunk.feed_forward == "moe" else preset.model.trunk.feed_forward
    preset = with_feed_forward(preset, "moe" if kind == "moe" else dense)
    model, trunk = preset.model, preset.model.trunk
    kv_heads = max(1, round(size * trunk.kv_heads))
    heads = trunk.heads // trunk.kv_heads * kv_heads
    width = trunk.width // trunk.heads * heads
    ratio = width / trunk.width
    moe = trunk.moe
    if moe.granularity is None:
        moe = replace(moe, expert_hidden=_eights(ratio * moe.expert_hidden))
    larger = replace(
        trunk,
        width=width,
        depth=max(1, round(size * trunk.depth)),
        heads=heads,
        kv_heads=kv_heads,
        hidden=_eights(ratio * trunk.hidden),
        moe=moe,
    )
    wide_head = _eights(ratio * model.wide_head) if model.wide_head else 0
    try:
        resized = replace(model, trunk=larger, wide_head=wide_head, base_width=model.base_width or trunk.width)
    except UserError as error:
        raise UserError(f"size {size:g}: {error}") from None
    return replace(preset, model=resized)


def _eights(value: float) -> int:
    """Round to the nearest multiple of 8, at least 8."""
    return max(8, 8 * round(value / 8))


def for_steps(preset: Preset, steps: int) -> Preset:
    """Stretch the schedule to another number of steps: warm-up and averaging last the same share; no samples on the way.

    A checkpoint is written every tenth of the run, or as often as the preset does if that is rarer.
    """
    train, share = preset.train, steps / preset.train.steps
    decay = max(0.0, 1 - (1 - train.ema_decay) / share)
    return replace(
        preset,
        train=replace(
            train,
            steps=steps,
            warmup_steps=min(steps, max(1, round(train.warmup_steps * share))),
            ema_decay=decay,
            sample_every=0,
            validate_every=0,
            checkpoint_every=max(train.checkpoint_every, -(-steps // 10)),
            keep_checkpoints=1,
        ),
    )


def plan(config: ModelConfig, kind: Sparsity, size: float, budgets: Sequence[float], batches: Sequence[PackedBatch]) -> list[Point]:
    """Plan the points of one model at all budgets.

    Args:
        config: the model, fitted to codec and tokenizer.
        kind: its feed-forward.
        size: multiple of the preset's width and depth.
        budgets: floating-point operations.
        batches: of the mixture; their mean stands for a step's operations and tokens.
    """
    counts = parameter_counts(config)
    per_step = float(np.mean([training_flops(config, batch) for batch in batches]))
    tokens = float(np.mean([batch.tokens for batch in batches]))
    points = []
    for budget in budgets:
        steps = round(budget / per_step)
        active = counts.active - config.vocab_size * config.trunk.width
        shape = (config.trunk.width, config.trunk.depth, counts.total, active)
        points.append(Point(kind, size, budget, *shape, steps, round(steps * tokens)))
    return points


def check_grid(points: Sequence[Point]) -> None:
    """Refuse a grid whose sizes give the same model twice.

    Raises:
        UserError: naming two of them.
    """
    seen: dict[tuple[str, int, int], float] = {}
    for point in points:
        shape = (point.kind, point.width, point.depth)
        if seen.setdefault(shape, point.size) != point.size:
            raise UserError(
                f"sizes {seen[shape]:g} and {point.size:g} are the same model of width {point.width} and depth {point.depth}: "
                "take sizes that are further apart"
            )


@dataclass(frozen=True)
class Fits:
    """Both fits of one kind of model on one modality."""

    curve: Curve
    parabolas: ParabolaFit
    surface: SurfaceFit


@dataclass(frozen=True)
class Study:
    """All fits, and what they say of the paper's findings."""

    fits: dict[tuple[str, str], Fits] = field(default_factory=dict)
    """By kind and modality."""

    def gap(self, kind: str, approach: str) -> Exponent | None:
        """Compute how much more data than language vision asks for: b of vision minus b of language."""
        if any((kind, modality) not in self.fits for modality in MODALITIES):
            return None
        language, vision = (_b(self.fits[kind, modality], approach) for modality in MODALITIES)
        return difference(vision, language)

    @property
    def here(self) -> str:
        """The runs that the sentences are based on."""
        curves = [fits.curve for (_, modality), fits in self.fits.items() if modality == MODALITIES[0]]
        sizes, budgets = (np.concatenate([getattr(curve, name) for curve in curves]) for name in ("parameters", "flops"))
        spans = [f"{values.min():.3g} to {values.max():.3g}" for values in (sizes, budgets)]
        return f"{len(sizes)} runs of {spans[0]} active parameters and {spans[1]} FLOPs"

    def sentences(self) -> list[str]:
        """Write whether the paper's findings hold in these runs, by each approach."""
        lines = []
        for approach, title in APPROACHES.items():
            gaps = {kind: self.gap(kind, approach) for kind in ("dense", "moe")}
            for kind, gap in gaps.items():
                if any(which == kind for which, _ in self.fits):
                    paper = PAPER[kind, "vision"][1] - PAPER[kind, "language"][1]
                    claim = f"vision needs more data than language ({kind}, b_vision - b_language)"
                    lines.append(sentence(title, claim, gap, f"the paper has {paper:+.2f}"))
            if all(any(which == kind for which, _ in self.fits) for kind in gaps):
                narrower = difference(gaps["dense"], gaps["moe"])
                lines.append(sentence(title, "a mixture of experts narrows the gap (dense - moe)", narrower, "the paper has +0.05"))
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return exponents, intervals, optima, problems, and sentences with the runs that they are based on."""
        record = {f"{kind}/{modality}": _fits_json(fits, PAPER[kind, modality]) for (kind, modality), fits in self.fits.items()}
        return {"fits": record, "runs": self.here, "findings": self.sentences()}


APPROACHES = {"surface": "approach 3", "parabolas": "approach 2"}


def _b(fits: Fits, approach: str) -> Exponent | None:
    """Return an exponent that can be compared; None for a surface whose exponents the runs do not determine."""
    if approach == "surface":
        return None if fits.surface.problem else fits.surface.b
    return fits.parabolas.b


def sentence(title: str, claim: str, value: Exponent | None, remark: str) -> str:
    """Write one finding in words, with its interval."""
    if value is None:
        return f"{title}: {claim}: inconclusive here, there are no exponents to compare; {remark}"
    if value.low is None or value.high is None:
        return f"{title}: {claim}: inconclusive here, {value.value:+.3f} without an interval; {remark}"
    word = verdict(value.low, value.high)
    why = ", the interval is too wide" if word == "inconclusive" else ""
    return f"{title}: {claim}: {word} here{why}, {value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]; {remark}"


def study(measured: Iterable[Measured], replicates: int, seed: int) -> Study:
    """Fit everything that the runs allow; kinds are independent runs, modalities are losses of the same runs."""
    fits = {}
    measured = list(measured)
    for offset, kind in enumerate(("dense", "moe")):
        runs = [m for m in measured if m.point.kind == kind]
        for modality in MODALITIES if runs else ():
            columns = [(m.point.budget, m.point.active, m.point.tokens, m.losses[modality]) for m in runs]
            curve = Curve(*np.array(columns, np.float64).T)
            parabolas = fit_parabolas(curve, replicates, seed * 2 + offset)
            fits[kind, modality] = Fits(curve, parabolas, fit_surface(curve, replicates, seed * 2 + offset))
    return Study(fits)


def _fits_json(fits: Fits, paper: tuple[float, float]) -> dict[str, Any]:
    two, three = fits.parabolas, fits.surface
    shape = {
        name: _number(getattr(three, name)) for name in ("floor", "size_coefficient", "alpha", "data_coefficient", "beta", "residual")
    }
    return {
        "approach_2": {
            "a": two.a and two.a.to_json(),
            "b": two.b and two.b.to_json(),
            "problem": two.problem,
            "optima": [
                {"flops": o.flops, "parameters": _number(o.parameters), "tokens": _number(o.tokens), "problem": o.problem}
                for o in two.optima
            ],
        },
        "approach_3": {"a": three.a and three.a.to_json(), "b": three.b and three.b.to_json(), "problem": three.problem, **shape},
        "paper": {"a": paper[0], "b": paper[1]},
    }


def _number(value: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return float(value) if np.isfinite(value) else None
