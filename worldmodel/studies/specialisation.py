"""What the experts of a trained mixture specialize in, as in arXiv 2603.03276, section 5: by modality, flow time and task.

The selection rate of expert i for the tokens of modality m is R_m^(i) = C_m^(i) / (N_m k), its share of their N_m k selections. Its
index is S_i = (R_text - R_vision) / (R_text + R_vision), 1 for an expert of text, -1 for one of vision. All of it is measured on
held-out documents with flow times uniform over (0, 1), beside two controls: a router with fresh weights on the same hidden states,
and labels of modality, or flow times, that are shuffled.

Axes: n batches, l layers, e experts, g frames that are noised, r resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from einops import einsum, repeat
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.studies.scaling_fit import student
from worldmodel.studies.selections import Selections

LIMIT = 1 - 1e-9
"""Of correlations, for Fisher's transformation."""
MOST_RAISED = 0.99
"""What a correlation is raised to at most for what the batches scatter."""
MOST_WIDER = 3.0
"""How many times wider that makes its interval at most, on Fisher's scale."""


@dataclass(frozen=True)
class SpecialisationConfig:
    """How specialization is measured."""

    batches: int = 32
    """Batches of held-out documents; intervals come from drawing them anew."""
    rows: int = 16
    """Sequences per batch; their length is the one that the model was trained with."""
    threshold: float = 0.5
    """An expert is one of text from an index S of this on, one of vision down to minus this, and multimodal between: 0.5 means chosen
    three times as often. The paper has these classes; its thresholds are not known, 0.5 is chosen here."""
    time_bins: int = 10
    """Bins of flow time over which an expert's selection is compared (the paper: 10)."""
    resamples: int = 1000
    """Draws of the bootstrap over batches."""
    seed: int = 0
    """Of documents, flow times, noise, the fresh router and the shuffled labels."""

    def __post_init__(self) -> None:
        for name, least in (("batches", 2), ("rows", 1), ("time_bins", 2), ("resamples", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, must lie in (0, 1]")


@dataclass(frozen=True)
class LayerReport:
    """One layer. A number is None where the data give none: no vision expert, no captions or questions."""

    text: int
    """Experts of text."""
    multimodal: int
    vision: int
    """Experts of vision."""
    unused: int
    """Experts that neither text nor vision chose."""
    index: list[float | None]
    """S of each expert."""
    mean_index: float
    """Mean of |S| over the experts in use."""
    shuffled_index: float
    """The same when text and vision tokens exchange their labels at random."""
    text_rate: list[float]
    """R of each expert for text tokens; an even load is 1 / e."""
    vision_rate: list[float]
    action_rate: list[float] | None
    time_variation: float | None
    """Standard deviation over mean of an expert's rate over the bins of flow time, mean over the experts of vision."""
    shuffled_time_variation: float | None
    """The same when the frames exchange their times at random: what chance alone gives."""
    correlation: float | None
    """Pearson's r of the rates between understanding (frames of documents that learn text alone) and generation (noised frames)."""
    correlation_interval: tuple[float, float] | None
    """95 %, bootstrap over batches; of the rates without what the batches scatter, which makes r smaller."""


def selection_rate(counts: Tensor) -> Tensor:
    """Normalize counts (..., e) to rates R (..., e), which sum to 1; NaN where nothing was chosen."""
    return counts / counts.sum(-1, keepdim=True)


def modality_index(text: Tensor, vision: Tensor) -> Tensor:
    """Compute S (..., e) from rates (..., e): from -1, vision, to 1, text; NaN for an expert that neither chooses."""
    return (text - vision) / (text + vision)


def time_variation(frames: Tensor, times: Tensor, bins: int) -> Tensor:
    """Compute the coefficient of variation (l, e) of every expert's rate over the bins of flow time that have frames.

    Args:
        frames: (g, l, e) selections.
        times: (g,) in [0, 1].
        bins: of equal width.
    """
    place = (times * bins).long().clamp(max=bins - 1)
    sums = frames.new_zeros(bins, *frames.shape[1:]).index_add(0, place, frames)
    rates = selection_rate(sums[place.unique()])
    return rates.std(0, unbiased=False) / rates.mean(0)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Compute the correlation over the last axis; NaN where one of them is constant."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def correlation_interval(rates: Sequence[Tensor], replicates: Sequence[Tensor], batches: int) -> Tensor:
    """Compute 95 % intervals (2, l) of the correlation of two rates (l, e) over experts, from replicates (r, l, e) over batches.

    What the batches scatter makes a correlation smaller than that of the rates themselves, which the interval is of: it is raised by
    the two reliabilities (Spearman 1904), on Fisher's scale with Student's quantile. NaN where there is no correlation.
    """
    value, drawn = pearson(*rates), pearson(*replicates).clamp(-LIMIT, LIMIT).atanh()
    reliable = torch.ones_like(value)
    for rate, draws in zip(rates, replicates, strict=True):
        noise = (draws - draws.nanmean(0)).square().nanmean(0).mean(-1) * batches / (batches - 1)
        reliable = reliable * (1 - (noise / rate.var(-1)).clamp(max=0.5))
    most = value.abs().clamp(MOST_RAISED, LIMIT)
    raised = (value / reliable.sqrt()).clamp(-most, most)
    wider = ((1 - value.square()) / (reliable.sqrt() * (1 - raised.square()))).clamp(1, MOST_WIDER)
    spread = (drawn - drawn.nanmean(0)).square().nanmean(0).sqrt() * wider
    half = student(batches - 1) * spread
    return torch.stack([raised.atanh() - half, raised.atanh() + half]).tanh()


def analyse(selections: Selections, config: SpecialisationConfig) -> list[LayerReport]:
    """Report on every layer."""
    generator = torch.Generator().manual_seed(config.seed)
    rates = {kind: selection_rate(counts.sum(0)) for kind, counts in selections.counts.items()}  # (l, e)
    index = modality_index(rates["text"], rates["vision"])
    shuffled = modality_index(rates["shuffled_text"], rates["shuffled_vision"])
    variation = time_variation(selections.frames, selections.times, config.time_bins)
    times = selections.times[torch.randperm(len(selections.times), generator=generator)]
    by_chance = time_variation(selections.frames, times, config.time_bins)
    correlation = pearson(rates["understanding"], rates["generation"])
    n = len(selections.counts["text"])
    weight = torch.zeros(config.resamples, n, dtype=torch.float64)
    weight = weight.scatter_add(1, torch.randint(n, weight.shape, generator=generator), torch.ones_like(weight))
    draws = [
        selection_rate(einsum(weight, selections.counts[kind], "r n, n l e -> r l e")) for kind in ("understanding", "generation")
    ]
    interval = correlation_interval([rates["understanding"], rates["generation"]], draws, n)  # (2, l)
    reports = []
    for layer, s in enumerate(index):
        vision = s <= -config.threshold
        low, high = (_number(bound) for bound in interval[:, layer])
        reports.append(
            LayerReport(
                text=int((s >= config.threshold).sum()),
                multimodal=int((s.abs() < config.threshold).sum()),
                vision=int(vision.sum()),
                unused=int(s.isnan().sum()),
                index=[_number(value) for value in s],
                mean_index=float(s.abs().nanmean()),
                shuffled_index=float(shuffled[layer].abs().nanmean()),
                text_rate=rates["text"][layer].tolist(),
                vision_rate=rates["vision"][layer].tolist(),
                action_rate=None if rates["action"][layer].isnan().any() else rates["action"][layer].tolist(),
                time_variation=_number(variation[layer, vision].nanmean()),
                shuffled_time_variation=_number(by_chance[layer, vision].nanmean()),
                correlation=_number(correlation[layer]),
                correlation_interval=None if low is None or high is None else (low, high),
            )
        )
    return reports


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def to_json(reports: Sequence[LayerReport]) -> list[dict[str, object]]:
    """Return JSON values, one object per layer."""
    return [{"layer": i} | {item.name: getattr(report, item.name) for item in fields(report)} for i, report in enumerate(reports)]


def load_picture(loads: Tensor, cell: int = 8) -> Tensor:
    """Draw what the experts are used for, for a training log: a row of cells per layer, a column per expert.

    Blue is an expert's share of the selections by text and actions, red its share of those by visual tokens, as in the figure of
    `worldmodel experts`: half lit at an even load, fully from twice that on.

    Args:
        loads: (l, 2, e) selections by visual / other tokens, as `Trunk.loads()` gives them.
        cell: pixels per cell.

    Returns:
        (1, 3, l * cell, e * cell) in [0, 1].
    """
    shares = loads.float() / loads.sum(-1, keepdim=True).clamp_min(1)
    vision, other = (shares * loads.shape[-1] / 2).clamp(0, 1).unbind(1)
    colours = torch.stack([vision, torch.zeros_like(other), other])  # (3, l, e)
    return repeat(colours, "c l e -> 1 c (l h) (e w)", h=cell, w=cell)
