"""What the experts of a mixture serve, as a table and a figure."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from worldmodel.datasets.outputs import MARK
from worldmodel.studies.specialisation import LayerReport

NOTES = """
S: 1 serves text alone, -1 vision alone; fresh router: mean |S| of new weights on the same hidden states; shuffled: labels, or flow
times, at random; variation: standard deviation over mean of the vision experts' selection over flow time.
""".strip()
"""What a reader of the table must know."""


def table(reports: Sequence[LayerReport], controls: Sequence[LayerReport]) -> list[tuple[str, ...]]:
    """Format rows of cells, one per layer under their headings."""
    names = ("layer", "text", "multimodal", "vision", "unused", "mean |S|", "fresh router", "shuffled")
    rows: list[tuple[str, ...]] = [(*names, "variation over time", "shuffled", "understanding-generation r")]
    for layer, (report, control) in enumerate(zip(reports, controls, strict=True)):
        counts = (report.text, report.multimodal, report.vision, report.unused)
        indices = (report.mean_index, control.mean_index, report.shuffled_index)
        spread = (report.time_variation, report.shuffled_time_variation)
        interval = report.correlation_interval
        r = _cell(report.correlation) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
        rows.append((str(layer), *map(str, counts), *map(_cell, indices), *map(_cell, spread), r))
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw(reports: Sequence[LayerReport], controls: Sequence[LayerReport], threshold: float) -> bytes:
    """Draw a PNG of four panels: the index of every expert, their classes, variation over time and correlation, by layer."""
    figure = Figure(figsize=(12, 8), layout="constrained", dpi=110)
    axes = figure.subplots(2, 2)
    layers = np.arange(len(reports))
    index = np.array([report.index for report in reports], float)  # None becomes NaN
    picture = axes[0, 0].imshow(np.sort(index, axis=1), aspect="auto", cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes[0, 0], label="S: -1 vision, 1 text")
    axes[0, 0].set(title="Index S of the experts, sorted", xlabel="expert", ylabel="layer", yticks=layers)
    bottom = np.zeros(len(reports))
    for name, colour in (("text", "tab:blue"), ("multimodal", "0.7"), ("vision", "tab:red"), ("unused", "white")):
        counts = np.array([getattr(report, name) for report in reports])
        axes[0, 1].bar(layers, counts, bottom=bottom, color=colour, edgecolor="0.4", linewidth=0.4, label=name, zorder=2)
        bottom += counts
    axes[0, 1].set(ylim=(0, 1.12 * bottom.max()))  # the legend lies above the bars
    _finish(axes[0, 1], f"Experts of text (S >= {threshold:g}) and vision (S <= -{threshold:g})", "experts", len(reports), columns=4)
    _lines(axes[1, 0], reports, "trained", lambda report: report.time_variation, "o-")
    _lines(axes[1, 0], reports, "flow times shuffled", lambda report: report.shuffled_time_variation, "x:")
    axes[1, 0].set(ylim=(0, None))
    if not any(report.vision for report in reports):
        axes[1, 0].text(0.5, 0.5, "no layer has an expert of vision", ha="center", transform=axes[1, 0].transAxes)
    _finish(axes[1, 0], "Vision experts: variation of selection over flow time", "standard deviation / mean", len(reports))
    _lines(axes[1, 1], reports, "trained", lambda report: report.correlation, "o-")
    _lines(axes[1, 1], controls, "fresh router", lambda report: report.correlation, "x:")
    low, high = np.array([report.correlation_interval or (np.nan, np.nan) for report in reports]).T
    axes[1, 1].fill_between(layers, low, high, alpha=0.2)
    _finish(axes[1, 1], "Understanding and generation: correlation of selection", "Pearson's r, 95 % of resamples", len(reports))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": MARK})
    return buffer.getvalue()


def _lines(axes: Axes, reports: Sequence[LayerReport], label: str, value: Callable[[LayerReport], Any], style: str) -> None:
    axes.plot(np.arange(len(reports)), np.array([value(report) for report in reports], float), style, label=label)


def _finish(axes: Axes, title: str, unit: str, layers: int, columns: int = 1) -> None:
    axes.set(title=title, xlabel="layer", ylabel=unit, xlim=(-0.5, layers - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=columns)
