"""One picture of an IsoFLOP study: losses over sizes with their parabolas, and the optima over the budgets with their power laws."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from worldmodel.studies.scaling import MODALITIES, PAPER, Fits, Study
from worldmodel.studies.scaling_fit import Exponent

UNITS = {"language": "held-out text, nats per token", "vision": "held-out video, flow loss"}


def draw(study: Study) -> bytes:
    """Draw a PNG: a row for each modality, dense and mixture of experts side by side."""
    kinds = [kind for kind in ("dense", "moe") if any(which == kind for which, _ in study.fits)]
    figure = Figure(figsize=(8.4 * len(kinds), 7.6), layout="constrained", dpi=110)
    axes = figure.subplots(len(MODALITIES), 2 * len(kinds), squeeze=False)
    for row, modality in enumerate(MODALITIES):
        for column, kind in enumerate(kinds):
            fits = study.fits[kind, modality]
            _losses(axes[row, 2 * column], fits, f"{kind}: {modality}", UNITS[modality])
            _optima(axes[row, 2 * column + 1], fits, PAPER[kind, modality], f"{kind}: optima of {modality}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _losses(axes: Axes, fits: Fits, title: str, unit: str) -> None:
    curve = fits.curve
    for k, optimum in enumerate(fits.parabolas.optima):
        at = curve.flops == optimum.flops
        sizes = curve.parameters[at]
        colour = f"C{k % 10}"
        axes.plot(sizes, curve.loss[at], "o", color=colour, label=f"{optimum.flops:.2g} FLOPs")
        if len(np.unique(sizes)) < 3:
            continue
        x = np.linspace(np.log(sizes.min()), np.log(sizes.max()), 60)
        axes.plot(np.exp(x), np.polyval(optimum.polynomial, x), color=colour, linestyle=":" if optimum.problem else "-")
        if not optimum.problem:
            axes.plot(optimum.parameters, np.polyval(optimum.polynomial, np.log(optimum.parameters)), "*", color=colour, markersize=12)
    axes.set(xscale="log", title=title, xlabel="N, active parameters", ylabel=unit)
    axes.grid(alpha=0.3)
    dotted = any(line.get_linestyle() == ":" for line in axes.lines)
    axes.legend(frameon=False, fontsize="small", title="dotted: no optimum inside" if dotted else None, title_fontsize="small")


def _optima(axes: Axes, fits: Fits, paper: tuple[float, float], title: str) -> None:
    used = [optimum for optimum in fits.parabolas.optima if not optimum.problem]
    axes.set_title(title)
    if not used:
        few = all(optimum.problem.startswith("too few sizes") for optimum in fits.parabolas.optima)
        why = "a parabola needs three sizes" if few else "no budget has its optimum\ninside the grid"
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()  # ticks would be made up
        return
    flops = np.unique(fits.curve.flops)
    range_ = np.array([flops.min() / 1.3, flops.max() * 1.3])
    three = (fits.surface.a, fits.surface.b) if not fits.surface.problem else (None, None)
    two = (fits.parabolas.a, fits.parabolas.b)
    for k, (name, attribute) in enumerate((("N", "parameters"), ("D", "tokens"))):
        colour, values = f"C{k}", np.array([getattr(optimum, attribute) for optimum in used])
        middle = np.exp(np.mean(np.log([o.flops for o in used]))), np.exp(np.mean(np.log(values)))
        axes.plot([o.flops for o in used], values, "o", color=colour)
        for style, number, exponent in (("-", "2", two[k]), ("-.", "3", three[k])):
            if exponent is not None:
                label = f"{name} approach {number}: {_interval(exponent)}"
                axes.plot(range_, middle[1] * (range_ / middle[0]) ** exponent.value, style, color=colour, label=label)
        axes.plot(range_, middle[1] * (range_ / middle[0]) ** paper[k], "--", color="0.5", label=f"{name} the paper's: {paper[k]:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="C, FLOPs", ylabel="N or D at the optimum")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")


def _interval(exponent: Exponent) -> str:
    if exponent.low is None or exponent.high is None:
        return f"{exponent.value:.2f}"
    return f"{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"
