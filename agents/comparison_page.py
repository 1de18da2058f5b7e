"""A comparison of runs as tables for a terminal and as sections of a report."""

from collections.abc import Sequence

from worldmodel.agents.report import Curves, Section, Table, TextSection
from worldmodel.agents.run_comparison import Comparison, Figure, Pair
from worldmodel.datasets.records import shortened

PAIRED = ("first", "second", "controller", "goals", "second - first", "95 % interval", "better / worse", "p")
NOTE = (
    "The same problems, so the difference is taken problem by problem; the interval is over episodes. p: McNemar's exact test of the "
    "problems on which the two differ, which takes problems for independent."
)


def settings_rows(comparison: Comparison) -> list[list[str]]:
    """Make a row for each setting that differs."""
    return [[key, *("-" if value is None else _said(value) for value in values)] for key, values in comparison.settings.items()]


def score_rows(comparison: Comparison) -> list[list[str]]:
    """Make a row for each figure that runs have in common."""
    return [[key, *map(_figure, figures)] for key, figures in comparison.scores.items()]


def pair_rows(pairs: Sequence[Pair]) -> list[list[str]]:
    """Make a row for each pair of runs, controller and question."""
    rows = []
    for pair in pairs:
        found = pair.difference
        interval = "-" if found.low is None else f"{found.low:+.1%} to {found.high:+.1%}"
        gain, counts = f"{found.value:+.1%}", f"{found.better} / {found.worse}"
        p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
        rows.append([pair.first, pair.second, pair.controller, pair.what, gain, interval, counts, p])
    return rows


def tables(comparison: Comparison) -> list[Table]:
    """Lay out what differs, the figures, and the paired differences; what is empty is left out."""
    found = [
        Table("Settings that differ", ("setting", *comparison.names), settings_rows(comparison)),
        Table("Figures", ("figure", *comparison.names), score_rows(comparison), "In brackets: 95 % intervals, where there are any."),
        Table("On the same problems", PAIRED, pair_rows(comparison.pairs), NOTE),
    ]
    return [table for table in found if table.rows]


def sections(comparison: Comparison) -> list[Section]:
    """Lay out the page: the tables, then a plot for each curve."""
    same: list[Section] = [] if comparison.settings else [TextSection("Settings", "No setting differs.")]
    plots = [Curves(name, curves, "step", name) for name, curves in comparison.curves.items()]
    return [*same, *tables(comparison), *plots]


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.value:.4g}" + ("" if figure.low is None else f" [{figure.low:.3g}, {figure.high:.3g}]")


def _said(value: object) -> str:
    return value if isinstance(value, str) and value else shortened(value, 40)
